"""Make openai clients, and the arguments of a call.

Every server that speaks Chat Completions works: OpenAI, or a compatible one through `OPENAI_BASE_URL`. The first call
imports openai, and nothing before it does: the import takes half a second.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convstore.config.profile import is_http_url
from convstore.config.settings import ModelServer, choose_server
from convstore.errors import NotConfigured
from convstore.provider.raw_answer import find_url_source, register_made_client
from convstore.provider.stoppable_calls import make_stoppable
from convstore.values.completion_parameters import CALL_OPTIONS

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

_PROXY_SETTINGS = ("http_proxy", "https_proxy", "all_proxy")
NO_API_KEY = "no-key"
"""Stands for a key that a local server does not need; the client requires one."""


def make_client(base_url: str | None = None, profile: str | None = None) -> OpenAI:
    """Return an openai client as the environment and the user's file configure it.

    Args:
        base_url: the URL of a compatible server; None: the one that is in force (`config.settings.choose_server`).
        profile: a profile of the user's file.

    Raises:
        NotConfigured: there is neither a key nor a URL, or a setting cannot be used; the text names the setting.
        InvalidInput: the user's file has a mistake, or no such profile.
    """
    server = choose_server(base_url, profile)
    key = server.read_key()
    if key is None and server.is_default:
        raise NotConfigured(
            "no model to talk to: set OPENAI_API_KEY for OpenAI, or OPENAI_BASE_URL for any server that speaks "
            "Chat Completions",
            missing="server",
        )
    # Named even if it is the default: the openai package takes an empty OPENAI_BASE_URL for a URL.
    base_url = server.base_url
    _check_settings(server, key)
    import openai

    try:
        # Without redirects: a request with the key and the messages must not go to a host that nobody named.
        http_client = make_stoppable(openai.DefaultHttpxClient(follow_redirects=False))
        client = openai.OpenAI(api_key=key or NO_API_KEY, base_url=base_url, max_retries=0, http_client=http_client)
    except openai.OpenAIError as error:
        raise NotConfigured(f"the openai client cannot be made: {error}") from error
    except (ImportError, ValueError, OSError) as error:
        raise NotConfigured(_explain(error)) from error
    return register_made_client(client, http_client, server.source_in_words)


def _check_settings(server: ModelServer, key: str | None) -> None:
    """Check the settings of other programs that the client uses too.

    Without the check, the HTTP library would fail at the first call, or with a message that shows a secret.
    """
    variables = {name: os.environ.get(name, "").strip() for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")}
    for name, value in {(server.key_source or ""): key or "", **variables}.items():
        if not (value.isascii() and value.isprintable()):
            raise NotConfigured(f"{name} has a character that no HTTP header can carry; set it again")
    certificates = os.environ.get("SSL_CERT_FILE")
    if certificates and not Path(certificates).is_file():
        raise NotConfigured(f"SSL_CERT_FILE names {certificates!r:.200}, which is not a file; correct or unset it")
    if not is_http_url(server.base_url):
        # It is not shown, because it may hold a password.
        raise NotConfigured(f"the base URL {server.source_in_words} is not a URL such as http://localhost:8080/v1")


def _explain(error: Exception) -> str:
    """Return why the HTTP client cannot be made. A proxy's URL is not shown, because it may hold a password."""
    proxies = [name for name in os.environ if name.lower() in _PROXY_SETTINGS and os.environ[name]]
    if not proxies:
        return f"the HTTP client cannot be made: {type(error).__name__}: {error}"
    names = ", ".join(sorted(proxies))
    if isinstance(error, ImportError):
        return f"a SOCKS proxy is set ({names}), which needs another package: pip install socksio"
    return f"one of {names} is not the URL of a proxy, such as http://localhost:3128; correct or unset it"


def make_async_client(base_url: str | None = None, profile: str | None = None) -> AsyncOpenAI:
    """Return an async openai client; arguments and errors are those of `make_client`."""
    import openai

    sync = make_client(base_url, profile)
    http_client = openai.DefaultAsyncHttpxClient(follow_redirects=False)
    client = openai.AsyncOpenAI(api_key=sync.api_key, base_url=sync.base_url, max_retries=0, http_client=http_client)
    sync.close()
    return register_made_client(client, http_client, find_url_source(sync))


def disable_retries(client: Any) -> Any:
    """Return the caller's client with its own retries off.

    A retry that convstore does not see could double a reply.
    """
    configure = getattr(client, "with_options", None)
    return configure(max_retries=0) if configure is not None else client


def build_call_arguments(client: Any, request: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments for `chat.completions.create`.

    Args:
        client: a client of the openai package, or one with the same methods.
        request: the parameters of the completion. Those that the client does not name go into `extra_body`.
        options: the options of the call (`CALL_OPTIONS`).
    """
    arguments = {**request, **options}
    completions: type = type(client.chat.completions)
    known = _find_known_parameters(completions)
    unknown = [key for key in request if key not in known] if known else []
    if unknown:
        body = {key: arguments.pop(key) for key in unknown}
        arguments["extra_body"] = {**body, **(arguments.get("extra_body") or {})}
    return arguments


@lru_cache(maxsize=8)
def _find_known_parameters(completions: type) -> frozenset[str]:
    parameters = inspect.signature(completions.create).parameters  # type: ignore[attr-defined]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return frozenset()  # a caller's own client that takes everything
    return frozenset(parameters) | CALL_OPTIONS
