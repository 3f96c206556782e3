"""The documentation is true: its commands run, its outputs are what comes back, its reference is the code's.

`python -m tests.test_docs` writes the parts of the reference that are copied from the code.
"""

import ast
import contextlib
import dataclasses
import enum
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from sqlalchemy import Column, Table, UniqueConstraint, select

import convstore
from convstore import Store
from convstore.cli import convstore as program
from convstore.cli.failures import _EXIT_CODES
from convstore.errors import ConvstoreError
from convstore.ledger.database import open_database
from convstore.ledger.models import Base
from convstore.testing import ChatServer, Failure, Reply, echo
from demo import run as demo

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(
    page
    for page in [README, ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    if DOCS / "decisions" not in page.parents and page != DOCS / "benchmarks.md"
)

# What readers have and a test does not: each is replaced by what the test has.
POSTGRES = "postgresql://app:secret@localhost/app"
LOCAL_MODELS = ("http://localhost:8080/v1", "http://localhost:11434/v1", "http://localhost:8000/v1")

# Every block that is not run, by page, with the reason that the page itself gives.
NOT_RUN = {
    "README.md": ["runs the checkout's own checks", "installs packages"],
    "CONTRIBUTING.md": ["runs the checkout's own checks", "writes into the checkout"],
    "docs/local-models.md": ["starts a server"] * 3,
    "docs/postgresql.md": ["installs packages", "needs a server's superuser"],
    "docs/testing.md": ["starts a server"],
}

ANSWERS = {
    "Where were the 2008 games held?": "In Beijing, China.",
    "Where was it played?": "In Arlington, Texas.",
    "The secret code is 4821. Please remember it.": "The secret code is 4821.",
    "Who are you?": "A model.",
}


def model(body: dict[str, Any]) -> Reply | Failure:
    """A model that knows what the documentation asks, and answers one question only from the history."""
    if body["model"] == "no-such-model":
        return Failure(404, "The model `no-such-model` does not exist.")
    question = body["messages"][-1].get("content")
    if question == "What is the secret code?":
        told = any("4821" in str(message.get("content")) for message in body["messages"])
        return Reply("The secret code is 4821." if told else "I do not know.")
    return Reply(ANSWERS[question]) if question in ANSWERS else echo(body)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None


def blocks(page: Path) -> list[Block]:
    found = []
    lines = page.read_text().splitlines()
    at = 0
    while at < len(lines):
        fence = re.fullmatch(r"```(\w*)", lines[at])
        at += 1
        if fence is None:
            continue
        end = lines.index("```", at)
        before = next((line for line in reversed(lines[: at - 1]) if line.strip()), "")
        marker = re.fullmatch(r"<!-- not run: (.+) -->", before)
        found.append(
            Block(
                page=page.relative_to(ROOT).as_posix(),
                line=at,
                language=fence[1],
                text="\n".join(lines[at:end]),
                not_run=marker[1] if marker else None,
            )
        )
        at = end + 1
    return found


def normal(text: str) -> str:
    """Replaces what differs from run to run: ids, times, ports, the server."""
    text = re.sub(r"(?<!\w)[2-9b-df-hj-np-tv-z]{12}(?!\w)", "(id)", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00|Z)", "(time)", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "(time)", text)
    text = re.sub(r"postgresql\+psycopg://\S*?(?=:? )", "(database)", text)
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:(port)", text).strip()


def matches(shown: str, came: str) -> bool:
    """Whether an output is what the page shows; `…` there stands for anything."""
    pattern = re.escape(normal(shown)).replace("…", ".*")
    return re.fullmatch(pattern, normal(came), re.DOTALL) is not None


class Reader:
    """Does what a page says, in a folder of its own: the blocks one after another, as a reader would."""

    def __init__(self, folder: Path, substitutes: dict[str, str]) -> None:
        self._folder = folder
        self._substitutes = substitutes
        self._names: dict[str, Any] = {"__name__": "docs"}

    def do(self, block: Block) -> None:
        text = block.text
        for written, real in self._substitutes.items():
            text = text.replace(written, real)
        where = f"{block.page}:{block.line}"
        if block.language == "sh":
            status, output = self._shell(f"set -e\n{text}")
            assert status == 0, f"{where}: exited with {status}\n{output}"
        elif block.language == "console":
            for command, shown in transcript(text):
                status, output = self._shell(command)
                assert matches(shown, output), f"{where}: $ {command}\nshown:\n{shown}\ncame:\n{output}"
                assert status == 0 or "convstore: " in shown, f"{where}: $ {command}: exited with {status}"
        elif block.language == "python":
            shown = "\n".join(re.findall(r"# -> (.*)", text))
            came = io.StringIO()
            with contextlib.redirect_stdout(came):
                exec(compile(text, where, "exec"), self._names)  # the documentation is what is tested
            assert matches(shown, came.getvalue()), f"{where}: shown:\n{shown}\ncame:\n{came.getvalue()}"

    def close(self) -> None:
        for value in self._names.values():
            if isinstance(value, Store):
                value.close()
            elif hasattr(value, "dispose"):
                value.dispose()

    def _shell(self, script: str) -> tuple[int, str]:
        # Variables, exported ones and others, live on from block to block as in a reader's terminal.
        done = subprocess.run(
            ["bash", "-c", f"trap 'export -p > .shell' EXIT; set -a; [ ! -f .shell ] || . ./.shell\n{script}"],
            cwd=self._folder,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout


def transcript(text: str) -> Iterator[tuple[str, str]]:
    """Splits a console block into its commands and what came back."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        while command.endswith("\\"):
            more, _, output = output.partition("\n")
            command += "\n" + more.removeprefix("> ")
        yield command, output


RUNNABLE = [page for page in PAGES if any(block.language in ("sh", "console", "python") for block in blocks(page))]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_everything_that_a_page_tells_to_run_runs_and_gives_what_it_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_server: ChatServer, request: pytest.FixtureRequest
) -> None:
    chat_server.otherwise = model
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    monkeypatch.setenv("CONVSTORE_MODEL", "smollm2")
    substitutes = dict.fromkeys(LOCAL_MODELS, chat_server.url)
    if POSTGRES in page.read_text():
        url: str = request.getfixturevalue("postgres_empty_url")
        substitutes[POSTGRES.replace("postgresql:", "postgresql+psycopg:")] = url
        substitutes[POSTGRES] = url
    reader = Reader(tmp_path, substitutes)
    try:
        for block in blocks(page):
            if block.not_run is None:
                reader.do(block)
    finally:
        reader.close()


def test_the_blocks_that_are_not_run_are_few_and_listed() -> None:
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for block in blocks(page):
            if block.not_run is not None:
                found.setdefault(block.page, []).append(block.not_run)

    assert found == NOT_RUN


def test_every_block_has_a_language_that_says_whether_it_runs() -> None:
    languages = {f"{block.page}:{block.line}": block.language for page in PAGES for block in blocks(page)}

    assert {where: word for where, word in languages.items() if word not in ("sh", "console", "python", "text")} == {}


def test_the_readme_shows_what_the_demo_prints(
    tmp_path: Path, chat_server: ChatServer, capfd: pytest.CaptureFixture[str]
) -> None:
    chat_server.otherwise = model
    demo._converse(demo._environment(tmp_path, chat_server.url))
    printed = capfd.readouterr().out
    (shown,) = [block.text for block in blocks(README) if block.language == "text" and "A demo" in block.text]

    assert normal(shown.split("\n\n", 1)[1]) == normal(printed)


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)]+)\)", prose):
            if target.startswith(("https://", "http://")):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if file == DOCS / "benchmarks.md" and not file.exists():
                continue  # written by the bench, on a machine that has run it
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.name}: {target}")

    assert broken == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_no_page_is_without_a_way_to_it() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text())
    }

    assert [page.name for page in DOCS.rglob("*.md") if page not in linked and page.parent.name != "decisions"] == []


# --- the reference of the command line ---


def commands(group: click.Group = program, prefix: str = "convstore") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in sorted(group.commands.items()):
        found[f"{prefix} {name}"] = command
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix} {name}")
    return found


def option_table(command: click.Command) -> list[str]:
    rows = ["| | |", "|---|---|"]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            continue
        assert isinstance(parameter, click.Option)
        flags = "`, `".join([*parameter.opts, *parameter.secondary_opts])
        value = "" if parameter.is_flag else f" {parameter.metavar or parameter.type.name.upper()}"
        value = value.replace("|", "\\|")  # it would end the cell
        help_text = " ".join((parameter.help or "").split())
        default = f" [default: {parameter.default}]" if parameter.show_default else ""
        rows.append(f"| `{flags}{value}` | {help_text}{default} |")
    return rows


def usage(name: str, command: click.Command) -> str:
    arguments = [
        parameter.human_readable_name if parameter.required else f"[{parameter.human_readable_name}]"
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    ]
    more = ["COMMAND"] if isinstance(command, click.Group) else arguments
    return " ".join([name, "[OPTIONS]", *more])


def cli_reference() -> dict[str, list[str]]:
    """What the reference has under each command's heading, as the program has it."""
    return {
        name: ["```text", usage(name, command), "```"]
        + ([] if isinstance(command, click.Group) else ["", *option_table(command)])
        for name, command in commands().items()
    }


def test_the_command_line_reference_has_every_command_with_its_options() -> None:
    page = (DOCS / "reference" / "cli.md").read_text()

    assert {name: copied(page, name) for name in sections(page) if name.startswith("convstore ")} == cli_reference()


def test_every_command_and_exit_code_and_variable_is_in_the_readme_and_the_reference() -> None:
    readme, reference = README.read_text(), (DOCS / "reference" / "cli.md").read_text()
    codes = {0, 1, 2, 130} | {code for _, code in _EXIT_CODES}
    source = "".join(path.read_text() for path in (ROOT / "convstore").rglob("*.py"))
    variables = set(re.findall(r"\"((?:CONVSTORE|OPENAI)_[A-Z_]+)\"", source)) - {"CONVSTORE_DEBUG"}

    for text in (readme, reference):
        assert [name for name, command in commands().items() if f"`{name}" not in text] == []
        assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)} == codes
        assert {name for name in variables if f"| `{name}` |" not in text} == set()


