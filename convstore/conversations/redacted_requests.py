"""After a redaction, no digest over the old text of clients' requests stays, and conversations are still found."""

from __future__ import annotations

from collections.abc import Iterable

from convstore.db.client_request_rows import forget_digests, set_tail
from convstore.db.fork_family import ForkFamily
from convstore.db.head_rows import read_head
from convstore.db.history_rows import Reach, read_path_end
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import ConversationNotFound, DamagedRow
from convstore.messages.matching_form import LEAST_EXCHANGES, digest_last_exchanges
from convstore.values.identifiers import ConversationKey, Seq


def forget_requests(work: UnitOfWork, owner: str, first: dict[str, Seq], family: ForkFamily) -> None:
    """Remove the digests of requests that may have had a message; find heads by the messages that follow it.

    Args:
        first: the earliest message that was rewritten, by the conversation that keeps it.
        family: the forks of the owner: one has the message in its past, under the same number.
    """
    for id, seq in _list_sharing(first, family):
        key = ConversationKey(owner, id)
        forget_digests(work.connection, key, seq)
        try:
            head, lineage = read_head(work.connection, key)
        except ConversationNotFound:
            continue  # it is deleted: no request goes on there
        try:
            path = read_path_end(work.connection, lineage, head.seq, Reach(turns=LEAST_EXCHANGES))
        except DamagedRow:  # what is left of it is named elsewhere: no list is found by it
            path = []
        set_tail(work.connection, key, head.seq, digest_last_exchanges([record.message for record in path]))


def _list_sharing(first: dict[str, Seq], family: ForkFamily) -> Iterable[tuple[str, Seq]]:
    found = dict(first)
    for home, seq in first.items():
        for id in family.list_sharing(home, seq):
            found[id] = min(seq, found.get(id, seq))
    return sorted(found.items())
