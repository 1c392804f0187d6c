"""Ranking: a gated transformer over a member's history orders the candidates of a session (LiGR)."""
