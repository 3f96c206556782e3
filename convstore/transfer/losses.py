"""Say in words what could not be carried over."""

from __future__ import annotations

from collections.abc import Mapping


def list_losses(losses: Mapping[str, int]) -> list[str]:
    """Return notes: what was lost, and how often."""
    return [text if count == 1 else f"{text} ({count} times)" for text, count in losses.items()]