# --- the reference of the library ---


class Bare:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def signature(name: str, function: Any) -> str:
    found = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=_bare(parameter.annotation), default=_default(parameter.default))
        for parameter in found.parameters.values()
        if parameter.name != "self"
    ]
    returns = found.return_annotation if not inspect.isclass(function) else inspect.Signature.empty
    text = f"{name}{found.replace(parameters=parameters, return_annotation=_bare(returns))}"
    return text.removesuffix(" -> None")


def _bare(annotation: Any) -> Any:
    return Bare(annotation) if isinstance(annotation, str) else annotation


def _default(value: Any) -> Any:
    return Bare("UNCHANGED") if value is convstore.UNCHANGED else value


def _getter(value: property) -> Callable[..., Any]:
    assert value.fget is not None
    return value.fget


def members(owner: type) -> dict[str, Any]:
    """The public methods and properties of a class, in the order of its source."""
    return {
        name: value
        for name, value in vars(owner).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
    }


def library_reference() -> dict[str, list[str]]:
    """What the reference has under each name's heading, as the code has it."""
    found: dict[str, list[str]] = {}
    for owner in (Store, convstore.ReplyStream):
        if owner is Store:
            found["Store"] = ["```text", signature("Store", owner), "```"]
        for name, value in members(owner).items():
            qualified = f"{owner.__name__}.{name}"
            if isinstance(value, property):
                text = f"{qualified}: {inspect.signature(_getter(value)).return_annotation}"
            else:
                text = signature(qualified, value)
            found[qualified] = ["```text", text, "```"]
    return found


