"""Adaptive heuristics: pacing of budgets, bids from shadow prices, content by bandit and program, look-alikes."""
