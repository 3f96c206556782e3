"""Search: find the messages and titles that match a query, newest first.

The index selects texts with the query's terms, and each is read and compared. So the text decides, and SQLite and
PostgreSQL find the same. A query without words reads the newest texts one after another instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any

from convstore.db import search_backlog, search_rows
from convstore.db.ancestors import find_ancestors
from convstore.db.connection import Connection
from convstore.db.drawer_rows import has_tag, list_tagged, read_rating
from convstore.db.fork_sharing import Lineage, find_message_home, list_origins, read_lineage
from convstore.db.message_rows import read_messages
from convstore.db.row_errors import DECODING_ERRORS, conversation_not_found, damaged_row
from convstore.db.search_documents import iterate_by_terms
from convstore.db.search_hashes import iterate_by_hashes
from convstore.db.search_index import (
    DocumentKey,
    IndexKind,
    count_microseconds,
    find_kind,
    make_conversation_term,
    make_moment,
    make_prefix_term,
)
from convstore.db.search_rows import Fork
from convstore.db.search_selection import Span, TermFilter, make_span
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import DamagedRow
from convstore.messages.storable_text import from_column
from convstore.search.query import Query
from convstore.search.relevance import rank_texts
from convstore.search.searched_text import extract_searched_text, join_texts
from convstore.search.snippet import cut_snippet
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq
from convstore.values.results import TurnStatus
from convstore.values.search_results import SearchCursor, SearchHit, SearchRequest, SearchResults

_FIRST_PAGE, _NEXT_PAGE, _NEWEST = 200, 800, 1_000
"""How many of the newest texts are read at a time, and in all for a query that the index may also answer."""
_READ_AT_ONCE = 64
_MOST_TAGGED = 50
"""If a tag has no more conversations, the index selects the texts of these."""
MOST_RANKED = 1_000
"""How many of the newest matches are ranked if the best are asked for."""
MOST_COMPARED = 20_000
"""The number of texts that a search compares at most; then it says how far it looked."""


@dataclass(frozen=True, slots=True)
class _Match:
    """A text that matches."""

    row: Any
    text: str
    fork: Fork | None
    """The living fork that shows the message, because its own conversation is deleted or archived."""

    @property
    def key(self) -> DocumentKey:
        return self.row.created_us, self.row.conversation_id, Seq(self.row.seq)


def search(work: UnitOfWork, owner: str, request: SearchRequest) -> tuple[SearchResults, list[DamagedRow]]:
    """Return a page of the texts of an owner that match a query, and the errors of those that cannot be read.

    Raises:
        ConversationNotFound: the owner does not have the conversation to be searched.
    """
    return _Search(work, owner, request).run()


class _Search:
    """One search, in one transaction."""

    def __init__(self, work: UnitOfWork, owner: str, request: SearchRequest) -> None:
        self._connection = work.connection
        self._owner = owner
        self._request = request
        self._homes = self._find_homes()
        self._few_tagged = self._find_few_tagged()
        self._is_tagged: dict[str, bool] = {}
        self._forks: list[Fork] | None = None
        self._matches: list[_Match] = []
        self._damaged: list[DamagedRow] = []
        self._compared = 0
        self._wanted = MOST_RANKED if request.best else request.limit
        self._last: DocumentKey | None = None

    def run(self) -> tuple[SearchResults, list[DamagedRow]]:
        request = self._request
        stopped = not self._compare_all()
        if request.best:
            stopped = stopped or len(self._matches) > MOST_RANKED
            self._put_best_first()
        matches = self._matches[: request.limit]
        more = len(self._matches) > request.limit and not request.best
        end = matches[-1].key if more else self._last
        goes_on = end is not None and (more or stopped) and not request.best
        results = SearchResults(
            hits=self._make_hits(matches),
            next=str(SearchCursor(*end)) if goes_on and end is not None else None,
            searched_since=make_moment(end[0]) if stopped and not more and end is not None else None,
            is_index_complete=not search_backlog.has_backlog(self._connection, self._owner),
        )
        return results, self._damaged

    def _find_homes(self) -> dict[str, Seq] | None:
        """Return the conversations to be searched, each up to which message; None: all."""
        id = self._request.conversation_id
        if id is None:
            return None
        found = search_rows.read_lineage_column(self._connection, self._owner, id, deleted=self._request.deleted)
        if found is None:
            raise conversation_not_found(self._connection, ConversationKey(self._owner, id))
        (column,) = found
        lineage = read_lineage(ConversationKey(self._owner, id), column)
        origins = {origin.conversation_id: origin.up_to_seq for origin in list_origins(self._connection, lineage)}
        return {**origins, id: Seq(2**62)}

    def _find_few_tagged(self) -> frozenset[str] | None:
        """Return the conversations with a tag that is asked for, and those that keep the past of these.

        None: no tag is asked for, or many conversations have each of them.
        """
        for name in self._request.tags:
            tagged = list_tagged(self._connection, self._owner, name, _MOST_TAGGED + 1)
            if len(tagged) <= _MOST_TAGGED:
                return frozenset(tagged).union(*map(self._list_origins, tagged))
        return None

    def _list_origins(self, id: str) -> set[str]:
        (column,) = search_rows.read_lineage_column(self._connection, self._owner, id, deleted=True) or (None,)
        lineage = read_lineage(ConversationKey(self._owner, id), column)
        return {origin.conversation_id for origin in list_origins(self._connection, lineage)}

    def _has_tags(self, id: str) -> bool:
        """Return True if a conversation has all tags that are asked for."""
        found = self._is_tagged.get(id)
        if found is None:
            key = ConversationKey(self._owner, id)
            found = all(has_tag(self._connection, key, name) for name in self._request.tags)
            self._is_tagged[id] = found
        return found

    def _put_best_first(self) -> None:
        """Put the most relevant matches first, and the newest of those that are equal."""
        scores = rank_texts(self._request.query, [match.text for match in self._matches])
        ranked = sorted(zip(scores, self._matches, strict=True), key=lambda pair: (pair[0], pair[1].key), reverse=True)
        self._matches = [match for _, match in ranked]

    def _make_span(self) -> Span:
        request = self._request
        since = count_microseconds(request.since) if request.since is not None else None
        ends: list[DocumentKey] = []
        if request.until is not None:
            ends.append((count_microseconds(request.until), "", NO_SEQ))
        if request.before is not None:
            ends.append((request.before.created_us, request.before.conversation_id, request.before.seq))
        return make_span(self._owner, since, min(ends) if ends else None)

    def _make_filter(self) -> TermFilter:
        query = self._request.query
        # Too short a beginning selects too much: FTS5 would read all words with it.
        prefixes = frozenset(word for word in query.prefixes if make_prefix_term(word) is not None)
        among = self._homes if self._homes is not None else self._few_tagged
        return TermFilter(query.terms, prefixes, frozenset(map(make_conversation_term, among or ())))

    def _compare_all(self) -> bool:
        """Compare texts until there are enough matches; return False if there were too many texts."""
        if self._few_tagged is not None and not self._few_tagged:
            return True
        span, chosen = self._make_span(), self._make_filter()
        reads_all = chosen.is_empty or find_kind(self._connection) is IndexKind.NONE
        is_broad = not chosen.alternatives and bool(chosen.prefixes and not chosen.terms)  # many words, perhaps
        if reads_all or is_broad:
            most = MOST_COMPARED if reads_all else _NEWEST
            while self._compared < most:
                wanted = _FIRST_PAGE if self._compared == 0 else _NEXT_PAGE
                rows = search_rows.read_newest(self._connection, span, wanted)
                if self._compare(rows) or len(rows) < wanted:
                    return True
                span = replace(span, before=self._last or span.before)
            if reads_all:
                return False
        for keys in _iterate_candidates(self._connection, span, chosen):
            for start in range(0, len(keys), _READ_AT_ONCE):
                if self._compared >= MOST_COMPARED:
                    return False
                some = keys[start : start + _READ_AT_ONCE]
                if self._compare(search_rows.read_texts(self._connection, self._owner, some)):
                    return True
                self._last = some[-1]
        return True

    def _compare(self, rows: Sequence[Any]) -> bool:
        """Add the rows that match; return True if there are enough."""
        for row in rows:
            self._compared += 1
            self._last = row.created_us, row.conversation_id, Seq(row.seq)
            try:
                match = self._match(row)
            except DamagedRow as error:
                self._damaged.append(error)
                continue
            if match is not None:
                self._matches.append(match)
                if len(self._matches) > self._wanted:
                    return True
        return False

    def _match(self, row: Any) -> _Match | None:
        request = self._request
        if self._homes is not None and not self._is_in_homes(row):
            return None
        if type(row.content) not in (str, NoneType) or type(row.extra) not in (str, NoneType):
            search_rows.check_text(row)
        if row.seq == NO_SEQ:
            if request.role is not None or request.model is not None or request.rating is not None:
                return None
            if self._is_hidden(row) or not self._has_tags(row.conversation_id):
                return None
            search_rows.check_text(row)
            text = join_texts([name for name in (_read_label(row, row.title), row.name) if name])
            return self._make_match(row, text, None) if request.query.matches_text(text) else None
        if row.role is None:
            raise damaged_row(row.conversation_id, f"message seq {row.seq}, which the search index names, is missing")
        if request.model is not None and request.model not in (row.model, row.requested_model):
            return None
        message = search_rows.decode_searched(row, row.conversation_id)
        if request.role is not None and message.get("role") != request.role:
            return None
        text = extract_searched_text(message)
        if not request.query.matches_text(text):
            return None
        # A fork shows the message if its own conversation does not.
        is_shown = not self._is_hidden(row) and self._has_tags(row.conversation_id)
        fork = self._find_living_fork(row) if not is_shown else None
        if not is_shown and fork is None:
            return None
        if request.rating is not None:
            home = ConversationKey(self._owner, row.conversation_id)
            if read_rating(self._connection, home, row.seq) != request.rating:
                return None
        return self._make_match(row, text, fork)

    def _make_match(self, row: Any, text: str, fork: Fork | None) -> _Match:
        search_rows.check_text(row)
        return _Match(row, text, fork)

    def _is_hidden(self, row: Any) -> bool:
        is_deleted = row.deleted_at is not None and not self._request.deleted
        return is_deleted or (row.archived_at is not None and not self._request.archived)

    def _is_in_homes(self, row: Any) -> bool:
        homes = self._homes or {}
        if row.seq == NO_SEQ:
            return bool(row.conversation_id == self._request.conversation_id)
        return bool(row.seq <= homes.get(row.conversation_id, NO_SEQ))

    def _find_living_fork(self, row: Any) -> Fork | None:
        """Return a living fork with the tags that shares a message, the one that is searched first."""
        if self._forks is None:
            found = search_rows.read_living_forks(self._connection, self._owner, archived=self._request.archived)
            found = [fork for fork in found if self._has_tags(fork.lineage.key.id)]
            self._forks = sorted(found, key=lambda fork: fork.lineage.key.id != self._request.conversation_id)
        for fork in self._forks:
            if find_message_home(self._connection, fork.lineage, row.seq).id == row.conversation_id:
                return fork
        return None

    def _make_hits(self, matches: Sequence[_Match]) -> list[SearchHit]:
        """Return what is shown of matches; each message is checked against its digest."""
        places: dict[str, tuple[Lineage, Seq, list[Seq]]] = {}
        for match in matches:
            if match.row.seq != NO_SEQ:
                lineage, head = _find_place(self._owner, match)
                places.setdefault(lineage.key.id, (lineage, head, []))[2].append(Seq(match.row.seq))
        on_path: set[tuple[str, Seq]] = set()
        unread: set[tuple[str, Seq]] = set()
        for id, (lineage, head, seqs) in places.items():
            records = []
            for seq in seqs:
                try:
                    records += read_messages(self._connection, lineage, [seq])
                except DamagedRow as error:
                    self._damaged.append(error)
                    unread.add((id, seq))
            ancestors = find_ancestors(self._connection, lineage, head, [record.position for record in records])
            on_path.update((id, record.seq) for record in records if ancestors.get(record.position) == record.seq)
        hits = [_make_hit(self._request.query, match, on_path) for match in matches]
        return [hit for hit in hits if hit.seq is None or (hit.conversation, hit.seq) not in unread]


def _iterate_candidates(connection: Connection, span: Span, chosen: TermFilter) -> Iterator[list[DocumentKey]]:
    """Yield the texts of a span that a filter selects, newest first, some at a time.

    A few that it does not select may be among them.
    """
    kind = find_kind(connection)
    if kind is IndexKind.GIN:
        yield from iterate_by_hashes(connection, span, chosen)
    else:
        yield from iterate_by_terms(connection, span, chosen, kind)


def _read_title(row: Any) -> str | None:
    """Return the title of a row's conversation as it is shown."""
    return _read_label(row, row.title if row.title is not None else row.made_title)


