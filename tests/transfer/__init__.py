"""Test the readers of other programs' files."""
