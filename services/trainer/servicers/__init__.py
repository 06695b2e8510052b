"""The contracts, translated to and from the store and the peers."""
