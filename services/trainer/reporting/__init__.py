"""A run told as a page, or as JSON: what it learned from, what came of it, and how sure that is."""
