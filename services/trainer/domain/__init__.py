"""What the trainer decides, without I/O."""
