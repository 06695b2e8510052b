"""The embedder: turns text into vectors with exactly the version asked for."""
