"""The search service against the sum of its parts."""
