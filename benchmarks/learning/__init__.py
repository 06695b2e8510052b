"""What tuning on judgments gains, and what it costs, on data with a test split of its own."""
