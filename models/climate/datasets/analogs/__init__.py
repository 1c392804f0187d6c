"""Daily sea-level pressure and temperature over Western Europe, to find similar days in."""
