"""Asking the model: `say` and its kin, a part of `Store`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from convstore.errors import ConvstoreError
from convstore.messages.completion import read_completion
from convstore.provider import openai_client
from convstore.store.conversation_methods import Conversations
from convstore.store.reply_stream import ReplyStream
from convstore.turns.model_call import call
from convstore.turns.runtime import Runtime
from convstore.turns.turn_outcome import compaction_due, settle
from convstore.turns.turn_request import Kind, Question, ask
from convstore.turns.turn_start import preview, preview_new
from convstore.values.results import Request, Summary, Turn
from convstore.values.validation import OnBusy, known_id, patience

if TYPE_CHECKING:
    from convstore.turns.compaction import Compaction

WORTH_A_SUMMARY = 0.25  # of the threshold: what a conversation that compacts itself has to gain by it


class Asking(Conversations):
    """What puts a question to the model: a part of `Store`."""

    _model: str | None
    _runtime: Runtime

    def say(
        self,
        conversation_id: str,
        message: object,
        *,
        system: str | None = None,
        name: str | None = None,
        history: bool | None = None,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        """Say something, and return the turn with the model's reply.

        The message is committed before the model is called; the reply, together with the turn's end.

        Args:
            conversation_id: its id (not a name or the beginning of an id: `get` finds those).
            message: text, a list of content parts, a message, or a list of messages.
            system: the text of a system message to put before it.
            name: the sender's name.
            history: False sends this message alone; None: as the conversation says, else True.
            idempotency_key: names this very request. However often and from wherever it is made again, the model is
                not asked again while the first try runs, or once it has succeeded: its reply is returned.
            expected_head: the `head_seq` that the caller saw; None: any.
            on_busy: while another turn of the conversation runs, `"wait"`, or `"reject"` at once.
            wait: seconds to wait at most.
            parameters: completion parameters for this call; they go before the sticky ones, and None takes one away.
                Among them, options of the window:

                `last`: send the last so many turns of the history at most (0: system messages and this one).
                `max_context`: send no more of the history than fits into so many tokens.
                `on_overflow`: `"trim"` sends less, once, where the provider finds the request too long.
                `fill_missing_tools`: send a placeholder for each tool call that has no result.
                `send_reasoning`: send the model its own reasoning back.
                `compact_at`: compact the conversation after a turn whose request had so many tokens.
                `keep_last`: how many turns that leaves alone.

        Raises:
            InvalidInput: refused, for the reason given; nothing was stored or sent.
            ContextTooLong: what has to be sent does not fit into `max_context`; nothing was stored or sent.
            UnansweredToolCalls: tool calls have no results; nothing was stored or sent.
            ConversationNotFound: there is none with this id.
            ConversationBusy: another turn is still running; nothing was stored or sent.
            HeadMoved: the head is not the expected one; nothing was stored or sent.
            IdempotencyMismatch: the key was used for something else; nothing was stored or sent.
            TurnFailed: no reply came. The message is kept, and will not be replayed.
            ReplyInterrupted: the reply broke off; `.partial` has what came.
            LeaseLost: the reply came too late; `.turn` has it.
            ReplyNotStored: the database failed after the model had answered; `.completion` has the answer.
        """
        question = self._question(
            message,
            parameters,
            system=system,
            name=name,
            history=history,
            idempotency_key=idempotency_key,
            expected_head=expected_head,
        )
        return self._answered(conversation_id, question, patience(on_busy, wait))

    def complete(
        self,
        conversation_id: str,
        *,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        """Let the model go on from the end of the conversation, without a new message: after a tool's result.

        Takes and raises what `say` does; InvalidInput also where the conversation ends with the model's own message.
        """
        question = self._question(
            None, parameters, kind=Kind.COMPLETE, idempotency_key=idempotency_key, expected_head=expected_head
        )
        return self._answered(conversation_id, question, patience(on_busy, wait))

    def edit(
        self,
        conversation_id: str,
        position: int,
        message: object,
        *,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        """Put another message in the place of one on the path, and ask again from there.

        The old one and what followed it stay on record, beside the path; nothing is changed. Of a system message, what
        was asked under it first is asked again.

        Args:
            conversation_id: its id.
            position: where the message stands: 1, 2, 3 …
            message: text, which takes the place of the old text (images and the like stay); or a list of content
                parts, or a message.
            expected_head: the `head_seq` that the caller saw; None: any.
            on_busy: while another turn of the conversation runs, `"wait"`, or `"reject"` at once.
            wait: seconds to wait at most.
            parameters: as in `say`.

        Raises:
            As `say`; InvalidInput also where there is no such position, or the message is the model's own; HeadMoved
            also where, after waiting, another message stands at that position.
        """
        question = self._question(message, parameters, kind=Kind.EDIT, position=position, expected_head=expected_head)
        return self._answered(conversation_id, question, patience(on_busy, wait))

    def retry(
        self,
        conversation_id: str,
        *,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        """Ask once more what the latest turn asked: after a failure, an interruption, or for another answer.

        The new reply becomes a sibling of the old one, which stays on record; if the conversation has gone on since,
        the question is asked again at its end.

        Args:
            conversation_id: its id.
            expected_head: the `head_seq` that the caller saw; None: any.
            on_busy: while another turn of the conversation runs, `"wait"`, or `"reject"` at once.
            wait: seconds to wait at most.
            parameters: completion parameters, and options of the window, to use instead of those of that turn.

        Raises:
            As `say`; InvalidInput also where there is no turn to try again.
        """
        question = self._question(None, parameters, kind=Kind.AGAIN, expected_head=expected_head)
        return self._answered(conversation_id, question, patience(on_busy, wait))

    def stream(
        self,
        conversation_id: str,
        message: object,
        *,
        system: str | None = None,
        name: str | None = None,
        history: bool | None = None,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> ReplyStream:
        """Say something, and return the reply as it comes: a context manager that yields pieces of text.

        Takes and raises what `say` does; see `ReplyStream`.
        """
        question = self._question(
            message,
            parameters,
            system=system,
            name=name,
            history=history,
            idempotency_key=idempotency_key,
            expected_head=expected_head,
            stream=True,
        )
        return self._stream(conversation_id, question, patience(on_busy, wait))

    def complete_stream(
        self,
        conversation_id: str,
        *,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> ReplyStream:
        """As `complete`, and return the reply as it comes."""
        question = self._question(
            None,
            parameters,
            kind=Kind.COMPLETE,
            idempotency_key=idempotency_key,
            expected_head=expected_head,
            stream=True,
        )
        return self._stream(conversation_id, question, patience(on_busy, wait))

    def edit_stream(
        self,
        conversation_id: str,
        position: int,
        message: object,
        *,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> ReplyStream:
        """As `edit`, and return the reply as it comes."""
        question = self._question(
            message, parameters, kind=Kind.EDIT, position=position, expected_head=expected_head, stream=True
        )
        return self._stream(conversation_id, question, patience(on_busy, wait))

    def retry_stream(
        self,
        conversation_id: str,
        *,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> ReplyStream:
        """As `retry`, and return the reply as it comes."""
        question = self._question(None, parameters, kind=Kind.AGAIN, expected_head=expected_head, stream=True)
        return self._stream(conversation_id, question, patience(on_busy, wait))

    def preview(
        self,
        conversation_id: str | None,
        message: object,
        *,
        system: str | None = None,
        name: str | None = None,
        history: bool | None = None,
        expected_head: int | None = None,
        stream: bool = False,
        **parameters: Any,
    ) -> Request:
        """Return exactly the request that `say` (or `stream`) would make. Stores nothing, sends nothing.

        Takes and raises what `say` does. For `conversation_id` None: what a new conversation would begin with.

        Returns:
            The body of the request; its `.window` says which messages it holds: `history`, how many of the path;
            `from_seq`, the first of those after which none is left out; `tokens`, about how many it has for the model;
            `left_out`, how many of the path are not sent; `context` and `pinned`, the `seq` of system messages and of
            pinned ones that are sent from before `from_seq`; `summary`, the turn that wrote the summary that is sent;
            `filled`, the tool calls that a placeholder answers; `options`, the options that are not the usual ones.
        """
        question = self._question(
            message,
            parameters,
            system=system,
            name=name,
            history=history,
            expected_head=expected_head,
            stream=stream,
        )
        if conversation_id is None:
            return preview_new({}, {}, question)
        return self._runtime.read(preview, self._owner, known_id(conversation_id), question)

    def preview_complete(
        self, conversation_id: str, *, expected_head: int | None = None, stream: bool = False, **parameters: Any
    ) -> Request:
        """Return exactly the request that `complete` would make, as `preview` does for `say`."""
        question = self._question(None, parameters, kind=Kind.COMPLETE, expected_head=expected_head, stream=stream)
        return self._runtime.read(preview, self._owner, known_id(conversation_id), question)

    def compact(
        self, conversation_id: str, *, keep_last: int | None = None, model: str | None = None, **parameters: Any
    ) -> list[Summary]:
        """Let the model summarise the older part of the conversation; the summary stands in for it in the window only.

        History keeps every message, and `drop_summary` takes it back. Others may go on with the conversation
        meanwhile. A long past takes several summaries, each on top of the one before.

        Args:
            conversation_id: its id.
            keep_last: how many turns are left alone; None: as the conversation says, else 2.
            model: the model to ask; else the conversation's.
            parameters: further completion parameters for the call.

        Returns:
            The summaries that were written, of which the last stands in; none where there was nothing to summarise.

        Raises:
            InvalidInput: a parameter breaks a rule.
            ConversationNotFound: there is none with this id.
            TurnFailed: the model or its provider failed; what was summarised before stays.
        """
        return self._compacted(self._compaction(conversation_id, keep_last, model, parameters))

    def _answered(self, conversation_id: str, question: Question, wait: float) -> Turn:
        conversation_id, runtime = known_id(conversation_id), self._runtime
        client = runtime.client()
        live = runtime.when_free(
            self._owner, conversation_id, wait, partial(runtime.begin, self._owner, conversation_id, question)
        )
        if isinstance(live, Turn):
            return live
        try:
            ending = live.answer.whole(read_completion(call(client, live, runtime.retries)))
        except Exception as error:
            return settle(*runtime.end(live, live.answer.failed(openai_client.describe(error, client))))
        except BaseException:
            runtime.end(live, live.answer.stopped())
            raise
        turn = settle(*runtime.end(live, ending))
        self._compact_if_due(turn)
        return turn

    def _stream(self, conversation_id: str, question: Question, wait: float) -> ReplyStream:
        return ReplyStream(self._runtime, self._owner, conversation_id, question, wait, self._compact_if_due)

    def _question(self, message: object, parameters: Mapping[str, Any], **how: Any) -> Question:
        return ask(message, parameters, default_model=default_model(self._model), count=self._runtime.count, **how)

    def _compaction(
        self,
        conversation_id: str,
        keep_last: int | None,
        model: str | None,
        parameters: Mapping[str, Any],
        least_tokens: int = 0,
    ) -> Compaction:
        from convstore.turns.compaction import Compaction

        return Compaction(
            self._runtime,
            self._owner,
            known_id(conversation_id),
            keep_last=keep_last,
            parameters={**parameters, "model": model} if model is not None else parameters,
            default_model=default_model(self._model),
            least_tokens=least_tokens,
        )

    def _compacted(self, compaction: Compaction) -> list[Summary]:
        client = self._runtime.client()
        while (step := compaction.next()) is not None:
            try:
                answer = client.chat.completions.create(**openai_client.call_arguments(client, step.request, {}))
            except Exception as error:
                answer = error
            time.sleep(compaction.take(step, answer, client))
        return compaction.summaries

    def _compact_if_due(self, turn: Turn) -> None:
        """Compact a conversation that is to do so by itself. What fails is on record, and spoils no reply."""
        due = compaction_due(turn)
        if due is None:
            return
        from convstore.turns import compaction_plan

        where = self._owner, turn.conversation_id
        with suppress(ConvstoreError):
            if not self._runtime.write_repeatable(compaction_plan.claim, *where):
                return
            try:
                keep_last, threshold = due
                least = int(threshold * WORTH_A_SUMMARY)
                self._compacted(self._compaction(turn.conversation_id, keep_last, None, {}, least))
            finally:
                self._runtime.write_repeatable(compaction_plan.release, *where)


def default_model(given: str | None) -> str | None:
    """Return the model to ask where nobody names one."""
    return given or os.environ.get("CONVSTORE_MODEL") or None
