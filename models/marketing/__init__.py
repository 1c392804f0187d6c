"""Which member gets which offer when all share the same budgets, and what it brought."""
