"""Hold all SQL: a module for each kind of row, the engine, the tables, upgrades."""
