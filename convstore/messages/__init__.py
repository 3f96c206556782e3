"""Messages as plain values: no input, no output, no clock."""
