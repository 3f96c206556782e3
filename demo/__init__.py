"""A demo: a conversation of the real program with a real, local model."""