def test_the_library_reference_has_every_method_with_its_signature() -> None:
    page = (DOCS / "reference" / "library.md").read_text()
    expected = library_reference()

    assert {name: copied(page, name) for name in expected} == expected
    assert {name for name in sections(page) if re.match(r"(Store|ReplyStream)\.", name)} <= set(expected)


def test_the_library_reference_has_every_public_name() -> None:
    page = (DOCS / "reference" / "library.md").read_text()
    named = set(re.findall(r"^(?:#+ |\| |)`(\w+)`", page, flags=re.MULTILINE))

    assert set(convstore.__all__) - named == set()


@pytest.mark.parametrize("name", ["Conversation", "MessageRecord", "Turn", "Completion"])
def test_the_library_reference_has_every_field_with_its_type(name: str) -> None:
    page = (DOCS / "reference" / "library.md").read_text()
    shown = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", sections(page)[name], flags=re.MULTILINE)
    owner = getattr(convstore, name)
    fields = {field.name: field.type for field in dataclasses.fields(owner)}
    properties = {
        key: inspect.signature(_getter(value)).return_annotation
        for key, value in members(owner).items()
        if isinstance(value, property)
    }

    assert {field: kind.replace("\\|", "|") for field, kind in shown} == fields | properties


def test_the_library_reference_has_every_status_and_count() -> None:
    page = sections((DOCS / "reference" / "library.md").read_text())

    assert isinstance(convstore.TurnStatus, enum.EnumMeta)
    assert set(re.findall(r"`([A-Z]+)`", page["TurnStatus"])) == {status.name for status in convstore.TurnStatus}
    assert set(re.findall(r"^\| `(\w+)` \|", page["Usage"], flags=re.MULTILINE)) == set(members(convstore.Usage))


