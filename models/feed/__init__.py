"""Systems that choose what a member sees."""
