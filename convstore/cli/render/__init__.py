"""How results reach people and scripts: text, JSON, tables and trees."""
