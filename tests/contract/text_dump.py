"""Look for a text in every column of every table of a database."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, select, text

from convstore.db.search_index import hash_term
from convstore.db.tables import metadata, search_documents
from convstore.messages.codec import digest
from convstore.search.folded_text import fold
from convstore.search.terms import find_terms


def find_text(connection: Connection, wanted: str, owner: str | None = None) -> list[str]:
    """Return the columns in which a text occurs, as it is or as JSON spells it, and the terms of it in the index.

    Args:
        owner: look only at this owner's rows; None: at all rows.
    """
    spellings = {wanted, json.dumps(wanted)[1:-1], json.dumps(json.dumps(wanted)[1:-1])[1:-1]}
    found = []
    for table in metadata.sorted_tables:
        if owner is not None and "owner" not in table.c:
            continue
        chosen = (table.c.owner == owner,) if owner is not None else ()
        for row in connection.execute(select(table).where(*chosen)).mappings():
            for name, value in row.items():
                spelled = value.decode("latin-1") if isinstance(value, bytes) else str(value)
                if any(spelling in spelled for spelling in spellings):
                    found.append(f"{table.name}.{name}: {spelled:.80}")
    return found + [f"index: {term}" for term in sorted(find_terms(fold(wanted))) if _has_term(connection, term, owner)]


def _has_term(connection: Connection, term: str, owner: str | None) -> bool:
    if connection.dialect.name != "sqlite":
        hashes: set[int] = set()
        chosen = (search_documents.c.owner == owner,) if owner is not None else ()
        for row in connection.execute(select(search_documents.c.terms).where(*chosen)):
            hashes.update(row.terms or ())
        return hash_term(term) in hashes
    connection.execute(
        text("CREATE VIRTUAL TABLE IF NOT EXISTS temp.found_terms USING fts5vocab(main, convstore_search_terms, 'row')")
    )
    rows = connection.execute(text("SELECT doc FROM temp.found_terms WHERE term = :term"), {"term": term}).all()
    return any(row.doc for row in rows)


def find_digests(connection: Connection, guesses: list[dict[str, Any]]) -> list[str]:
    """Return the columns that hold the digest of a guessed value: with it, someone could test guesses."""
    wanted = {digest(b"", guess) for guess in guesses}
    return [
        f"{table.name}.{name}"
        for table in metadata.sorted_tables
        for row in connection.execute(select(table)).mappings()
        for name, value in row.items()
        if isinstance(value, bytes | memoryview) and bytes(value) in wanted
    ]
