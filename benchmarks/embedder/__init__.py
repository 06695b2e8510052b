"""How fast the embedder is, and how calm while models change: `python -m benchmarks.embedder`."""
