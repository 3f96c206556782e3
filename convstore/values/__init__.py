"""The values that travel between the rooms, and the rules for their contents."""
