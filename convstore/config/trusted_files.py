"""Remember which project files the user trusts: each by its path and its content.

After any change of the file, it is no longer trusted.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from convstore.config.user_folders import find_user_folder, require_config_folder, write_private_file
from convstore.errors import InvalidInput

_TRUSTED_NAME = "trusted.json"


def is_trusted(path: Path, text: str) -> bool:
    """Return True if the user trusts the file at a path with this content."""
    folder = find_user_folder("user_config_dir")
    if folder is None:
        return False
    return _read(folder / _TRUSTED_NAME).get(os.path.realpath(path)) == _digest(text)


def trust_file(path: Path, text: str) -> None:
    """Remember that the user trusts a file with this content.

    Raises:
        InvalidInput: the list of trusted files cannot be written.
    """
    target = require_config_folder() / _TRUSTED_NAME
    trusted = {**_read(target), os.path.realpath(path): _digest(text)}
    write_private_file(target, json.dumps(trusted, indent=1, sort_keys=True) + "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise InvalidInput(f"the list of trusted files {path} is damaged: remove it, and trust them again") from None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InvalidInput(f"the list of trusted files {path} is damaged: remove it, and trust them again")
    return found
