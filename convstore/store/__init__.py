"""What callers hold: stores, views and streams."""
