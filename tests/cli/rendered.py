"""What a terminal shows of a rendered text: characters with their looks."""

import pyte

from convstore.cli.render.markdown_stream import MarkdownStream

Cells = list[list[tuple[str, str, bool, bool, bool, bool]]]


def render(text: str, width: int = 70, *, step: int | None = None, has_colours: bool = True) -> str:
    """Return what is written to the terminal for a text that comes in pieces of `step` characters, or whole."""
    stream = MarkdownStream(lambda: width, has_colours=has_colours)
    size = step or max(1, len(text))
    return "".join(stream.add(text[start : start + size]) for start in range(0, len(text), size)) + stream.end()


def look(written: str, width: int = 70) -> Cells:
    """Return the cells of a screen on which something was written: character, colour, bold, italic, line, struck."""
    screen = pyte.Screen(width, written.count("\n") + written.count(" ") + len(written) // width + 2)
    pyte.Stream(screen).feed(written.replace("\n", "\r\n"))
    rows: Cells = []
    for number in range(screen.lines):
        cells = [screen.buffer[number][column] for column in range(width)]
        shown = [(c.data, c.fg, c.bold, c.italics, c.underscore, c.strikethrough) for c in cells]
        rows.append(shown)
    return rows


def read(text: str, width: int = 70) -> list[str]:
    """Return the lines that a screen shows for a rendered text."""
    return ["".join(cell[0] for cell in row).rstrip() for row in look(render(text, width), width)]


def find_looks(written: str, word: str, width: int = 70) -> set[str]:
    """Return the looks of the first place of a word: `bold`, `italic`, `underlined`, `struck`, or a colour."""
    names = ("bold", "italic", "underlined", "struck")
    for row in look(written, width):
        line = "".join(cell[0][:1] or " " for cell in row)
        place = line.find(word)
        if place >= 0:
            _, colour, *flags = row[place]
            looks = {name for name, is_set in zip(names, flags, strict=True) if is_set}
            return looks | ({colour} if colour != "default" else set())
    raise AssertionError(f"{word!r} is not on the screen")
