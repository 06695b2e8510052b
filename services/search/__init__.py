"""Search: documents, the indexes that hold their vectors, and the routes that say which serves."""
