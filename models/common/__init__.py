"""What at least three systems share."""
