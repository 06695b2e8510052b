"""What search knows, without I/O."""
