"""Open the user's editor with a text."""

from __future__ import annotations

import os
import sys

import click


class EditorFailed(click.ClickException):
    """The editor did not end well, so what it wrote is not used. The exit code is 1."""


def open_editor(text: str, suffix: str, *, result: str) -> str:
    """Return the text that the user's editor leaves.

    The editor is `$VISUAL`, else `$EDITOR`, else the system's.

    Args:
        text: what the editor begins with.
        suffix: the end of the file's name, by which editors choose colours.
        result: what is told if the editor fails, such as "nothing was changed".

    Raises:
        EditorFailed: there is no terminal for it, it cannot be started, ended with an error, or left no UTF-8.
    """
    name = next((variable for variable in ("VISUAL", "EDITOR") if os.environ.get(variable)), None)
    named = f"the editor '{os.environ[name]:.200}' ({name})" if name is not None else "the editor"
    advice = "" if name is not None else "; set EDITOR to name one"
    if name is None and not sys.stdin.isatty():
        raise EditorFailed(f"there is no terminal for an editor; {result}")
    try:
        changed = click.edit(text, extension=suffix, require_save=False)
    except click.ClickException as error:
        cause = error.__cause__
        problem = f"cannot be started: {cause.strerror}" if isinstance(cause, OSError) else "ended with an error"
        raise EditorFailed(f"{named} {problem}; {result}{advice}") from None
    except UnicodeDecodeError:
        raise EditorFailed(f"{named} left a text that is not UTF-8; {result}") from None
    except ValueError:  # a quotation mark that is not closed
        raise EditorFailed(f"{named} cannot be started: its name has an open quotation mark; {result}") from None
    except OSError as error:
        raise EditorFailed(f"a temporary file cannot be made: {error.strerror}; {result}") from None
    if changed is None:
        return text
    # Editors add a newline to the last line.
    return changed if not text or text.endswith("\n") else changed.removesuffix("\n")
