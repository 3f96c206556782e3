"""A model server that is slow, drops connections, refuses and cuts; it keeps a log of what it was asked and sent."""

from __future__ import annotations

import select
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from convstore.testing import ChatServer, Drop, Failure, Reply
from convstore.testing.responses import Response
from convstore.testing.server import Request
from tests.processes import Channel
from tests.soak.journal import Journal
from tests.soak.plan import Plan

CALL_HEADER = "x-call"
LOG = "requests.log"
CALM = "final"
"""Calls with a name that begins so are answered without trouble."""
PADDING = " and so on, word by word, until all of this reply has been sent to whoever asked for it"

# How many of 100 answers are of each kind.
TROUBLES = {"drop": 3, "429": 4, "500": 3, "503": 1, "cut": 5, "unfinished": 3, "error": 2, "slow": 5}


class TroubledServer(ChatServer):
    """Answers each request with a reply of its own, or with trouble.

    The choice follows from the seed, the name of the call, and how often this call asked: not from the order in which
    requests arrive.
    """

    def __init__(self, plan: Plan, log: Journal) -> None:
        self._plan = plan
        self._log = log
        self._asked: Counter[str] = Counter()
        self._counting = threading.Lock()
        super().__init__()

    def _arrived(self, request: Request, *, scripted: bool) -> tuple[int, Response | None]:
        bare = Request(request.method, request.path, {}, {})  # bodies are not kept: there may be many
        number, _ = super()._arrived(bare, scripted=False)
        if not scripted:
            return number, None
        call = request.headers.get(CALL_HEADER, "")
        with self._counting:
            self._asked[call] += 1
            asked = self._asked[call]
        trouble, response, pause = self._choose(number, call, asked, bool(request.body.get("stream")))
        # The log is written before anything is sent: a reply that is not in it was never sent.
        self._log.write(
            {
                "request": number,
                "call": call,
                "at": time.time(),
                "trouble": trouble,
                "reply": response.text if isinstance(response, Reply) else None,
            }
        )
        time.sleep(pause)
        return number, response

    def _choose(self, number: int, call: str, asked: int, streams: bool) -> tuple[str, Response, float]:
        """Return the kind of trouble, the response, and the seconds to wait before it."""
        choices = self._plan.make_random("model", call, asked)
        text = f"#{number} answers {call}{PADDING[: choices.randrange(20, len(PADDING))]}"
        pieces = [text[at : at + 8] for at in range(0, len(text), 8)]
        reply: dict[str, Any] = {"pieces": pieces}
        kinds = list(TROUBLES)
        weights = list(TROUBLES.values())
        kind = choices.choices(["", *kinds], [100 - sum(weights), *weights])[0]
        if call.startswith(CALM):
            return "", Reply(text, **reply), 0.0
        if kind == "drop":
            return kind, Drop(), 0.0
        if kind in ("429", "500", "503"):
            return kind, Failure(int(kind), retry_after=choices.choice([0, 0.1, 0.5])), 0.0
        pause = choices.uniform(0, 0.4)  # so that most kills and stops meet a running turn
        if kind == "slow":  # slower than a lease: a live caller must keep its conversation
            if streams:
                return kind, Reply(text, **reply, delay=choices.uniform(1, 2) * self._plan.lease / len(pieces)), pause
            return kind, Reply(text, **reply), choices.uniform(1, 2) * self._plan.lease
        if streams:
            reply["delay"] = choices.choice([0, 0, 0.01, 0.05])
        if kind == "cut":
            reply["cut_after"] = choices.randrange(200, 1000) if streams else choices.randrange(20, 200)
        elif kind == "unfinished":
            reply["finish_reason"] = None
        elif kind == "error":
            if streams:
                reply |= {"error_event": {"message": "overloaded"}, "error_after": choices.randrange(3)}
            else:
                reply["cut_after"] = 0
        return kind, Reply(text, **reply), pause


def serve_model(channel: Channel, *, plan: dict[str, Any]) -> None:
    """Serve until the soak ends; run in a child."""
    settings = Plan(**plan)
    log = Journal(Path(settings.folder, LOG))
    with TroubledServer(settings, log) as server:
        channel.send(["url", server.url])
        wait_for_end(channel)


def wait_for_end(channel: Channel) -> None:
    """Wait until the soak says that a child must end, or has ended itself."""
    select.select([channel], [], [])  # without the time limit of a channel
    with suppress(EOFError, OSError):
        channel.receive()
