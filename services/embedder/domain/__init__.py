"""Decisions of the embedder that need no I/O."""
