"""Find whether a person edits with the keys of vi or of emacs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from convstore.config.settings_file import read_user_settings

EditingMode = Literal["vi", "emacs"]

_SYSTEM_FILE = Path("/etc/inputrc")
_SETTING = re.compile(r"\s*set\s+editing-mode\s+(vi|emacs)\b", re.IGNORECASE)
_MAX_BYTES = 64 * 1024


def find_editing_mode() -> EditingMode:
    """Return the editing mode that config.toml sets, else the `.inputrc`, else `emacs`.

    The `.inputrc` is found as readline finds it.
    """
    configured = read_user_settings().rendering.get("editing-mode")
    if configured is not None:
        return "vi" if configured == "vi" else "emacs"
    chosen = os.environ.get("INPUTRC")
    home = Path("~/.inputrc").expanduser() if chosen is None else Path(chosen).expanduser()
    for path in (home, _SYSTEM_FILE):
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(_MAX_BYTES)
        except (OSError, RuntimeError):
            continue
        return _read_mode(text)
    return "emacs"


def _read_mode(text: str) -> EditingMode:
    """Return the last `editing-mode` of an inputrc that holds for every program: outside `$if`."""
    mode: EditingMode = "emacs"
    depth = 0
    for line in text.splitlines():
        word = line.strip().lower()
        if word.startswith("$if"):
            depth += 1
        elif word.startswith("$endif"):
            depth = max(0, depth - 1)
        elif not depth and (found := _SETTING.match(line)):
            mode = "vi" if found[1].lower() == "vi" else "emacs"
    return mode
