"""Feedback: what searches showed, what people said of it, and what training may conclude."""
