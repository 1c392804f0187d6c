"""A click model with a transformer over the user's history, which scores many candidates in one pass over it."""
