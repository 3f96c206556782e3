"""What commands share on the way in: options and arguments."""
