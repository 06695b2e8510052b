"""`diapason demo`: the whole loop on the sample films, measured."""
