"""What a kind of data looks like."""
