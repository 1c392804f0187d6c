"""The outside world, one door per service."""