def test_the_library_reference_says_what_each_error_is_a_kind_of_and_its_exit_code() -> None:
    page = (DOCS / "reference" / "library.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)`(?:, `(\w+)`)? \| (\d+) \|", page, flags=re.MULTILINE)
    shown = {name: ({kind, other} - {""}, int(code)) for name, kind, other, code in rows}

    assert shown == {
        kind.__name__: ({base.__name__ for base in kind.__bases__}, exit_code(kind))
        for kind in vars(__import__("convstore.errors").errors).values()
        if inspect.isclass(kind) and issubclass(kind, ConvstoreError)
    }


def exit_code(kind: type[ConvstoreError]) -> int:
    return next((code for base, code in _EXIT_CODES if issubclass(kind, base)), 1)


# --- the reference of the schema ---


def column_facts(column: Column[Any]) -> tuple[str, str]:
    kinds = {"UtcDateTime": "moment", "BigInteger": "integer", "LargeBinary": "bytes", "Numeric": "number"}
    kind = kinds.get(type(column.type).__name__, "text")
    key = ", key" if column.primary_key else ", or NULL" if column.nullable else ""
    return column.name, kind + key


def shown_columns(table: Table) -> list[tuple[str, str, str]]:
    page = sections((DOCS / "reference" / "schema.md").read_text())[table.name]
    rows: list[tuple[str, str, str]] = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?) ?\|$", page, flags=re.MULTILINE)
    return rows


def test_the_schema_reference_has_every_table_and_column() -> None:
    for table in Base.metadata.sorted_tables:
        shown = [(name, kind) for name, kind, _ in shown_columns(table)]
        assert shown == [column_facts(column) for column in table.columns]
    page = sections((DOCS / "reference" / "schema.md").read_text())
    assert {name for name in page if name.startswith("convstore_")} == set(Base.metadata.tables)


