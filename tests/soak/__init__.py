"""A chaos run on both databases: `make soak`."""
