"""Database files that earlier releases left, and what made them."""