def test_the_schema_reference_has_every_index() -> None:
    page = (DOCS / "reference" / "schema.md").read_text()
    indexes = {str(index.name) for table in Base.metadata.tables.values() for index in table.indexes}
    others = [c for t in Base.metadata.tables.values() for c in t.constraints if isinstance(c, UniqueConstraint)]

    assert {name for name in indexes if f"`{name}`" not in page} == set()
    assert others == []


def test_the_columns_said_to_be_for_later_are_those_that_nothing_fills(
    sqlite_url: str, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    held = open_database(sqlite_url)
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    filled: set[tuple[str, str]] = set()

    def look(_body: dict[str, Any]) -> Reply:
        with held.read() as connection:
            for table in Base.metadata.tables.values():
                for row in connection.execute(select(table)).mappings():
                    filled.update((table.name, key) for key, value in row.items() if value is not None)
        return Reply("Hello", usage=usage)

    chat_server.otherwise = look
    with Store(sqlite_url, model="test-model") as store:
        conversation = store.new("All", name="all", system="Hello", metadata={"a": 1}, temperature=0)
        store.say(conversation.id, [{"type": "text", "text": "Hi"}])
        with store.stream(conversation.id, "Hi", name="ann") as reply:
            list(reply)
        chat_server.script(Failure(400))
        with pytest.raises(convstore.TurnFailed):
            store.say(conversation.id, "Hi")
    look({})
    held.close()

    columns = {(table.name, column.name) for table in Base.metadata.tables.values() for column in table.columns}
    said = {
        (table.name, name)
        for table in Base.metadata.tables.values()
        for name, _, meaning in shown_columns(table)
        if meaning.startswith("*Later*")
    }
    assert said == columns - filled


# --- the errors ---


def templates() -> list[str]:
    """Every text in the program's code, with `…` where something is filled in."""
    found = []
    for path in (ROOT / "convstore").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(str(part) for part in parts))
    return found


def test_every_error_that_troubleshooting_explains_is_one_that_the_program_gives() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    explained = re.findall(r"^### `(.+)`$", page, flags=re.MULTILINE)
    known = templates()

    assert len(explained) > 15
    assert [text for text in explained if not any(text in template for template in known)] == []


# --- reading and writing the pages ---


def sections(page: str) -> dict[str, str]:
    """The text under each heading that is a name in backquotes."""
    parts = re.split(r"^(#+) (.*)$", page, flags=re.MULTILINE)[1:]
    found = {}
    for heading, text in zip(parts[1::3], parts[2::3], strict=True):
        name = re.fullmatch(r"`(.+)`", heading)
        if name:
            found[name[1]] = text
    return found


def copied(page: str, name: str) -> list[str] | None:
    """The part of a section that is copied from the code: its first block, and the table after it if there is one."""
    text = sections(page).get(name)
    match = re.search(COPIED, text, flags=re.DOTALL) if text is not None else None
    return match[0].splitlines() if match else None


COPIED = r"```text\n.*?\n```(\n\n\| \| \|\n(\|[^\n]*(\n|$))+)?"


def _write() -> None:
    for file, reference in (("cli.md", cli_reference()), ("library.md", library_reference())):
        path = DOCS / "reference" / file
        page = path.read_text()
        for name, lines in reference.items():
            old = sections(page).get(name)
            if old is None:
                print(f"{path} has no heading for {name}")
                continue
            prose = re.sub(COPIED, "", old, count=1, flags=re.DOTALL).strip("\n")
            following = "\n\n" if page.partition(f"`{name}`{old}")[2] else "\n"
            new = "\n\n" + "\n\n".join(part for part in ("\n".join(lines), prose) if part) + following
            page = page.replace(f"`{name}`{old}", f"`{name}`{new}")
        path.write_text(page)


if __name__ == "__main__":
    _write()
