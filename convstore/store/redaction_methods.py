"""The method of a store that redacts a message."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from convstore.db.transactions import OwnTransactions
from convstore.errors import ConversationBusy, RedactionUnfinished
from convstore.store.erasing_methods import ErasingMethods
from convstore.values.identifiers import Position
from convstore.values.redaction_report import Redaction
from convstore.values.validation import check_position

_MOST_PLANS = 5
"""How often a redaction is planned if another one changes the message before it can begin."""


class RedactionMethods(ErasingMethods):
    """Letting go of a message, or of a part of it."""

    def redact(
        self,
        conversation_id: str,
        position: int,
        *,
        match: str | None = None,
        everywhere: bool = False,
        dry_run: bool = False,
        finish: bool = True,
    ) -> Redaction:
        """Remove the text of a message, or parts of it, for good: from its row and from everything made of it.

        The message stays in its place, with `[redacted]` instead of what was removed. Its copies by retries and edits,
        forks, turns, summaries, titles and the search index lose the text too. The digests of the message and of all
        that follow it are computed anew. Redacting again what was redacted changes nothing.

        Args:
            conversation_id: the conversation's id.
            position: 1, 2, 3 … of the current path.
            match: a regular expression of Python's `re`, of at most 1,000 characters: only what it matches is removed;
                None: the whole text.
            everywhere: remove the text from all conversations of the owner. By default, the other messages where it
                occurs are returned. Shorter texts than 4 characters, and messages of less than 8, are not looked for.
            dry_run: change nothing, and return what would be done.
            finish: overwrite the text in a SQLite file too, as `finish_purge` does; False: call that after several
                redactions.

        Raises:
            InvalidInput: the path has no such position; the pattern is not a regular expression, takes longer than 5
                seconds, or matches nothing of the message, or more than 100 different texts.
            ConversationNotFound: the owner has no such conversation.
            ConversationBusy: a turn is running in the conversation, or in a fork that shares the message. Nothing is
                changed.
            DamagedRow: the message cannot be read.
            RedactionUnfinished: it was redacted, but others use the SQLite file, so that it is not overwritten yet.
        """
        from convstore.conversations import redaction  # with the package `regex`, which only this needs
        from convstore.conversations.text_pattern import TextPattern

        key, place = self._key(conversation_id), Position(check_position(position))
        pattern = TextPattern(match) if match is not None else None
        run = self._transactions
        for _ in range(_MOST_PLANS):
            plan = run.read(redaction.plan_redaction, key, place, pattern, everywhere=everywhere)
            if dry_run:
                return run.read(redaction.preview_redaction, plan)
            done = self._run_unlocked(partial(run.write_repeatable, redaction.redact, plan, limits_wait=run.may_wait))
            if done is not None:
                break
        else:
            raise ConversationBusy(f"conversation {key.id!r}: others keep changing message {place}; try again")
        if isinstance(done, ConversationBusy):
            raise done
        done = run.read(redaction.find_rest, plan, done)
        if finish and isinstance(run, OwnTransactions):
            check_finished([done], self.finish_purge())
        return done


def check_finished(redactions: Sequence[Redaction], left: Sequence[str]) -> None:
    """Check that nothing is left to do after redactions.

    Args:
        left: what `finish_purge` returned.

    Raises:
        RedactionUnfinished: something is left.
    """
    if left:
        raise RedactionUnfinished(
            "the text is redacted, but others use the database file, and what was in it is not overwritten yet "
            f"({', '.join(left)}); finish it when they have ended",
            redactions,
            left,
        )
