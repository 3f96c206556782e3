"""The database: the only place with SQL.

`models` has the tables; `conversations`, `messages` and `turns` have one plain function for each unit of work, taking a
SQLAlchemy `Connection` and returning plain values; `database` has engines and transactions; `schema` has migrations.
"""
