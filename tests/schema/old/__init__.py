"""Database files of earlier releases, and the code that made them."""
