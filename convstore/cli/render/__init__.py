"""What commands share on the way out: text, JSON, trees."""
