"""Send a client's own body to the model's server, and read the answer as bytes.

The openai package would parse the body and the answer, and send and give back something else. Only the key and the URL
are its client's; so is the HTTP client with its connections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from convstore.provider.raw_answer import get_http_client

COMPLETIONS = "chat/completions"


class ByteAnswer:
    """The head of an answer, and what reads its body.

    Args:
        response: of the HTTP library that the openai package uses.
    """

    def __init__(self, response: Any) -> None:
        self.response = response
        self._pieces: AsyncIterator[bytes] = response.aiter_bytes()

    @property
    def status(self) -> int:
        """The HTTP status."""
        status: int = self.response.status_code
        return status

    @property
    def headers(self) -> Mapping[str, str]:
        """All headers, by names in lower case."""
        headers: Mapping[str, str] = self.response.headers
        return headers

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of events."""
        return self.headers.get("content-type", "").lower().startswith("text/event-stream")

    def iterate(self) -> AsyncIterator[bytes]:
        """Return the one iterator over the body, decompressed."""
        return self._pieces

    async def close(self) -> None:
        """Close the connection if the body was not read to its end."""
        await self.response.aclose()


async def send_body(client: Any, path: str, body: bytes) -> ByteAnswer:
    """Send a body, and return the answer when its head has come.

    Args:
        client: an async openai client that convstore made.
        path: below the base URL.

    Raises:
        Exception: an error of the HTTP library.
    """
    http_client = get_http_client(client)
    request = http_client.build_request("POST", f"{client.base_url}{path}", headers=_list_headers(client), content=body)
    return ByteAnswer(await http_client.send(request, stream=True))


def _list_headers(client: Any) -> dict[str, str]:
    """Return the headers of a request: nothing of them comes from the client of the service."""
    named = {"OpenAI-Organization": client.organization, "OpenAI-Project": client.project}
    return {
        "Accept": "application/json, text/event-stream",
        "Authorization": f"Bearer {client.api_key}",
        "Content-Type": "application/json",
        "User-Agent": "convstore",
        **{name: value for name, value in named.items() if value},
    }
