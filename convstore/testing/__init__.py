"""A scriptable Chat Completions server for tests: real HTTP and SSE on loopback, no model and no network.

    from convstore.testing import ChatServer, Failure, Reply

    with ChatServer() as server:
        server.script(Failure(429, retry_after=1), Reply("Hello"))
        ...  # call a model at server.url
        assert server.requests[-1].body["messages"][-1]["content"] == "Hi"

It needs the standard library alone. ``python -m convstore.testing`` runs one that echoes, in the foreground.
"""

from convstore.testing.responses import Drop, Failure, Raw, Reply, Response, echo
from convstore.testing.server import ChatServer, Request

__all__ = ["ChatServer", "Drop", "Failure", "Raw", "Reply", "Request", "Response", "echo"]
