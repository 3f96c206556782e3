"""Find conversations without what reads their messages: for programs that must start fast, such as `convstore list`."""

from __future__ import annotations

from typing import Self

from convstore.db.transactions import OwnTransactions
from convstore.leases.lease_watch import DEFAULT_LEASE_SECONDS
from convstore.store.assembly import make_finding_services, open_given
from convstore.store.find_methods import FindMethods
from convstore.values.validation import check_owner


class Finder(FindMethods):
    """Conversations in a database, to be found.

    Args:
        url: as for `Store`.
        schema: as for `Store`.
        owner: owner of the conversations.
    """

    def __init__(self, url: str | None, *, schema: str | None, owner: str) -> None:
        database = open_given(url, None, schema)
        services = make_finding_services(database, DEFAULT_LEASE_SECONDS)
        self._own = OwnTransactions(database, services)
        super().__init__(self._own, check_owner(owner))

    def list_owners(self, *, unindexed: bool) -> list[str]:
        """Return the owners of conversations in the database: for administrators.

        Args:
            unindexed: return only those with messages that the search index does not have yet.
        """
        from convstore.conversations.search_filling import list_owners  # `list` needs none of the search

        return self._transactions.read(list_owners, unindexed=unindexed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections to the database."""
        self._own.close()
