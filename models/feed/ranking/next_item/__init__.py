"""The next item of a user among all items: a transformer over her history, under a softmax over the catalogue."""
