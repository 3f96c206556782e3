"""Compare what callers were told, and what the model server sent, with what the database holds.

Each check yields violations: sentences that name what is wrong, equal for the same fault in each check.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tests.soak.evidence import Call, Evidence
from tests.soak.journal import Entry
from tests.soak.plan import find_host_name
from tests.soak.snapshot import Said, Snapshot, StoredTurn

CONFLICTS = {"ConversationBusy", "HeadMoved", "LeaseLost"}
FAILURES = {"TurnFailed", "ReplyInterrupted"}
GONE = {"ConversationDeleted", "ConversationNotFound"}
LOST_DATABASE = {"DatabaseUnavailable", "ReplyNotStored"}
"""Allowed while a server is restarted. A SQLite file is always there."""
REFUSED = {
    # There may be nothing to do.
    **dict.fromkeys(("undo", "redo", "edit", "retry", "fork", "checkout", "pin", "unpin"), "InvalidInput"),
    "create": "ConversationExists",  # and is deleted
}
"""By call: how else it may be refused."""

KeyPlace = tuple[str, str, str]
"""An owner, the id of a conversation, and an idempotency key."""


def check_calls(evidence: Evidence, *, has_server: bool) -> Iterator[str]:
    """Yield each call that ended with an error that it must not have."""
    allowed = CONFLICTS | FAILURES | GONE | (LOST_DATABASE if has_server else set())
    for call, told in evidence.list_told():
        error = call.error
        if error is None or error in allowed or error == REFUSED.get(call.does):
            continue
        yield f"{call.where}: {error}: {told['said']}"


def check_acknowledged(evidence: Evidence, snapshot: Snapshot) -> Iterator[str]:
    """Yield what a caller was told to be stored, and is not, or not exactly once."""
    for call, told in evidence.list_told():
        if "made" in told and (call.owner, told["made"]) not in snapshot.conversations:
            yield f"{call.where}: conversation {told['made']!r} is missing"
        for seq, text in told.get("appended", ()):
            said = snapshot.messages.get((call.owner, call.conversation, seq))
            if said is None or said.text != text:
                yield f"{call.where}: the appended message seq {seq} is {_describe(said)}, not {text!r}"
            elif snapshot.texts["user", text] != 1:
                yield f"{call.where}: {text!r} was appended once, and is stored {snapshot.texts['user', text]} times"
        if "attached" in told and (call.owner, call.conversation, told["attached"]) not in snapshot.messages:
            yield f"{call.where}: message seq {told['attached']}, with an image, is missing"
        for number, text in told.get("summaries", ()):
            turn = snapshot.turns.get((call.owner, call.conversation, number))
            if turn is None or turn.status != "completed" or turn.purpose != "summary":
                yield f"{call.where}: the turn {number} of the summary {text!r} is {turn}"
        if "turn" in told:
            yield from _check_turn(call, told, snapshot)


def _is_kept_by_a_stop(turn: StoredTurn, told: Entry, stored: Sequence[Said]) -> bool:
    """Return True if a stop from elsewhere has kept the beginning of a reply: it stays, and the rest comes too late."""
    kept = [said.text for said in stored if said.seq == turn.output and said.role == "assistant"]
    return told.get("error") == "LeaseLost" and len(kept) == 1 and str(told["reply"]).startswith(kept[0])


def _check_turn(call: Call, told: Entry, snapshot: Snapshot) -> Iterator[str]:
    """Yield what differs between a turn that a caller was told about, and the stored one."""
    place = (call.owner, call.conversation, told["turn"])
    where = f"{call.where}: turn {told['turn']}"
    turn = snapshot.turns.get(place)
    if turn is None:
        yield f"{where} is missing"
        return
    if turn.status != told["status"]:
        yield f"{where} was {told['status']}, and is {turn.status}"
    stored = snapshot.of_turn[place]
    if told["reply"] or told["status"] == "completed":
        replies = [said for said in stored if said.role == "assistant" and said.text == told["reply"]]
        # If a turn is taken over, its partial reply may be as long as the whole reply that comes later.
        if not replies or (len(replies) > 1 and told["status"] == "completed"):
            yield f"{where}: the reply {told['reply']!r} is stored {len(replies)} times"
        elif turn.output not in {said.seq for said in replies} and not _is_kept_by_a_stop(turn, told, stored):
            yield f"{where}: its reply is message seq {replies[-1].seq}, but its row names {turn.output}"
    if told["status"] == "completed" and snapshot.texts["assistant", told["reply"]] > 1:
        yield f"{where}: the reply {told['reply']!r} is stored in several places"
    if call.text is not None:
        inputs = [said for said in stored if said.role == "user" and said.text == call.text]
        if len(inputs) != 1:
            yield f"{where}: the message {call.text!r} is stored {len(inputs)} times"


def check_once(snapshot: Snapshot) -> Iterator[str]:
    """Yield what is stored twice, also if nobody was told that it is stored."""
    for place, stored in snapshot.of_turn.items():
        is_whole = place in snapshot.turns and snapshot.turns[place].status == "completed"
        texts = [(said.role, said.text) for said in stored if is_whole or said.role == "user"]
        for role, text in {one for one in texts if texts.count(one) > 1}:
            yield f"{place}: the turn has the {role}'s message {text!r} {texts.count((role, text))} times"
    for (role, text), count in snapshot.texts.items():
        if role == "user" and text.startswith("appended ") and count > 1:
            yield f"{text!r} was appended {count} times"


def check_keys(evidence: Evidence, snapshot: Snapshot) -> Iterator[str]:
    """Yield each key with two completed turns, or that the model was asked about after a completed one."""
    completed: dict[KeyPlace, list[StoredTurn]] = defaultdict(list)
    for turn in snapshot.turns.values():
        if turn.key is not None and turn.status == "completed":
            completed[turn.owner, turn.conversation, turn.key].append(turn)
    told: dict[KeyPlace, dict[int, float]] = defaultdict(dict)
    for call, entry in evidence.list_told():
        if call.key is not None and entry.get("status") == "completed" and call.error is None:
            told[call.owner, call.conversation, call.key].setdefault(entry["turn"], entry["ended"])
    for place, turns in completed.items():
        if len(turns) > 1:
            yield f"key {place}: several completed turns: {sorted(turn.seq for turn in turns)}"
    for place, numbers in told.items():
        if len(numbers) > 1:
            yield f"key {place}: callers were told of several completed turns: {sorted(numbers)}"
    answered = {place: turns[0].request for place, turns in completed.items()}
    for request in evidence.requests.values():
        asking = evidence.calls.get(request.call)
        if asking is None or asking.key is None:
            continue
        place = (asking.owner, asking.conversation, asking.key)
        answer = answered.get(place)
        first_told = min(told[place].values(), default=float("inf"))
        if answer is not None and request.number > answer and _is_asked_again(asking, first_told):
            yield (
                f"key {place}: {asking.where} asked the model (request {request.number}) although request {answer} "
                f"had completed it"
            )


def _is_asked_again(call: Call, first_told: float) -> bool:
    """Return True if a call with a key must not have asked the model.

    A call that began before the other one had completed may ask later if it was taken for dead: its process was
    killed, or stood still for longer than its lease, or had lost its database.
    """
    if call.began > first_told:
        return True
    return call.told is not None and call.error not in {"LeaseLost", *LOST_DATABASE}


def check_replies(evidence: Evidence, snapshot: Snapshot) -> Iterator[str]:
    """Yield each stored reply that the model server did not send for its turn."""
    used: dict[int, StoredTurn] = {}
    for turn in snapshot.turns.values():
        output = None
        if turn.output is not None:
            output = snapshot.messages.get((turn.owner, turn.conversation, turn.output))
        if output is None or turn.window is None:
            continue  # nothing to compare: the checks of the rows see what is missing
        number = turn.request if turn.request is not None else _read_number(output.text)
        request = evidence.requests.get(number) if number is not None else None
        if request is None or request.reply is None:
            if turn.status == "completed" or number is not None:
                yield f"{turn.where}: the server never sent the reply {output.text!r}"
            continue
        if request.number in used:
            yield f"{turn.where}: its reply is also that of turn {used[request.number].seq}"
        used[request.number] = turn
        is_right = output.text == request.reply and request.is_whole
        if turn.status != "completed":
            is_right = request.reply.startswith(output.text)
        if not is_right:
            yield f"{turn.where}: {turn.status} with {output.text!r}, but the server sent {request.reply!r}"
        yield from _check_asked(evidence.calls.get(request.call), turn, snapshot)


def check_one_at_a_time(evidence: Evidence, snapshot: Snapshot) -> Iterator[str]:
    """Yield each two completed turns that held a conversation at the same time.

    A turn holds its conversation before its request arrives, and until after the begin of the transaction that ends it.
    So these times are inside the time in which it must be alone, also if its process stood still.
    """
    held: dict[tuple[str, str], list[tuple[float, float, int]]] = defaultdict(list)
    for turn in snapshot.turns.values():
        request = evidence.requests.get(turn.request) if turn.request is not None else None
        # A summary is written beside other turns.
        if turn.status == "completed" and turn.purpose is None and turn.ended_at is not None and request is not None:
            held[turn.owner, turn.conversation].append((request.at, turn.ended_at.timestamp(), turn.seq))
    for (owner, conversation), times in held.items():
        for (_, end, earlier), (begin, _, later) in pairwise(sorted(times)):
            if begin < end:
                yield (
                    f"owner {owner!r}, conversation {conversation!r}: turn {later} asked the model {end - begin:.3f} s "
                    f"before turn {earlier} ended"
                )


def check_takes(evidence: Evidence) -> Iterator[str]:
    """Yield each live call that a worker of its own host took for dead."""
    takes: dict[tuple[str, int], list[str]] = defaultdict(list)
    for take in evidence.takes:
        takes[take.conversation, take.turn].append(take.by)
    for call, told in evidence.list_told():
        if call.error == "LeaseLost":  # so its process was alive afterwards
            for by in takes[call.conversation, told["turn"]]:
                if find_host_name(by) == find_host_name(call.name):
                    yield f"{call.where}: turn {told['turn']} was taken by worker {by} of its own host, but was alive"


def _check_asked(call: Call | None, turn: StoredTurn, snapshot: Snapshot) -> Iterator[str]:
    """Yield what differs between a turn and the call that asked for its reply."""
    if call is None:
        yield f"{turn.where}: no caller asked for its reply"
        return
    if (call.owner, call.conversation, call.key) != (turn.owner, turn.conversation, turn.key):
        yield f"{turn.where}, key {turn.key!r}: its reply was asked for by {call.where}, key {call.key!r}"
    inputs = snapshot.find_input_texts(turn)
    if call.text is not None and inputs is not None and inputs[-1:] != [call.text]:
        yield f"{turn.where}: its input is {inputs}, but its reply was asked for with {call.text!r}"


def _read_number(text: str) -> int | None:
    """Return the number of the request with which a partial reply begins, if all of it has come."""
    number, space, _ = text.removeprefix("#").partition(" ")
    return int(number) if space and number.isdecimal() else None


def _describe(said: Said | None) -> str:
    return "missing" if said is None else repr(said.text)
