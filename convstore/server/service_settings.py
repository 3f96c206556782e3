"""Settings of the service."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

LOOPBACK_NAME = "localhost"


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How the service runs. Processes hand it to each other, so it holds plain values alone."""

    database: str | None
    """As `Store` takes it."""
    schema: str | None = None
    host: str = "127.0.0.1"
    port: int = 8377
    workers: int = 1
    upstream: str | None = None
    """The base URL of the server that requests are forwarded to; None: the one that is in force."""
    profile: str | None = None
    """A profile of the user's file of settings, for the upstream."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that clients may call the service by, besides those of the loopback and the bound address."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the service, such as `https://chat.example.org`."""
    requests_a_minute: int = 6000
    """Per key and process; 0: any number."""
    failures_a_minute: int = 60
    """Wrong keys, per address and process; 0: any number."""
    max_turns: int = 0
    """Turns of an owner that may run at one time, unless the key says another number; 0: any number."""
    max_tokens_a_day: int = 0
    """Tokens that an owner may use on a day in UTC, unless the key says another number; 0: any number."""
    max_body_bytes: int = 32 * 2**20
    read_seconds: float = 30.0
    """Within which a client must have sent the head of a request, and then its body."""
    grace_seconds: int = 30
    """How long requests may go on after the service was asked to end."""
    max_connections: int = 1000
    """Per process."""
    wait_seconds: float = 30.0
    """How long a request waits for a conversation that it names, while another turn runs there."""
    matches_cut: bool = True
    """Whether a list without its beginning goes on in the conversation that ends with it."""
    keeps_side_requests_apart: bool = True
    """Whether requests for titles and tags, which programs send on the side, have conversations of their own."""
    passes: tuple[str, ...] = ()
    """What is forwarded without being recorded: `embeddings`."""
    routes: tuple[tuple[str, str], ...] = ()
    """Patterns of models, such as `claude-*`, each with the profile of the server that is asked for them."""
    stops_when_left: bool = False
    """Whether a call is stopped when its client leaves; else the reply is received to its end, and stored."""
    certificate: str | None = None
    private_key: str | None = None
    metrics_folder: str | None = None
    """Where the processes keep their measurements; None: there is one process."""


def read_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an IP address. One of IPv4 that a socket of IPv6 shows (`::ffff:10.0.0.1`) is one of IPv4.

    Raises:
        ValueError: the text is no address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback_address(text: str) -> bool:
    """Return True if the text is an IP address of this machine alone."""
    try:
        return read_address(text).is_loopback
    except ValueError:
        return False


def is_loopback_name(text: str) -> bool:
    """Return True if the text is a name or an address of this machine alone."""
    return text == LOOPBACK_NAME or is_loopback_address(text)
