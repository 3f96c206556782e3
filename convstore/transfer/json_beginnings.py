"""Parse the beginning of a JSON text that goes on beyond it."""

from __future__ import annotations

import re
from typing import Any

from convstore.transfer.checked_json import UnreadableJson, parse_json

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},]|"', re.DOTALL)
_CLOSERS = {b"[": b"]", b"{": b"}"}


def parse_beginning(data: bytes) -> Any:
    """Return the value that the bytes begin, without what is not whole in it; None if they begin no JSON."""
    closers: list[bytes] = []
    whole = b""
    for found in _TOKEN.finditer(data):
        token = found[0]
        if token in _CLOSERS:
            closers.append(_CLOSERS[token])
            whole = data[: found.end()] + b"".join(reversed(closers))
        elif token in (b"]", b"}"):
            if not closers or closers.pop() != token:
                return None
            if not closers:
                whole = data[: found.end()]
                break
        elif token == b"," and closers:
            whole = data[: found.start()] + b"".join(reversed(closers))
        elif token == b'"':
            break
    try:
        return parse_json(whole) if whole else None
    except UnreadableJson:
        return None
