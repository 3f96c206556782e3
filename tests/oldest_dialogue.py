"""Use the store in many ways; a test runs this program with the oldest direct dependencies, outside of the checkout."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from openai import AsyncOpenAI, OpenAI

from convstore import AsyncStore, ReplyInterrupted, Store, TurnFailed
from convstore.testing import ChatServer, Failure, Reply
from convstore.transfer.writers.html_markdown import render_markdown


def converse(server: ChatServer, store: Store) -> str:
    """Say, fail, repeat, go back and fork; return the id of the conversation."""
    id = store.new("Olympics", system="Be brief.").id
    assert store.say(id, "Hi").text == "You said: Hi"
    with store.stream(id, "And") as reply:
        assert "".join(reply) == "You said: And"
    server.script(Failure(500))
    assert isinstance(_fail(store, id), TurnFailed)
    _stop(server, store, id)
    assert store.retry(id).text == "You said: Lost"
    store.undo(id)
    fork = store.fork(id)
    assert fork.forked_from == id
    assert {conversation.id for conversation in store.list()} == {id, fork.id}
    return id


def _fail(store: Store, id: str) -> Exception:
    try:
        store.say(id, "Lost")
    except Exception as error:
        return error
    raise AssertionError("the call succeeded")


def _stop(server: ChatServer, store: Store, id: str) -> None:
    """Stop a call to a silent server: this reaches into the HTTP client."""
    begun = threading.Event()
    server.script(Reply("Never", hold=threading.Event(), started=begun))
    with Store() as other, ThreadPoolExecutor(1) as thread:
        failed = thread.submit(_fail, store, id)
        assert begun.wait(60)
        assert other.stop(id, wait=60)
        assert isinstance(failed.result(), ReplyInterrupted)


async def converse_in_tasks(url: str, id: str) -> None:
    """Say, whole and streamed, with an AsyncStore."""
    async with AsyncStore(base_url=url) as store:
        assert (await store.say(id, "Later")).text == "You said: Later"
        async with store.stream(id, "Last") as reply:
            assert "".join([piece async for piece in reply]) == "You said: Last"


async def converse_with_own_clients(url: str) -> None:
    """Say with clients that are made by their caller, as by openai's own settings."""
    with Store(client=OpenAI(base_url=url)) as store:
        id = store.new().id
        assert store.say(id, "Mine").text == "You said: Mine"
    async with AsyncStore(client=AsyncOpenAI(base_url=url)) as tasks:
        assert (await tasks.say(id, "Ours")).text == "You said: Ours"


def main() -> None:
    """Converse until the server is gone, and print the id and the number of messages."""
    with ChatServer() as server:
        url = server.url
        with Store(base_url=url, retries=0) as store:
            id = converse(server, store)
        asyncio.run(converse_in_tasks(url, id))
        asyncio.run(converse_with_own_clients(url))
    with Store(base_url=url, retries=0) as store:
        refused = _fail(store, id)
        assert isinstance(refused, TurnFailed)
        assert "connect" in str(refused), refused
        assert render_markdown("*a* [b](https://c.d)").startswith('<p><em>a</em> <a href="https://c.d"')
        print(id, len(store.history(id)))


if __name__ == "__main__":
    main()
