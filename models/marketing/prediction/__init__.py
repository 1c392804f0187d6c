"""What a member will do: lifetime value, response, uplift, and how sure one is."""
