"""`diapason collections`, and what is done with a whole collection."""