def _read_label(row: Any, column: str | None) -> str | None:
    try:
        return from_column(column)
    except DECODING_ERRORS as error:
        raise damaged_row(row.conversation_id, f"its title cannot be decoded ({error})") from error


def _read_status(row: Any) -> TurnStatus | None:
    try:
        return TurnStatus(row.status) if row.status is not None else None
    except ValueError as error:
        raise damaged_row(row.conversation_id, f"the turn of message seq {row.seq}: {error}") from error


def _find_place(owner: str, match: _Match) -> tuple[Lineage, Seq]:
    if match.fork is not None:
        return match.fork.lineage, match.fork.head
    return read_lineage(ConversationKey(owner, match.row.conversation_id), match.row.lineage), match.row.head_seq


def _make_hit(query: Query, match: _Match, on_path: set[tuple[str, Seq]]) -> SearchHit:
    row, fork = match.row, match.fork
    snippet = cut_snippet(match.text, query)
    is_title = row.seq == NO_SEQ
    id = row.conversation_id if fork is None else fork.lineage.key.id
    return SearchHit(
        conversation=id,
        title=_read_title(row) if fork is None else fork.title,
        position=None if is_title else row.position,
        seq=None if is_title else row.seq,
        role=None if is_title else search_rows.decode_searched(row, id)["role"],
        on_path=is_title or (id, row.seq) in on_path,
        is_head=not is_title and row.seq == (row.head_seq if fork is None else fork.head),
        status=_read_status(row),
        snippet=snippet.text,
        marks=snippet.marks,
        created_at=make_moment(row.created_us),
    )
