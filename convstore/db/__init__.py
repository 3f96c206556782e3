"""All SQL: one module for each kind of row, the engine, the tables, the migrations."""
