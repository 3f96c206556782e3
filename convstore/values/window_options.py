"""Check and merge the options of a window: which part of the history is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from convstore.errors import InvalidParameter

_SWITCHES = frozenset({"history", "fill_missing_tools", "send_reasoning", "accept_done", "cache_stable"})
_MAY_BE_ZERO = frozenset({"last", "keep_last"})
_MAX_NUMBER = 2**53  # the largest whole number that every reader of JSON keeps exact


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """The options of one window. The defaults send the whole history."""

    history: bool = True
    """False: send only the new message."""
    last: int | None = None
    """The largest number of turns of the history to send; None: all."""
    max_context: int | None = None
    """The largest number of tokens that the request may have; None: any number."""
    cache_stable: bool = True
    """With `max_context`: True: the window begins where the one before began, until that no longer fits; then it gets a
    quarter smaller. So most of a request is the beginning of the next one, which providers cache. False: the window
    begins as early as fits."""
    on_overflow: str = "error"
    """What to do if the provider finds the request too long: `"error"`, or `"trim"` it and call once more."""
    fill_missing_tools: bool = False
    """True: send a placeholder for each tool call without a result; False: raise an error."""
    send_reasoning: bool = False
    """True: send the model its own reasoning back."""
    send_extra: tuple[str, ...] = ()
    """Fields of the model's own messages to send back although the API does not have them, such as a vendor's."""
    accept_done: bool = False
    """True: a stream that ends with `[DONE]` is complete, even without a `finish_reason`."""
    compact_at: int | None = None
    """If a request has this many tokens or more, the conversation is compacted after the turn; None: never."""
    keep_last: int = 2
    """The number of last turns that a summary does not cover."""

    @property
    def keeps_beginning(self) -> bool:
        """Whether the window begins where the one before began, if that fits."""
        return self.cache_stable and self.max_context is not None and self.last is None

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Return the options that a mapping names; options of a later release are ignored."""
        known = {name: value for name, value in options.items() if name in WINDOW_OPTION_NAMES}
        if "send_extra" in known:
            known["send_extra"] = tuple(known["send_extra"])
        return cls(**known)

    def changed(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, by name."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name in _NAMES
            if (value := getattr(self, name)) != getattr(DEFAULT_WINDOW_OPTIONS, name)
        }


_NAMES = tuple(field.name for field in fields(WindowOptions))
DEFAULT_WINDOW_OPTIONS = WindowOptions()
WINDOW_OPTION_NAMES = frozenset(_NAMES)


def check_window_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return window options, checked; a value of None removes a sticky option.

    Raises:
        InvalidParameter: an option breaks a rule; the message states the rule.
    """
    for name, value in given.items():
        if value is None:
            continue
        if name in _SWITCHES:
            if not isinstance(value, bool):
                raise InvalidParameter(f"{name} must be true or false, not {value!r:.80}")
        elif name == "send_extra":
            if not isinstance(value, (list, tuple)) or not all(isinstance(field, str) and field for field in value):
                raise InvalidParameter(f"send_extra must be a list of names of fields, not {value!r:.80}")
        elif name == "on_overflow":
            if value not in ("error", "trim"):
                raise InvalidParameter(f'on_overflow must be "error" or "trim", not {value!r:.80}')
        else:
            least = 0 if name in _MAY_BE_ZERO else 1
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _MAX_NUMBER:
                raise InvalidParameter(f"{name} must be a whole number of at least {least}, not {value!r:.80}")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def merge_window_options(sticky: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sticky options, changed by checked ones; None removes one."""
    return {name: value for name, value in {**sticky, **given}.items() if value is not None}


def split_window_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split arguments into window options, checked, and all others.

    Raises:
        InvalidParameter: an option breaks a rule.
    """
    options = {name: value for name, value in given.items() if name in WINDOW_OPTION_NAMES}
    others = {name: value for name, value in given.items() if name not in WINDOW_OPTION_NAMES}
    return check_window_options(options), others
