"""Talk with a model at a prompt."""
