"""Test that the pages are true: their commands run, and print what the pages show."""

import contextlib
import dataclasses
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convstore import Store
from convstore.testing import ChatServer, Failure, Reply, echo
from demo import run as demo
from tests.faults import test_contention, test_cost, test_crash_matrix
from tests.processes import write_program

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(
    page
    for page in [README, ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    if DOCS / "decisions" not in page.parents and page != DOCS / "benchmarks.md"
)

# Readers have these and a test does not: each is replaced.
POSTGRES = "postgresql://app:secret@localhost/app"
LOCAL_MODELS = ("http://localhost:8080/v1", "http://localhost:11434/v1", "http://localhost:8000/v1")

# Every block that is not run, by page, with the reason that the page gives.
NOT_RUN = {
    "README.md": ["runs the checkout's own checks", "installs packages"],
    "CONTRIBUTING.md": [
        "runs the checkout's own checks",
        "needs a checkout of an earlier release",
        "writes into the checkout",
    ],
    "docs/chat.md": ["needs a terminal"],
    "docs/import.md": ["needs files of other programs", "does not end", "writes into the folders of other programs"],
    "docs/local-models.md": ["starts a server"] * 3,
    "docs/backend.md": ["needs a second server"],
    "docs/postgresql.md": ["installs packages", "needs a server's superuser", "needs a server"],
    "docs/service.md": [
        "starts a server",
        *["needs the service"] * 4,
        "changes the machine",
        "needs podman",
        "needs Citus",
    ],
    "docs/testing.md": ["starts a server"],
}

ANSWERS = {
    "Where were the 2008 games held?": "In Beijing, China.",
    "Where was it played?": "In Arlington, Texas.",
    "The secret code is 4821. Please remember it.": "The secret code is 4821.",
    "Who are you?": "A model.",
    "Who won most medals?": "The United States.",
    "Hello": "Hello! How can I help?",
    "What is on this photo?": "A cat on a sofa.",
    "Where were the 2012 games held?": "In London.",
    "21 degrees, sunny": "It is sunny in Beijing, at 21 degrees.",
}
CAT = ("Whiskers.", "Felix.")
WEATHER = {"name": "weather", "arguments": '{"city": "Beijing"}'}


def model(body: dict[str, Any]) -> Reply | Failure:
    """Answer what the pages ask; one answer must come from the history."""
    if body["model"] == "no-such-model":
        return Failure(404, "The model `no-such-model` does not exist.")
    question = body["messages"][-1].get("content")
    if isinstance(question, list):
        question = question[0].get("text")
    if question == "What is the secret code?":
        told = any("4821" in str(message.get("content")) for message in body["messages"])
        return Reply("The secret code is 4821." if told else "I do not know.")
    if question == "Suggest a name for a cat.":
        names = CAT[body.get("temperature") == 1 :][: body.get("n", 1)]
        return Reply(choices=[choice({"content": name}, number) for number, name in enumerate(names)])
    if question == "What is the weather in Beijing?" and body.get("tools"):
        called = {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": WEATHER}]}
        return Reply(choices=[choice(called, finish_reason="tool_calls")])
    if question.endswith("</conversation>\n\nSummarise this conversation."):
        return Reply("The 2008 games were held in Beijing. The United States won most medals.")
    return Reply(ANSWERS[question]) if question in ANSWERS else echo(body)


def choice(message: dict[str, Any], number: int = 0, finish_reason: str = "stop") -> dict[str, Any]:
    return {"index": number, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}


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
    """Replace what differs in each run: ids, times, ports, the server."""
    text = re.sub(r"(?<!\w)[2-9b-df-hj-np-tv-z]{12}(?!\w)", "(id)", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00|Z)", "(time)", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "(time)", text)
    text = re.sub(r"postgresql\+psycopg://\S*?(?=:? )", "(database)", text)
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:(port)", text).strip()


def matches(shown: str, came: str) -> bool:
    """Return True if an output is what the page shows; `…` on the page matches anything."""
    pattern = re.escape(normal(shown)).replace("…", ".*")
    return re.fullmatch(pattern, normal(came), re.DOTALL) is not None


class Reader:
    """A reader who runs the blocks of a page one after another, in a new folder."""

    def __init__(self, folder: Path, programs: Path, substitutes: dict[str, str]) -> None:
        self._folder = folder
        self._substitutes = substitutes
        self._names: dict[str, Any] = {"__name__": "docs"}
        self._programs = [str(programs), str(Path(sys.executable).parent)]

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
                exec(compile(text, where, "exec"), self._names)  # the test runs the code of the page
            assert matches(shown, came.getvalue()), f"{where}: shown:\n{shown}\ncame:\n{came.getvalue()}"

    def close(self) -> None:
        for value in self._names.values():
            if isinstance(value, Store):
                value.close()
            elif hasattr(value, "dispose"):
                value.dispose()

    def _shell(self, script: str) -> tuple[int, str]:
        # All variables live on from block to block, as in a reader's terminal.
        done = subprocess.run(
            ["bash", "-c", f"trap 'export -p > .shell' EXIT; set -a; [ ! -f .shell ] || . ./.shell\n{script}"],
            cwd=self._folder,
            env=os.environ | {"PATH": os.pathsep.join((*self._programs, os.environ["PATH"]))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
        return done.returncode, done.stdout


def transcript(text: str) -> Iterator[tuple[str, str]]:
    """Split a console block into its commands and their outputs."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        while command.endswith("\\"):
            more, _, output = output.partition("\n")
            command += "\n" + more.removeprefix("> ")
        yield command, output


RUNNABLE = [page for page in PAGES if any(block.language in ("sh", "console", "python") for block in blocks(page))]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_run_and_print_what_it_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_server: ChatServer, request: pytest.FixtureRequest
) -> None:
    chat_server.otherwise = model
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    monkeypatch.setenv("CONVSTORE_MODEL", "smollm2")
    substitutes = dict.fromkeys(LOCAL_MODELS, chat_server.url)
    if POSTGRES in page.read_text():
        url: str = request.getfixturevalue("postgres_empty_url")
        substitutes[POSTGRES.replace("postgresql:", "postgresql+psycopg:")] = url
        substitutes[POSTGRES] = url
    programs = tmp_path / "programs"
    programs.mkdir()
    write_program(programs)
    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.chdir(folder)
    reader = Reader(folder, programs, substitutes)
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


def test_the_readme_quotes_the_benchmarks_verbatim() -> None:
    quoted = [line for block in blocks(README) if " ms" in block.text for line in block.text.splitlines()]
    measured = (DOCS / "benchmarks.md").read_text().splitlines()

    assert len(quoted) == 5
    assert [line for line in quoted if line not in measured] == []


def test_the_guarantees_name_tests_that_are_there_and_the_figures_that_they_hold() -> None:
    page = (DOCS / "guarantees.md").read_text()
    named = set(re.findall(r"`(tests/[\w/.]+)`", page))
    crashes, say = test_crash_matrix.FEWEST, test_cost.SAY["sqlite"]
    keyed = say + test_cost.WITH_KEY

    assert len(named) > 10
    assert {path for path in named if not (ROOT / path).exists()} == set()
    assert f"{crashes['sqlite']} points on SQLite and at {crashes['postgresql']} on PostgreSQL" in page
    assert f"{crashes['sqlite']} moments of a dialogue on SQLite and {crashes['postgresql']} on" in README.read_text()
    assert f"{test_contention.PROCESSES} processes × {test_contention.SAYS} `say`s" in page
    assert f"| `say`, `stream` | {say} | {test_cost.COMMITS} |" in page
    assert f"| with an idempotency key | {keyed} | {test_cost.COMMITS} |" in page
    assert f"| `append` of a message | {test_cost.APPEND['sqlite']} | {test_cost.APPEND_COMMITS} |" in page
    assert test_cost.APPEND["postgresql"] == test_cost.APPEND["sqlite"] - 1
    on_postgres = f"({test_cost.SAY['postgresql']} on PostgreSQL), one more with a key"
    of_index = f"{2 * test_cost.OF_INDEX['sqlite']} of them ({2 * test_cost.OF_INDEX['postgresql']}) write"
    counts = f"{say} statements and {test_cost.COMMITS} commits {on_postgres}; {of_index} the search index."
    assert counts in README.read_text()


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
                continue  # the bench writes it
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.name}: {target}")

    assert broken == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_page_is_linked() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text())
    }

    assert [page.name for page in DOCS.rglob("*.md") if page not in linked and page.parent.name != "decisions"] == []


def test_no_heading_of_a_page_is_there_twice() -> None:
    for page in [*PAGES, ROOT / "CHANGELOG.md", *(DOCS / "decisions").glob("*.md")]:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        path: list[str] = []
        seen: set[tuple[str, ...]] = set()
        for marks, title in re.findall(r"^(#+) (.+)$", text, flags=re.MULTILINE):
            path = [*path[: len(marks) - 1], title]
            assert tuple(path) not in seen, f"{page.name}: {' > '.join(path)}"
            seen.add(tuple(path))
