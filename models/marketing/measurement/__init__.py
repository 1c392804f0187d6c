"""Did it work? Tests for many zeros and heavy tails, triggered analysis, and the checks that come before both."""
