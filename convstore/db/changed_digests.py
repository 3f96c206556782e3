"""The digests of messages before and after a change, in as little memory as they need: 32 bytes for each."""

from __future__ import annotations

from convstore.messages.codec import MESSAGE_DIGEST_BYTES
from convstore.values.identifiers import Seq

_PAIR_BYTES = 2 * MESSAGE_DIGEST_BYTES
_NOTHING = bytes(_PAIR_BYTES)


class ChangedDigests:
    """The digests of a conversation's messages that changed, and those of the past that it shares.

    Args:
        shared: those of the conversation that it was forked from; None: it shares no message that changed.
        up_to_seq: the last message that it shares.
    """

    def __init__(self, shared: ChangedDigests | None = None, up_to_seq: Seq | None = None) -> None:
        self._shared = shared
        self._up_to = up_to_seq if up_to_seq is not None else 0
        self._first = 0
        self._pairs = bytearray()
        self.count = 0
        """Number of messages of the conversation itself."""

    @property
    def first_seq(self) -> Seq | None:
        """The first message that changed, shared ones too; None: none did."""
        first = self._shared.first_seq if self._shared is not None else None
        if first is not None and first <= self._up_to:
            return first
        return Seq(self._first) if self._pairs else None

    def add(self, seq: Seq, before: bytes, after: bytes) -> None:
        """Note that a message of the conversation itself has another digest; they come in the order of `seq`."""
        if not self._pairs:
            self._first = seq
        self._pairs.extend(bytes((seq - self._first) * _PAIR_BYTES - len(self._pairs)))
        self._pairs += before + after
        self.count += 1

    def find(self, seq: Seq) -> tuple[bytes, bytes] | None:
        """Return the digest of a message before and after; None: it did not change."""
        if seq <= self._up_to:
            return self._shared.find(seq) if self._shared is not None else None
        place = (seq - self._first) * _PAIR_BYTES
        if not 0 <= place < len(self._pairs):
            return None
        pair = bytes(self._pairs[place : place + _PAIR_BYTES])
        return None if pair == _NOTHING else (pair[:MESSAGE_DIGEST_BYTES], pair[MESSAGE_DIGEST_BYTES:])
