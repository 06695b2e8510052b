"""Feedback killed at random moments while many write: what was acknowledged is there, once (I5)."""
