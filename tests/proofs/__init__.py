"""One file per subject of `make prove`."""
