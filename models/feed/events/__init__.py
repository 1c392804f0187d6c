"""What happened in a feed, and all that rankers share about it: tables, splits, checks, metrics, plain baselines."""
