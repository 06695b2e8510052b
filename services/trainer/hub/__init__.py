"""Pushing versions to a model hub: the card, the push, and the process that uploads."""
