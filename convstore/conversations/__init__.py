"""What needs no model: one transaction each."""
