"""Run the application: the socket, one or several processes, and their end."""

from __future__ import annotations

import importlib.util
import os
import pwd
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from convstore.errors import InvalidInput
from convstore.server.application import make_application
from convstore.server.metrics_folder import forget_process, open_metrics_folder
from convstore.server.service_settings import ServiceSettings, is_loopback_address, is_loopback_name
from convstore.server.slow_heads import MAX_HEAD_BYTES, ServiceConfig, TimedProtocol

_FIRST_PERSON = 1000
"""Accounts of people begin here on most systems; smaller numbers are those of programs."""
_NOBODY = 65534
_BACKLOG = 2048
_NO_SHELLS = ("nologin", "false", "sync")


if importlib.util.find_spec("prometheus_client") is None:  # it is imported later, when its folder is known
    raise ModuleNotFoundError("no module named 'prometheus_client'", name="prometheus_client")


def check_settings(settings: ServiceSettings, *, has_keys: bool) -> None:
    """Check that a service may be started so.

    Raises:
        InvalidInput: it would be open to others without a key, or a setting is not valid.
    """
    if not has_keys and not is_loopback_name(settings.host):
        raise InvalidInput(
            f"without a key, only this machine is served, and {settings.host!r} is an address for others; "
            "`convstore keys create` makes a key"
        )
    if (settings.certificate is None) != (settings.private_key is None):
        raise InvalidInput("a certificate and its private key need each other")
    for origin in settings.cors_origins:
        if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
            raise InvalidInput(
                f"an origin is a scheme, a name and a port, such as https://chat.example.org, not {origin!r:.80}"
            )


def open_socket(settings: ServiceSettings) -> socket.socket:
    """Return the socket that the service listens on.

    Raises:
        InvalidInput: the address does not exist here, or another program uses it.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # `localhost` may be an address of each kind: most clients try that of IPv4, too.
        family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        # With the number of the protocol: asyncio sends small pieces at once (TCP_NODELAY) only if it sees that.
        bound = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise _name_problem(settings, error) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
        bound.settimeout(0.0)
        if is_loopback_name(settings.host) and not is_loopback_address(bound.getsockname()[0]):
            raise InvalidInput(f"{settings.host!r} is not an address of this machine alone")
    except OSError as error:
        bound.close()
        raise _name_problem(settings, error) from error
    except BaseException:
        bound.close()
        raise
    return bound


def _name_problem(settings: ServiceSettings, error: Exception) -> InvalidInput:
    reason = getattr(error, "strerror", None) or error
    return InvalidInput(f"cannot listen on {settings.host}:{settings.port}: {reason}")


def describe_address(settings: ServiceSettings, bound: socket.socket) -> str:
    """Return the address of the service as a URL."""
    scheme = "https" if settings.certificate is not None else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{bound.getsockname()[1]}"


def run_service(settings: ServiceSettings, bound: socket.socket, prepare: Callable[[], object] | None = None) -> None:
    """Serve until a signal ends the service; requests that run then have the time of grace.

    Args:
        prepare: called first in each process.
    """
    with open_metrics_folder(settings.workers) as folder:
        _run(replace(settings, metrics_folder=folder), bound, prepare)


def _run(settings: ServiceSettings, bound: socket.socket, prepare: Callable[[], object] | None) -> None:
    config = ServiceConfig(
        partial(_start, settings, prepare),
        factory=True,
        workers=settings.workers,
        http=TimedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the address of a client is never what a header says
        server_header=False,
        limit_concurrency=settings.max_connections,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=settings.grace_seconds,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.private_key,
    )
    config.head_seconds = settings.read_seconds
    if settings.workers > 1:
        workers = _Workers(config, sockets=[bound])
        workers.metrics_folder = settings.metrics_folder
        workers.run()
        if workers.was_interrupted:
            raise KeyboardInterrupt
        return
    server = uvicorn.Server(config)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it on purpose
        signal.signal(signal.SIGHUP, server.handle_exit)
    try:
        server.run(sockets=[bound])
    except SystemExit as error:  # uvicorn raises the signal again, after it has ended well
        if error.code not in (128 + signal.SIGTERM, 128 + signal.SIGHUP):
            raise


class _Workers(Multiprocess):
    """Several processes; one that dies is started again."""

    was_interrupted = False
    metrics_folder: str | None = None
    _pids: frozenset[int | None] = frozenset()

    def handle_int(self) -> None:
        self.was_interrupted = True
        super().handle_int()

    def keep_subprocess_alive(self) -> None:
        before = self._pids | {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        self._pids = frozenset(process.pid for process in self.processes)
        for pid in before - self._pids:  # also those that SIGHUP has replaced
            if pid is not None and self.metrics_folder is not None:
                forget_process(self.metrics_folder, pid)


def _start(settings: ServiceSettings, prepare: Callable[[], object] | None) -> ASGIApp:
    if prepare is not None:
        prepare()
    return make_application(settings)


def has_other_people() -> bool:
    """Return True if other people have accounts on this machine: they can reach a service on the loopback."""
    return any(
        _FIRST_PERSON <= entry.pw_uid != os.getuid()
        and entry.pw_uid != _NOBODY
        and not entry.pw_shell.endswith(_NO_SHELLS)
        for entry in pwd.getpwall()
    )
