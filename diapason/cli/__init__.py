"""The `diapason` command: an embedded stack, and a client of any stack."""
