"""Draw the pictures of the terminal in the documentation from real runs: `make pictures`.

The real program runs on a pseudo-terminal, with a scripted model server; what the screen then shows is written as SVG.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from convstore.testing import ChatServer, Reply

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
COLUMNS = 92
SECONDS = 30.0
QUIET_SECONDS = 0.7

# Red, green, yellow, blue, magenta, cyan.
_HUES = [(224, 108, 117), (152, 195, 121), (229, 192, 123), (97, 175, 239), (198, 120, 221), (86, 182, 194)]
THEME = TerminalTheme(
    (18, 20, 26),
    (214, 216, 222),
    [(38, 40, 48), *_HUES, (171, 178, 191)],
    [(120, 126, 140), *_HUES, (255, 255, 255)],
)

ANSWERS = {
    "sort": """\
Sort with a **key**: a function that returns what is compared.

```python
by_year = sorted(games, key=lambda game: game["year"])
by_name = sorted(games, key=lambda game: (game["country"], game["city"]))
```

- `sorted` returns a *new* list; `games.sort()` changes the old one.
- Both are **stable**: what compares as equal keeps its order.

| Method | In place | Time |
|---|---|---:|
| `sorted` | no | O(n log n) |
| `list.sort` | **yes** | O(n log n) |
""",
    "reverse": "Add `reverse=True`, or negate a number in the key.",
    "2008": "The 2008 Summer Olympics were held in Beijing, China.",
    "medals": "The United States won the most medals: 112.",
    "tea": "About 80 °C, for two or three minutes.",
}


class Screen:
    """A shell on a terminal, with what its screen shows."""

    def __init__(self, lines: int, environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, COLUMNS, 0, 0))
        self._screen: Any = pyte.Screen(COLUMNS, lines)
        setattr(self._screen, "write_process_input", self.press)  # noqa: B010
        self._stream: Any = pyte.ByteStream(self._screen)
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "--noediting"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 (no other thread runs Python code then)
        )
        os.close(slave)

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def type_line(self, text: str, until: str) -> None:
        """Type a line, and wait until a text is on the screen and nothing more comes."""
        self.wait("", at_prompt=True)
        self.press(f"{text}\r")
        self.wait(until)

    def wait(self, text: str, *, at_prompt: bool = False) -> None:
        """Read until a text is on the screen, or the cursor is behind a prompt, and nothing more comes."""
        deadline = time.monotonic() + SECONDS
        while True:
            ready = select.select([self._master], [], [], QUIET_SECONDS)[0]
            if ready:
                self._stream.feed(os.read(self._master, 65536))
            elif text in "\n".join(self._screen.display) and not (at_prompt and not self._is_at_prompt()):
                return
            assert time.monotonic() < deadline, "\n".join(self._screen.display)

    def _is_at_prompt(self) -> bool:
        return self._screen.display[self._screen.cursor.y].rstrip() in ("$", ">")

    def end(self) -> None:
        """End the shell."""
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def draw(self, path: Path, title: str) -> None:
        """Write what the screen shows as SVG."""
        with Path(os.devnull).open("w") as nowhere:
            console = Console(width=COLUMNS, record=True, file=nowhere, color_system="truecolor", force_terminal=True)
            for number in range(self._screen.lines):
                console.print(self._read_row(number), overflow="crop", no_wrap=True)
            # Without fonts from elsewhere: a picture loads nothing.
            form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
            svg = console.export_svg(title=title, theme=THEME, code_format=form, unique_id="t")
        print("\n".join(line.rstrip() for line in self._screen.display))
        path.write_text(svg.replace("Fira Code", "ui-monospace, Menlo, Consolas, monospace"), "utf-8")

    def _read_row(self, number: int) -> Text:
        row = Text()
        for column in range(COLUMNS):
            cell = self._screen.buffer[number][column]
            style = Style(
                color=_name_colour(cell.fg),
                bgcolor=_name_colour(cell.bg),
                bold=cell.bold,
                italic=cell.italics,
                underline=cell.underscore,
                reverse=cell.reverse,
            )
            row.append(cell.data, style)
        row.rstrip()
        return row


def _take_terminal() -> None:
    """Make the terminal the one that Ctrl-C of the shell comes from."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _name_colour(name: str) -> str | None:
    """Return rich's name of a colour of pyte."""
    if name == "default":
        return None
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return {"brown": "yellow"}.get(name, name.replace("bright", "bright_"))


def main() -> None:
    """Draw all pictures."""
    with ChatServer() as server, tempfile.TemporaryDirectory(prefix="convstore-pictures-") as folder:
        server.otherwise = lambda body: _answer(str(body["messages"][-1]["content"]))
        environment = {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "HOME": folder,
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "PS1": "$ ",
            "CONVSTORE_DB": f"{folder}/chat.db",
            "CONVSTORE_MODEL": "local-model",
            "OPENAI_BASE_URL": server.url,
        }
        _draw_finding(environment)
        _draw_chat(environment)


def _draw_finding(environment: dict[str, str]) -> None:
    screen = Screen(31, environment)
    screen.type_line('convstore say --new "How hot is the water for green tea?" --name tea', "80 °C")
    screen.type_line('convstore say --new "Where were the 2008 games held?" --name games', "Beijing")
    screen.type_line('convstore say "Who won most medals?" -c games', "112")
    screen.type_line("convstore list", "tea")
    screen.type_line("convstore search medals", "Who won")
    screen.type_line("convstore undo games && convstore show games --tree", "← head")
    screen.wait("", at_prompt=True)
    screen.draw(DOCS / "terminal.svg", "convstore")
    screen.end()


def _draw_chat(environment: dict[str, str]) -> None:
    screen = Screen(32, environment)
    screen.type_line("convstore chat", "new conversation")
    screen.type_line("How do I sort a list of dicts?", "O(n log n)")
    screen.type_line("And in reverse?", "negate")
    screen.wait("", at_prompt=True)
    screen.press("/un\t")
    screen.wait("Undo the last turn")
    screen.draw(DOCS / "chat.svg", "convstore chat")
    screen.press("\x03\x04")
    screen.end()


def _answer(question: str) -> Reply:
    text = next(answer for word, answer in ANSWERS.items() if word in question)
    return Reply(text, pieces=re.findall(r"\S*\s*", text))


if __name__ == "__main__":
    main()
