"""Complete words with a colon in bash, such as the model `llama3:8b`.

bash takes a colon for the end of a word (COMP_WORDBREAKS), and click's script passes on what bash takes for words. This
one passes on the line too: the word is found in it, and only what comes after its last colon is returned.
"""

from __future__ import annotations

import os

from click.shell_completion import BashComplete, CompletionItem, add_completion_class
from click.shell_completion import split_arg_string as split_line

_WORDS = 'COMP_WORDS="${COMP_WORDS[*]}"'
_LINE = 'COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS"'


class LineComplete(BashComplete):
    """Complete in bash by the line that is typed, or by words for another script."""

    source_template = BashComplete.source_template.replace(_WORDS, f"{_LINE} {_WORDS}")

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE")
        if not line:
            return super().get_completion_args()
        words = split_line(line)
        incomplete = "" if line[-1].isspace() or len(words) < 2 else words.pop()
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        typed = self.get_completion_args()[1] if os.environ.get("COMP_LINE") else ""
        has_break = ":" in os.environ.get("COMP_WORDBREAKS", "")
        there = typed[: typed.rfind(":") + 1] if has_break else ""
        item.value = str(item.value).removeprefix(there)
        return super().format_completion(item)


def complete_by_line() -> None:
    """Let click complete in bash by the line."""
    add_completion_class(LineComplete)
