"""Ask a provider which models it offers."""

from __future__ import annotations

from typing import Any

_SECONDS = 10.0


class ModelsNotListed(Exception):
    """The provider does not tell which models it offers."""


def list_offered_models(client: Any) -> list[str]:
    """Return the names of the models that a provider offers, in alphabetical order.

    Args:
        client: a sync client of the openai package.

    Raises:
        ModelsNotListed: it does not tell.
    """
    import openai

    try:
        return sorted(model.id for model in client.models.list(timeout=_SECONDS))
    except openai.OpenAIError as error:
        raise ModelsNotListed(f"the server lists no models ({type(error).__name__})") from error
