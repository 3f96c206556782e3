"""Run one store in a process of its own: `python -m bench.peers.worker CLASS PLACE`.

Each line on stdin is a JSON object with an order; each answer is a line on stdout, with the seconds that the work took.
`bench.peers.worker_process` is the other end.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TextIO

from bench.peers.all_stores import find_store
from bench.peers.peer_store import PeerStore, write_text

QUESTION_CHARACTERS, ANSWER_CHARACTERS = 100, 300
LAST_MESSAGES = 20

Order = dict[str, Any]


class Worker:
    """Do what the orders say with one store."""

    def __init__(self, store: PeerStore, lines: Iterator[str], out: TextIO) -> None:
        self._store, self._lines, self._out = store, lines, out
        self._turns = 0

    def serve(self) -> None:
        """Answer every order until `close`, or the end of the input."""
        for line in self._lines:
            order: Order = json.loads(line)
            try:
                self._answer(self._obey(order))
            except Exception as error:
                self._answer({"error": f"{type(error).__name__}: {error}"[:500]})
            if order["do"] == "close":
                return

    def _obey(self, order: Order) -> Order:
        acts: dict[str, Callable[[Order], Order]] = {
            "create": lambda order: measure(lambda: self._store.create(order["key"])),
            "reopen": lambda order: measure(lambda: self._store.reopen(order["key"])),
            "fill": self._fill,
            "turn": self._take_turn,
            "read": lambda order: self._read(self._store.read_last, order["key"]),
            "load": lambda order: self._read(self._store.load_all, order["key"]),
            "texts": lambda order: self._list_texts(self._store.load_all, order["key"]),
            "last texts": lambda order: self._list_texts(self._store.read_last, order["key"]),
            "stored texts": lambda order: self._list_texts(self._store.list_stored, order["key"]),
            "reply": lambda order: measure(lambda: self._store.add_reply(order["key"], order["text"], order["fields"])),
            "fields": self._read_fields,
            "clock": lambda _: {"seconds": time.time()},
            "close": lambda _: measure(self._store.close),
        }
        return acts[order["do"]](order)

    def _fill(self, order: Order) -> Order:
        """Add messages until the conversation has `count` of them, in batches, and no longer than `seconds`."""
        added, began = 0, time.perf_counter()
        total = {"wall": 0.0, "cpu": 0.0}
        while added < order["count"] and time.perf_counter() - began < order["seconds"]:
            size = min(self._store.batch, order["count"] - added)
            texts = [_write_message(number) for number in range(added, added + size)]
            taken = measure(partial(self._store.add_messages, order["key"], texts))
            total = {name: total[name] + taken[name] for name in total}
            added += size
        return {**total, "count": added}

    def _take_turn(self, order: Order) -> Order:
        self._turns += 1
        answer: str = order.get("answer") or write_text(self._turns * 2 + 1, ANSWER_CHARACTERS)
        question = order.get("question") or write_text(self._turns * 2, QUESTION_CHARACTERS)

        def wait() -> str:
            self._answer({"model": "called"})
            next(self._lines)
            return answer

        self._store.model = wait if order.get("hold") else lambda: answer
        return measure(lambda: self._store.take_turn(order["key"], question))

    def _read(self, read: Callable[[str], Any], key: str) -> Order:
        found: list[Any] = []
        taken = measure(lambda: found.append(read(key)))
        return {**taken, "count": len(found[0])}

    def _list_texts(self, read: Callable[[str], Any], key: str) -> Order:
        return {"texts": [self._store.read_text(message) for message in read(key)]}

    def _read_fields(self, order: Order) -> Order:
        """Return fields of the last message, as it is loaded and as it is stored."""
        key, names, read = order["key"], order["names"], self._store.read_field
        messages = {"loaded": self._store.load_all(key)[-1], "stored": self._store.list_stored(key)[-1]}
        return {form: {name: read(message, name) for name in names} for form, message in messages.items()}

    def _answer(self, answer: Order) -> None:
        print(json.dumps(answer), file=self._out, flush=True)


def measure(act: Callable[[], object]) -> dict[str, Any]:
    """Run `act`, and return the seconds that passed and those of the processor, all threads together."""
    cpu, wall = time.process_time(), time.perf_counter()
    act()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _write_message(number: int) -> str:
    return write_text(number, ANSWER_CHARACTERS if number % 2 else QUESTION_CHARACTERS)


def main() -> None:
    class_name, place = sys.argv[1:]
    # What a store prints must not come between the answers.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        store = find_store(class_name)(place)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}), file=out, flush=True)
        raise
    print(json.dumps({"ready": os.getpid()}), file=out, flush=True)
    Worker(store, iter(sys.stdin), out).serve()


if __name__ == "__main__":
    main()
