"""The openai client."""
