"""Print receipts of purges: counts, ids and times, and no text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from convstore.cli.render.output_streams import format_json, write_answer, write_json, write_note

if TYPE_CHECKING:
    from convstore.errors import ConvstoreError
    from convstore.values.purge_receipt import PurgeReceipt


def receipt_to_json(receipt: PurgeReceipt) -> dict[str, Any]:
    """Return the JSON form of a receipt."""
    digest = {"digest": receipt.digest} if receipt.digest is not None else {}
    return {
        "owner": receipt.owner,
        "conversation": receipt.conversation_id,
        "purged_at": receipt.purged_at,
        "messages": receipt.messages,
        "turns": receipt.turns,
        "summaries": receipt.summaries,
        "attachments": receipt.attachments,
        "attachment_bytes": receipt.attachment_bytes,
        "prompt_tokens": receipt.prompt_tokens,
        "completion_tokens": receipt.completion_tokens,
        "kept_by": [{"conversation": kept.fork_id, "messages": kept.messages} for kept in receipt.kept_by],
        **digest,
    }


def describe_receipt(receipt: PurgeReceipt) -> str:
    """Return a receipt as a line of text."""
    tokens = receipt.prompt_tokens + receipt.completion_tokens
    counts = [
        _count(receipt.messages, "message"),
        _count(receipt.turns, "turn") + (f" of {_count(tokens, 'token')}" if tokens else ""),
        *([_count(receipt.summaries, "summary", "summaries")] if receipt.summaries else []),
        *(
            [f"{_count(receipt.attachments, 'attachment')} ({receipt.attachment_bytes:,} bytes)"]
            if receipt.attachments
            else []
        ),
    ]
    line = f"{receipt.conversation_id}: {', '.join(counts)}"
    if receipt.kept_by:
        forks = ", ".join(f"{kept.fork_id} ({kept.messages:,})" for kept in receipt.kept_by)
        line += f"; kept by forks, with their number of messages: {forks}"
    return line


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


@dataclass(frozen=True, slots=True)
class Purged:
    """What was purged, and what was not."""

    receipts: Sequence[PurgeReceipt]
    busy: Sequence[str] = ()
    """The ids of conversations with a running turn, which were not purged."""
    left: Sequence[str] = ()
    """What `purge --finish` has yet to do."""
    failures: Sequence[tuple[str, ConvstoreError]] = ()
    """The ids of others that were not purged, each with its error; the id "" is about all of them."""
    is_trial: bool = False
    """Whether it was a dry run."""


@contextmanager
def open_receipt_file(target: Path | None) -> Iterator[IO[bytes] | None]:
    """Open the file for receipts, which appears at the end; yield None without a file."""
    if target is None:
        yield None
        return
    from convstore.store.export_output import open_new_file

    with open_new_file(target) as file:
        yield file


def print_receipts(done: Purged, *, as_json: bool, file: IO[bytes] | None = None) -> None:
    """Print what was purged, and write the receipts to a file if one is given."""
    form = {
        "dry_run": done.is_trial,
        "purged": [receipt_to_json(one) for one in done.receipts],
        "busy": list(done.busy),
        "failed": [{"conversation": id, "error": str(error)} for id, error in done.failures],
        "left": list(done.left),
    }
    if file is not None:
        file.write(format_json(form, indent=2).encode() + b"\n")
    if as_json:
        write_json(form)
    else:
        for receipt in done.receipts:
            write_answer(f"{'would purge' if done.is_trial else 'purged'} {describe_receipt(receipt)}")
    if not (done.receipts or done.busy or done.failures or done.left or as_json):
        write_note("there was nothing to purge")
    for id in done.busy:
        write_note(f"{id} was not purged: a turn of it, or of a fork of it, is running")
    for id, error in done.failures:
        write_note(f"{id} was not purged: {error}" if id else str(error))
    if done.left:
        write_note(
            "the rows are gone, but another process uses the database file, and what was in them is not "
            f"overwritten yet ({', '.join(done.left)}); `convstore purge --finish` does it when that process has ended"
        )


def exit_if_unfinished(done: Purged) -> None:
    """Exit with the code of the first failure, or with that of a conflict if something is left to do."""
    from convstore.cli.exit_codes import find_exit_code

    if done.failures:
        raise SystemExit(find_exit_code(done.failures[0][1]))
    if done.busy or done.left:
        raise SystemExit(5)
