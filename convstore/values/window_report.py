"""Define the report on a window: which messages a request held and left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from convstore.values.identifiers import Seq, TurnNumber
from convstore.values.window_options import DEFAULT_WINDOW_OPTIONS, WindowOptions


@dataclass(frozen=True, slots=True)
class WindowReport:
    """Which messages one request holds."""

    history: int
    """Number of messages of the path that are sent."""
    from_seq: Seq | None
    """The request holds every message from this one to the head; None: it holds no such part of the path."""
    tokens: int | None
    """Estimated tokens of the request for its model; None: an earlier release stored the turn."""
    left_out: int = 0
    """Number of messages of the path that are not sent."""
    context: tuple[Seq, ...] = ()
    """System and developer messages that are sent from before `from_seq`."""
    pinned: tuple[Seq, ...] = ()
    """Pinned messages that are sent from before `from_seq`."""
    summary: TurnNumber | None = None
    """The turn that wrote the summary in the request; None: the request holds no summary."""
    filled: tuple[str, ...] = ()
    """Ids of the tool calls that a placeholder answers."""
    changes: tuple[str, ...] = ()
    """What was changed in the model's own messages so that every server accepts them."""
    options: WindowOptions = DEFAULT_WINDOW_OPTIONS
    """The options that the window was built with."""

    @property
    def is_partial(self) -> bool:
        """True if the request is not just the whole history and the new message."""
        return bool(self.left_out or self.summary is not None or self.filled or self.changes)

    def to_json_object(self) -> dict[str, Any]:
        """Return the report as a JSON object; empty and default values are left out."""
        optional = {
            "left_out": self.left_out,
            "context": list(self.context),
            "pinned": list(self.pinned),
            "summary": self.summary,
            "filled": list(self.filled),
            "changes": list(self.changes),
            "options": self.options.changed(),
        }
        return {
            "history": self.history,
            "from_seq": self.from_seq,
            **{name: value for name, value in optional.items() if value},
            **({"tokens": self.tokens} if self.tokens is not None else {}),
        }

    @classmethod
    def from_json_object(cls, value: Mapping[str, Any]) -> Self:
        """Return the report in a JSON object of this release or an earlier one.

        Raises:
            TypeError, ValueError, AttributeError: the object has another form.
        """
        return cls(
            history=int(value.get("history", 0)),
            from_seq=value.get("from_seq"),
            tokens=value.get("tokens"),
            left_out=int(value.get("left_out", 0)),
            context=tuple(value.get("context", ())),
            pinned=tuple(value.get("pinned", ())),
            summary=value.get("summary"),
            filled=tuple(value.get("filled", ())),
            changes=tuple(value.get("changes", ())),
            options=WindowOptions.from_dict(value.get("options", {})),
        )
