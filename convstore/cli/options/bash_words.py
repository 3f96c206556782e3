"""Complete words with a colon in bash, such as `llama3:8b`, and list ids with titles.

bash takes a colon for the end of a word (COMP_WORDBREAKS), and click's script passes on what bash takes for words. This
one passes on the line too: the word is found in it, and only what comes after its last colon is returned. When bash
only lists what there is (COMP_TYPE, after the second Tab), each value has its description behind it.
"""

from __future__ import annotations

import os

from click.shell_completion import BashComplete, CompletionItem, add_completion_class
from click.shell_completion import split_arg_string as split_line

_WORDS = 'COMP_WORDS="${COMP_WORDS[*]}"'
_LINE = 'COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" COMP_TYPE="$COMP_TYPE"'
_LISTING = str(ord("?"))


class LineComplete(BashComplete):
    """Complete in bash by the line that is typed, or by words for another script."""

    # In quotes, a description is one word, and no pattern of file names.
    source_template = BashComplete.source_template.replace(_WORDS, f"{_LINE} {_WORDS}").replace(
        "COMPREPLY+=($value)", 'COMPREPLY+=("$value")'
    )
    _describes = False

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE")
        if not line:
            return super().get_completion_args()
        words = split_line(line)
        incomplete = "" if line[-1].isspace() or len(words) < 2 else words.pop()
        return words[1:], incomplete

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        found = super().get_completions(args, incomplete)
        # A single value would be inserted with its description.
        self._describes = len(found) > 1 and os.environ.get("COMP_TYPE") == _LISTING
        return found

    def format_completion(self, item: CompletionItem) -> str:
        typed = self.get_completion_args()[1] if os.environ.get("COMP_LINE") else ""
        has_break = ":" in os.environ.get("COMP_WORDBREAKS", "")
        there = typed[: typed.rfind(":") + 1] if has_break else ""
        item.value = str(item.value).removeprefix(there)
        if self._describes and item.help:
            item.value = f"{item.value}  ({item.help})"
        return super().format_completion(item)


def complete_by_line() -> None:
    """Let click complete in bash by the line."""
    add_completion_class(LineComplete)
