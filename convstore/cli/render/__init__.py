"""Print results for people and scripts: text, JSON, tables and trees."""
