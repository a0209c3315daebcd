"""What scores are for: estimation by maximum likelihood."""
