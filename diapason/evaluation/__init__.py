"""How well a collection answers queries whose right answers are known."""
