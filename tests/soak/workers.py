"""A worker process: a lane with a `Store`, and a lane with an `AsyncStore`, each in a thread."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import openai

from convstore import AsyncStore, Store, Turn
from convstore.leases import takeover
from tests.faults.driven import drive
from tests.processes import Channel
from tests.soak.journal import Journal
from tests.soak.lanes import Lane, Target
from tests.soak.model_server import CALL_HEADER, CALM, wait_for_end
from tests.soak.plan import OWNERS, Plan

Opener = Callable[[Plan, str, str, Lane], Any]


def work(channel: Channel, *, plan: dict[str, Any], url: str, base_url: str, name: str) -> None:
    """Make random calls until the soak says so, or has ended; run in a child."""
    settings = Plan(**plan)
    # A worker that does not end is asked where it stands.
    with (
        Path(settings.folder, f"{name}.stacks").open("w") as stacks,
        closing(Journal(settings.journals / f"{name}-takes.jsonl")) as takes,
        noting_takes(takes, name),
    ):
        faulthandler.register(signal.SIGUSR1, file=stacks)
        stop = threading.Event()
        lanes = [
            threading.Thread(target=_run_lane, args=(channel, opener, settings, (url, base_url), f"{name}{kind}", stop))
            for kind, opener in (("s", open_sync), ("a", open_async))
        ]
        for lane in lanes:
            lane.start()
        wait_for_end(channel)
        stop.set()
        for lane in lanes:
            lane.join()
        faulthandler.unregister(signal.SIGUSR1)


@contextmanager
def noting_takes(journal: Journal, name: str) -> Iterator[None]:
    """Write into a journal which turns this process takes for dead."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "which died" in record.msg and isinstance(record.args, tuple):
                conversation, turn = record.args
                journal.write({"took": turn, "conversation": conversation, "by": name})

    notes = Notes()
    logging.getLogger(takeover.__name__).addHandler(notes)
    try:
        yield
    finally:
        logging.getLogger(takeover.__name__).removeHandler(notes)


def _run_lane(
    channel: Channel, opener: Opener, plan: Plan, urls: tuple[str, str], name: str, stop: threading.Event
) -> None:
    journal = Journal(plan.journals / f"{name}.jsonl")
    lane = Lane(name, plan, journal)
    try:
        with opener(plan, *urls, lane) as store:
            lane.run({owner: store.for_owner(owner) for owner in OWNERS}, stop)
    except BaseException:  # else the soak would go on without this lane
        channel.send(["failed", traceback.format_exc()])
    finally:
        journal.close()


def settle_all(
    channel: Channel, *, plan: dict[str, Any], url: str, base_url: str, places: list[tuple[str, str, bool]]
) -> None:
    """Use each conversation once more, and report the errors; run in a child."""
    settings = Plan(**plan)
    journal = Journal(settings.journals / f"{CALM}.jsonl")
    lane = Lane(CALM, settings, journal)
    with open_sync(settings, url, base_url, lane) as store:
        for owner, id, is_deleted in places:
            target = Target(owner, id)
            told = lane.settle(store.for_owner(owner), target, is_deleted=is_deleted)
            channel.send(["told", [f"{target}: {one['said']}" for one in told if "error" in one]])
    journal.close()


@contextmanager
def open_sync(plan: Plan, url: str, base_url: str, lane: Lane) -> Iterator[Store]:
    """Yield a `Store` that names the lane's call in each request."""

    def mark(request: Any) -> None:
        request.headers[CALL_HEADER] = lane.call

    http = openai.DefaultHttpxClient(trust_env=False, verify=False, event_hooks={"request": [mark]})
    with (
        openai.OpenAI(api_key="test", base_url=base_url, http_client=http) as client,
        Store(url, client=client, model="test-model", lease=plan.lease) as store,
    ):
        yield store


@contextmanager
def open_async(plan: Plan, url: str, base_url: str, lane: Lane) -> Iterator[Store]:
    """Yield an `AsyncStore` that does the same, driven as a `Store`."""

    async def mark(request: Any) -> None:
        request.headers[CALL_HEADER] = lane.call

    http = openai.DefaultAsyncHttpxClient(trust_env=False, verify=False, event_hooks={"request": [mark]})
    client = openai.AsyncOpenAI(api_key="test", base_url=base_url, http_client=http)
    with asyncio.Runner() as runner:
        store = AsyncStore(url, client=client, model="test-model", lease=plan.lease)

        def ask_briefly(owner: str, id: str, text: str, seconds: float) -> Turn:
            async def ask() -> Turn:
                return await asyncio.wait_for(store.for_owner(owner).say(id, text, wait=10), seconds)

            return runner.run(ask())

        lane.ask_briefly = ask_briefly
        try:
            yield drive(store, runner)
        finally:
            runner.run(store.close())
            runner.run(client.close())
