"""The beginning of a turn for a client of the service that sends only what is new: convstore adds the history."""

from __future__ import annotations

from dataclasses import dataclass, replace

from convstore.conversations.earlier_requests import find_earlier
from convstore.db.client_request_rows import insert_request
from convstore.db.lease_rows import Lease
from convstore.db.stored_conversation import read_stored_lineage
from convstore.db.unit_of_work import UnitOfWork
from convstore.messages.matching_form import digest_addition
from convstore.turns.recorded_start import create_for_client
from convstore.turns.turn_request import TurnRequest
from convstore.turns.turn_start import StartedTurn, start_turn
from convstore.values.client_request import AskedPath, SentBody
from convstore.values.identifiers import NO_SEQ, ConversationKey
from convstore.values.results import Turn


@dataclass(frozen=True, slots=True)
class StatefulRequest:
    """A request with what is new of a conversation."""

    owner: str
    conversation: str
    """Its id: the one that the client names, or that of a new one."""
    creates: bool
    """Whether it is made if it does not exist."""
    is_named: bool
    """Whether the client names it."""
    asks: TurnRequest
    body: SentBody
    is_repetition: bool = False

    @property
    def key(self) -> ConversationKey:
        """The owner and the id of the conversation."""
        return ConversationKey(self.owner, self.conversation)

    @property
    def streams(self) -> bool:
        """Whether the reply comes in pieces."""
        return self.asks.terms.stream

    def repeat(self, new_id: str) -> StatefulRequest:  # noqa: ARG002
        """Return the request for another try, after the one that it repeats has failed."""
        return replace(self, is_repetition=False)

    def start(self, work: UnitOfWork, lease: Lease) -> StartedTurn | Turn:
        """Store what is new, and the turn, as `say` does.

        Returns:
            The started turn; or the earlier turn that this request repeats, running or completed.

        Raises:
            As `start_turn`.
        """
        asked = digest_addition(self.conversation if self.is_named else "", self.asks.messages)
        earlier = find_earlier(work, self.owner, asked, self.body, is_repetition=self.is_repetition)
        if earlier is not None:
            return earlier
        if self.creates and read_stored_lineage(work.connection, self.key) is None:
            create_for_client(work, self.key, self.asks.parameters.get("model"))
        started = start_turn(work, self.key, self.asks, lease)
        if isinstance(started, StartedTurn):
            turn = started.turn
            after = turn.last_input.seq if turn.last_input is not None else NO_SEQ
            path = AskedPath(asked, None)
            insert_request(work.connection, turn.key, turn.seq, after, path, self.body, work.now)
            # The client finds the completion by its id, and no list of messages goes on from it.
            return replace(started, turn=replace(turn, asked=AskedPath(None, None)))
        return started
