"""A conversation with a real, local model, by the real program."""
