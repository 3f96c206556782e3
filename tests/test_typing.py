"""Calls that mypy must refuse: each is marked, and an unused mark fails `make lint` (warn_unused_ignores)."""

from __future__ import annotations

import tomllib
from pathlib import Path

from convstore.conversations import head_moves, pins
from convstore.db.transactions import CallersTransaction, OwnTransactions, Transactions
from convstore.store.async_methods import AsyncConversationMethods
from convstore.store.conversation_methods import ConversationMethods
from convstore.values.identifiers import ConversationKey, Position, Seq, TurnNumber

KEY = ConversationKey("", "c")


def pass_wrong_arguments_to_units_of_work(
    transactions: Transactions, own: OwnTransactions, callers: CallersTransaction
) -> None:
    transactions.write(pins.drop_summary, "c")  # type: ignore[arg-type]
    transactions.write(head_moves.checkout, KEY, None, Seq(1))  # type: ignore[arg-type]
    transactions.write(head_moves.undo, KEY)  # type: ignore[call-arg]
    own.read(pins.pin, KEY, Seq(1), None)  # type: ignore[arg-type]
    callers.write_repeatable(pins.pin, KEY, TurnNumber(1), None)  # type: ignore[arg-type]


async def pass_wrong_arguments_to_the_sync_twin(methods: AsyncConversationMethods) -> None:
    await methods._run(ConversationMethods.undo, "c", "1")  # type: ignore[arg-type]
    await methods._run(ConversationMethods.pin, 1, "c")  # type: ignore[arg-type]


def swap_numbers() -> tuple[Seq, Position, TurnNumber]:
    return Position(1), TurnNumber(1), Seq(1)  # type: ignore[return-value]


def test_mypy_is_strict_and_reads_this_file() -> None:
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] is True  # with it, an unneeded mark is an error
    assert "tests" in settings["files"]
