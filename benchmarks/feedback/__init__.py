"""Feedback against the bare sum of what it must do."""
