"""What a `Store` promises, held to every database that it runs on: one body for each promise."""
