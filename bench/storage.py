"""Measure what a SQLite file of conversations takes, byte by byte, and how fast it is checked."""

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from openai.types.chat import ChatCompletion

from bench.figures import Row
from bench.model import COMPLETION, MODEL, FakeClient
from convstore import Store
from convstore.db.engine import open_database
from convstore.db.verification import verify

TEXT_BYTES = 500
_TURNS_PER_CONVERSATION = 50
_WORDS = ("the", "model", "sees", "what", "database", "holds", "and", "said", "in", "every", "turn", "conversation")
# What OpenAI answers besides the text, with the widths of its ids and names.
_FIELDS = {"model": "gpt-4o-mini-2024-07-18", "system_fingerprint": "fp_0123456789", "service_tier": "default"}
_MORE_USAGE = {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}


class _WordyClient(FakeClient):
    """A model that answers with a text of its own each time."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice

    def create(self, **_: Any) -> ChatCompletion:
        usage: dict[str, Any] = dict(COMPLETION["usage"])
        usage["completion_tokens_details"] = {**usage["completion_tokens_details"], **_MORE_USAGE}
        (choice,) = COMPLETION["choices"]
        message = {**choice["message"], "content": make_text(self._dice)}
        return ChatCompletion.model_validate(
            {
                **COMPLETION,
                **_FIELDS,
                "id": f"chatcmpl-{self._dice.getrandbits(116):029x}",
                "choices": [{**choice, "message": message}],
                "usage": usage,
            }
        )


def make_text(dice: random.Random) -> str:
    """Return a text of `TEXT_BYTES` characters of one byte each."""
    return " ".join(dice.choices(_WORDS, k=TEXT_BYTES // 3))[:TEXT_BYTES]


def fill(path: Path, messages: int) -> None:
    """Store conversations by `say`, with a budget of tokens; half of the messages are replies."""
    dice = random.Random(1)
    with Store(path, client=_WordyClient(dice)) as store:  # type: ignore[arg-type]
        for _ in range(messages // 2 // _TURNS_PER_CONVERSATION):
            id = store.new(model=MODEL).id
            for _ in range(_TURNS_PER_CONVERSATION):
                store.say(id, make_text(dice), max_context=4000)


def measure_bytes(path: Path, messages: int) -> list[Row]:
    """Return how many bytes of a file each kind of content takes, beside the bytes of the messages' text."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = {
            name: (size, payload, unused)
            for name, size, payload, unused in connection.execute(
                "SELECT name, sum(pgsize), sum(payload), sum(unused) FROM dbstat GROUP BY name"
            )
        }
    whole, text = path.stat().st_size, messages * TEXT_BYTES
    of_messages, of_turns = pages["convstore_messages"], pages["convstore_turns"]
    indexes = sum(
        size
        for name, (size, _, _) in pages.items()
        if name.startswith(
            ("sqlite_autoindex_convstore_messages", "sqlite_autoindex_convstore_turns", "convstore_turns_")
        )
    )
    parts = [
        ("text of the messages", text),
        ("other columns of messages", of_messages[1] - text),
        ("columns of turns", of_turns[1]),
        ("indexes of messages and turns", indexes),
        ("pages of messages and turns that are not full", of_messages[2] + of_turns[2]),
    ]
    rest = whole - sum(size for _, size in parts)
    return [
        (f"{size / text:.2f}", what, f"{size:,}")
        for what, size in (*parts, ("everything else", rest), ("the file", whole))
    ]


def measure_verify(path: Path, messages: int) -> list[Row]:
    """Return how many messages a second `db verify` checks."""
    with Store(path) as store:
        dice = random.Random(2)
        for _ in range(messages // 1000):
            id = store.new(model=MODEL).id
            store.append(id, *({"role": "user", "content": make_text(dice)[:300]} for _ in range(1000)))
    database = open_database(f"sqlite:///{path}")
    began = time.perf_counter()
    found = verify(database)
    taken = time.perf_counter() - began
    database.close()
    return [(f"{found.messages / taken:,.0f}", f"SQLite, {found.messages:,} messages of 300 characters")]
