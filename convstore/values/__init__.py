"""Define the values that the packages exchange, and the rules for their contents."""
