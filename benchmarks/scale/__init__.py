"""How the embedded engine grows with the number of vectors: time, recall, memory, disk."""
