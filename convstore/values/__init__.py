"""What travels between the rooms: results, parameters and their rules."""
