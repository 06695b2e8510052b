"""The trainer: runs, gates, the registry of versions, and rollouts."""
