"""Ask a server which models it has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from convstore.errors import ConvstoreError

if TYPE_CHECKING:
    from openai import OpenAI

_TIMEOUT_SECONDS = 15.0
_MAX_MODELS = 10_000


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as a server lists it."""

    id: str
    owner: str | None
    """Who has made it, as the server says."""
    created_at: datetime | None


class ModelsNotListed(ConvstoreError):
    """A server did not list its models; the text does not quote the server."""

    def __init__(self, message: str, *, is_refused: bool = False, has_no_list: bool = False) -> None:
        super().__init__(message)
        self.is_refused = is_refused
        """Whether the server did not accept the key."""
        self.has_no_list = has_no_list
        """Whether the server answers, and has no list of models."""


def list_models(client: OpenAI) -> list[ListedModel]:
    """Return the models that a server lists, sorted by name.

    Raises:
        ModelsNotListed: the server did not answer with a list.
    """
    import openai

    found: dict[str, ListedModel] = {}
    server = f"{client.base_url.scheme}://{client.base_url.netloc.decode('ascii', 'replace').rpartition('@')[2]}"
    try:
        for model in client.with_options(timeout=_TIMEOUT_SECONDS).models.list():
            name = getattr(model, "id", None)
            if isinstance(name, str) and name:
                found[name] = ListedModel(name, _read_owner(model), _read_moment(model))
            if len(found) >= _MAX_MODELS:
                break
    except openai.APIConnectionError as error:
        kind = "did not answer in time" if isinstance(error, openai.APITimeoutError) else "cannot be reached"
        raise ModelsNotListed(f"the server {server} {kind}") from None
    except openai.APIStatusError as error:
        raise _explain_status(server, error.status_code) from None
    except (openai.OpenAIError, ValueError, TypeError, AttributeError):
        raise ModelsNotListed(f"the server {server} answers with what is no list", has_no_list=True) from None
    return sorted(found.values(), key=lambda model: model.id)


def _explain_status(server: str, status: int) -> ModelsNotListed:
    # The server's own text is left out: it may quote a part of the key.
    if status in (401, 403):
        return ModelsNotListed(f"the server {server} does not accept the key ({status})", is_refused=True)
    if status in (404, 405, 501):
        return ModelsNotListed(f"the server {server} does not list its models ({status})", has_no_list=True)
    return ModelsNotListed(f"the server {server} answered with {status}")


def _read_owner(model: Any) -> str | None:
    owner = getattr(model, "owned_by", None)
    return owner if isinstance(owner, str) and owner else None


def _read_moment(model: Any) -> datetime | None:
    created = getattr(model, "created", None)
    try:
        return datetime.fromtimestamp(created, UTC) if isinstance(created, int) and created > 0 else None
    except (OverflowError, OSError, ValueError):
        return None
