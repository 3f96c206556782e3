"""What conversations used and cost: prices and reports."""
