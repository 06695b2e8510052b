"""`diapason feedback`: saying what helped, and reading what was said."""
