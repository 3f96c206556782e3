"""The provider of a model: its openai client, its answers and its errors."""
