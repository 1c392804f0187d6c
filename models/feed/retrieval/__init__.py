"""LiNR: exhaustive retrieval under attribute filters, as one differentiable module."""
