"""A line through points: the smallest system that learns."""
