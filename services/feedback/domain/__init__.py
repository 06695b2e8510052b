"""What feedback means, without I/O."""
