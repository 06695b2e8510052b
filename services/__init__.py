"""The applications. Each runs by `python -m services.<name>`; none imports another."""
