"""What it costs: each file times one thing beside the plain ways of doing it."""
