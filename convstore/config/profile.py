"""Define a profile: a server of models, and where its key comes from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from convstore.errors import NotConfigured

_CORRECT = "`convstore config edit`"
_KEY_COMMAND_SECONDS = 120.0  # a password manager may ask for a passphrase


def is_http_url(text: str) -> bool:
    """Return True if a text is a URL that a client can call."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, or a broken IPv6 address
        return False


@dataclass(frozen=True, slots=True)
class Profile:
    """A server of models by a name, as the user's `config.toml` has it."""

    name: str
    base_url: str | None = None
    model: str | None = None
    key_variable: str | None = None
    """The environment variable that has the key."""
    key_command: str | None = None
    """A shell command that prints the key."""
    key: str | None = field(default=None, repr=False)

    @property
    def key_source(self) -> str | None:
        """Where the key comes from, in words; None: the profile names no key."""
        if self.key_variable is not None:
            return f"the variable {self.key_variable}"
        if self.key_command is not None:
            return "a command"
        return "the file" if self.key is not None else None

    def read_key(self) -> str | None:
        """Return the key, or None if the profile names none; may run a command.

        Raises:
            NotConfigured: the variable is not set, or the command failed.
        """
        if self.key_variable is not None:
            key = os.environ.get(self.key_variable, "").strip()
            if not key:
                raise NotConfigured(
                    f"profile '{self.name}': the variable {self.key_variable}, which should have the key, is not set; "
                    f"set it, or name another source of the key: {_CORRECT}"
                )
            return key
        if self.key_command is not None:
            return _run_key_command(self.name, self.key_command)
        return self.key


def _run_key_command(name: str, command: str) -> str:
    import subprocess

    where = f"profile '{name}': the command that prints its key"
    remedy = f"run it in a shell to see why, and correct it: {_CORRECT}"
    # Its stderr and the terminal are the user's, so that it can ask for a passphrase.
    try:
        process = subprocess.Popen(["/bin/sh", "-c", command], stdout=subprocess.PIPE)  # noqa: S603 (the user's own)
    except OSError as error:
        raise NotConfigured(f"{where} cannot be run: {error.strerror}; {remedy}") from None
    with process:
        try:
            printed, _ = process.communicate(timeout=_KEY_COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise NotConfigured(f"{where} did not end within {_KEY_COMMAND_SECONDS:.0f} seconds; {remedy}") from None
    if process.returncode != 0:
        raise NotConfigured(f"{where} failed with exit code {process.returncode}; {remedy}")
    lines = printed.decode(errors="replace").strip().splitlines()
    if len(lines) != 1 or not lines[0].isascii() or not lines[0].isprintable():
        # What it printed is not shown, because it may be a part of the key.
        raise NotConfigured(f"{where} did not print one line of text; {remedy}")
    return lines[0].strip()
