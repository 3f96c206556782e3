"""Find out whether a server answers, accepts the key and has the model."""

from __future__ import annotations

from collections.abc import Iterator

from convstore.config.database_location import mask_url
from convstore.config.settings import choose_model, choose_server
from convstore.errors import ConvstoreError, NotConfigured
from convstore.provider.error_texts import has_version
from convstore.provider.model_list import ModelsNotListed, list_models
from convstore.provider.openai_client import make_client
from convstore.values.health import Finding, HealthTopic, report_ok, report_problem, report_unchecked

_TOPIC = HealthTopic.PROVIDER


def examine_provider(base_url: str | None, profile: str | None) -> Iterator[Finding]:
    """Yield what is found about the server of models and the model that are in force.

    Args:
        base_url: a server that the caller names.
        profile: a profile that the caller names.
    """
    try:
        server = choose_server(base_url, profile)
        client = make_client(base_url, profile)
    except ConvstoreError as error:
        text, _, remedy = str(error).partition(": " if isinstance(error, NotConfigured) and error.missing else "; ")
        subject = "server" if isinstance(error, NotConfigured) and error.missing else "key"
        yield report_problem(HealthTopic.SETTINGS, subject, text, remedy or "see `convstore config`")
        return
    key = f"the key is from {server.key_source}" if server.key_source is not None else "without a key"
    try:
        names = {model.id for model in list_models(client)}
    except ModelsNotListed as error:
        if error.is_refused:
            source = server.key_source or "OPENAI_API_KEY"
            yield report_problem(_TOPIC, "key", f"{error}; {key}", f"correct the key: {source}")
        elif error.has_no_list and not has_version(server.base_url):
            remedy = f"the base URL has no /v1: try {mask_url(server.base_url).rstrip('/')}/v1"
            yield report_problem(_TOPIC, "server", str(error), remedy)
        elif error.has_no_list:
            yield report_ok(_TOPIC, "server", f"{mask_url(server.base_url)} answers, {key}")
            yield report_unchecked(_TOPIC, "model", f"{error}")
        else:
            yield report_problem(
                _TOPIC, "server", str(error), "check that it runs, your network, and the base URL in `convstore config`"
            )
        return
    finally:
        client.close()
    yield report_ok(_TOPIC, "server", f"{mask_url(server.base_url)} lists {len(names)} models, {key}")
    yield _examine_model(choose_model(profile=profile).value, names)


def _examine_model(model: str | None, names: set[str]) -> Finding:
    if model is None:
        remedy = "`convstore config set model NAME`, CONVSTORE_MODEL, or -m; `convstore models` lists them"
        return report_problem(HealthTopic.SETTINGS, "model", "no model is named", remedy)
    # Some servers list `llama3:latest` and take `llama3`.
    if model in names or f"{model}:latest" in names:
        return report_ok(_TOPIC, "model", f"{model!r:.80} is there")
    return report_problem(
        _TOPIC, "model", f"the server does not list {model!r:.80}", "name one that `convstore models` lists"
    )
