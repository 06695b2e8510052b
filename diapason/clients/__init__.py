"""Parts of the client, by service. `diapason.client` is what callers import."""
