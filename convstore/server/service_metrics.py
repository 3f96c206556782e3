"""Measurements of the service in the form of Prometheus: requests, turns, tokens, waiting calls, connections.

No label has an owner, an id, a key or anything else that clients choose freely: each combination of labels is a series
that a monitoring system keeps for months, and whoever reads them would learn who talks about what.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from convstore.messages.completion import Usage
from convstore.store.store_load import StoreLoad
from convstore.values.results import Turn

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER_MODEL = "other"
MAX_MODELS = 20
"""Models with series of their own, in each process; the turns of all others are counted together."""
_MAX_MODEL_CHARACTERS = 100
_STATUSES = frozenset({"completed", "interrupted", "failed"})
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "DELETE"})
_REQUEST_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TURN_SECONDS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 300, 600)
_FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60)


class ServiceMetrics:
    """What one process has measured; with several processes, each can tell what all have.

    Args:
        folder: where the processes of a service keep their numbers; None: there is only this process. The variable
            `PROMETHEUS_MULTIPROC_DIR` must say the same: prometheus_client reads it when it is imported.
    """

    def __init__(self, folder: str | None = None) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        from prometheus_client.multiprocess import MultiProcessCollector

        self._registry = CollectorRegistry()
        own: Any = self._registry
        if folder is not None:
            MultiProcessCollector(self._registry, folder)  # type: ignore[no-untyped-call]
            own = None
        self._models: set[str] = set()
        self._requests = Counter(
            "convstore_http_requests",
            "Requests, by route and status.",
            ("method", "route", "status"),
            registry=own,
        )
        self._request_seconds = Histogram(
            "convstore_http_request_seconds",
            "Seconds from the head of a request to the end of its answer, by route.",
            ("method", "route"),
            buckets=_REQUEST_SECONDS,
            registry=own,
        )
        self._turns = Counter("convstore_turns", "Ended turns, by status and model.", ("status", "model"), registry=own)
        self._tokens = Counter(
            "convstore_turn_tokens",
            "Tokens that the provider reported, by kind; cached ones are part of input, reasoning ones of output.",
            ("kind", "model"),
            registry=own,
        )
        self._turn_seconds = Histogram(
            "convstore_turn_seconds",
            "Seconds from the call of the model to the end of its answer, of completed turns.",
            ("model",),
            buckets=_TURN_SECONDS,
            registry=own,
        )
        self._first_token_seconds = Histogram(
            "convstore_turn_first_token_seconds",
            "Seconds from the call of the model to the first piece of a streamed answer.",
            ("model",),
            buckets=_FIRST_TOKEN_SECONDS,
            registry=own,
        )
        how: Any = {"registry": own, "multiprocess_mode": "livesum"}
        self._running = Gauge("convstore_turns_running", "Turns that run.", **how)
        self._waiting = Gauge("convstore_turns_waiting", "Calls that wait for a conversation.", **how)
        self._connections = Gauge(
            "convstore_database_connections", "Open connections to the database, by state.", ("state",), **how
        )

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            route: the pattern of the route, never the path; `-`: none.
            status: 0: the client left before the answer.
        """
        method = method if method in _METHODS else "-"
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def observe_turn(
        self,
        status: str,
        seconds: float | None = None,
        first_token_seconds: float | None = None,
        usage: Mapping[str, Any] | None = None,
        model: str | None = None,
    ) -> None:
        """Count a turn that has ended.

        Args:
            status: a `TurnStatus`.
            seconds: from the call of the model to the end of its answer.
            first_token_seconds: from the call to the first piece of a streamed answer.
            usage: the provider's report of tokens.
            model: the model that the provider named in its answer. What a client asks for is no such name: anybody
                could make any number of series with it.
        """
        label = self._choose_label(model)
        self._turns.labels(status if status in _STATUSES else "other", label).inc()
        if seconds is not None and status == "completed":
            self._turn_seconds.labels(label).observe(seconds)
        if first_token_seconds is not None:
            self._first_token_seconds.labels(label).observe(first_token_seconds)
        counted = Usage(usage or {})
        kinds = (
            ("input", counted.prompt_tokens),
            ("output", counted.completion_tokens),
            ("cached", counted.cached_tokens),
            ("reasoning", counted.reasoning_tokens),
        )
        for kind, tokens in kinds:
            if tokens is not None and tokens > 0:
                self._tokens.labels(kind, label).inc(tokens)

    def observe_stored_turn(self, turn: Turn) -> None:
        """Count a turn that has ended, as it is stored."""
        with suppress(OSError, ValueError):  # the disk is full: the turn is stored all the same
            self.observe_turn(turn.status, turn.latency, turn.time_to_first_token, turn.usage, turn.model)

    def set_load(self, load: StoreLoad) -> None:
        """Note how busy this process is."""
        self._running.set(load.running_turns)
        self._waiting.set(load.waiting_calls)
        self._connections.labels("used").set(load.used_connections)
        self._connections.labels("idle").set(load.idle_connections)

    def render(self) -> bytes:
        """Return all measurements in Prometheus's text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def _choose_label(self, model: str | None) -> str:
        if not model:
            return ""
        if model not in self._models:
            is_sound = len(model) <= _MAX_MODEL_CHARACTERS and model.isprintable()
            if not is_sound or len(self._models) >= MAX_MODELS:
                return OTHER_MODEL
            self._models.add(model)
        return model
