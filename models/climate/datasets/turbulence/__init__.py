"""Aviation turbulence: pilots' reports on a grid of days and flight levels, and the air around them."""
