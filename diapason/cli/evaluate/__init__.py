"""`diapason eval` and `diapason eval-compare`: retrieval quality, measured and compared."""
