"""What a backend service installs: contracts, a typed client and the `diapason` command."""
