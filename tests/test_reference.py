"""Test that the reference has every command, option, method, field, error, exit code, table and column, and no other.

`python -m tests.test_reference` writes the parts that are copied from the code.
"""

import ast
import dataclasses
import enum
import inspect
import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from sqlalchemy import Column, Table, UniqueConstraint, select

import convstore
from convstore import AsyncStore, ImportedConversation, ImportedMessage, Store
from convstore.cli import convstore as program
from convstore.cli.exit_codes import EXIT_CODES
from convstore.db import daily_usage
from convstore.db.engine import open_database
from convstore.db.models import Base
from convstore.db.tables import client_requests, redactions
from convstore.errors import ConvstoreError
from convstore.store.completion_archive import CompletionArchive
from convstore.store.conversation_methods import ConversationMethods
from convstore.store.item_archive import ItemArchive
from convstore.testing import ChatServer, Failure, Reply
from tests.cli.program import commands_of
from tests.server.recording import recording

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"


# --- the reference of the command line ---


def commands(group: click.Group = program, prefix: str = "convstore") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in sorted(commands_of(group).items()):
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
        value = "" if parameter.is_flag or parameter.count else f" {parameter.metavar or parameter.type.name.upper()}"
        value = value.replace("|", "\\|")  # a bar would end the cell
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
    more = [command.subcommand_metavar.removesuffix(" [ARGS]...")] if isinstance(command, click.Group) else arguments
    return " ".join([name, "[OPTIONS]", *more])


def cli_reference() -> dict[str, list[str]]:
    """Return what the program says for each command's heading of the reference."""
    return {
        name: ["```text", usage(name, command), "```", *_own_options(command)] for name, command in commands().items()
    }


def _own_options(command: click.Command) -> list[str]:
    table = option_table(command)
    has_options = any(isinstance(parameter, click.Option) for parameter in command.params)
    return ["", *table] if has_options or not isinstance(command, click.Group) else []


def test_the_command_line_reference_has_every_command_with_its_options() -> None:
    page = (DOCS / "reference" / "cli.md").read_text()

    assert {name: copied(page, name) for name in sections(page) if name.startswith("convstore ")} == cli_reference()


def test_every_command_and_exit_code_and_variable_is_in_the_readme_and_the_reference() -> None:
    readme, reference = README.read_text(), (DOCS / "reference" / "cli.md").read_text()
    codes = {0, 1, 2, 130} | {code for _, code in EXIT_CODES}
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
    return Bare(annotation.replace("builtins.", "")) if isinstance(annotation, str) else annotation


def _default(value: Any) -> Any:
    return Bare("UNCHANGED") if value is convstore.UNCHANGED else value


def _getter(value: property) -> Callable[..., Any]:
    assert value.fget is not None
    return value.fget


def members(owner: type) -> dict[str, Any]:
    """Return the public methods and properties of a class and its bases."""
    return {
        name: value
        for kind in reversed(owner.__mro__)
        for name, value in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
    }


def described(name: str, value: Any) -> list[str]:
    if isinstance(value, property):
        return ["```text", f"{name}: {inspect.signature(_getter(value)).return_annotation}", "```"]
    return ["```text", signature(name, value), "```"]


def library_reference() -> dict[str, list[str]]:
    """Return what the code says for each name's heading of the reference."""
    found = {owner.__name__: described(owner.__name__, owner) for owner in (Store, AsyncStore)}
    for owner in (Store, convstore.ReplyStream):
        for name, value in members(owner).items():
            found[f"{owner.__name__}.{name}"] = described(f"{owner.__name__}.{name}", value)
    return found


def test_the_library_reference_has_every_method_with_its_signature() -> None:
    page = (DOCS / "reference" / "library.md").read_text()
    expected = library_reference()

    assert {name: copied(page, name) for name in expected} == expected
    assert {name for name in sections(page) if re.match(r"(Store|ReplyStream)\.", name)} <= set(expected)


def listed(page: str, section: str, beginning: str) -> set[str]:
    """Return the names in backquotes of the section's paragraph with this beginning."""
    (paragraph,) = [text for text in sections(page)[section].split("\n\n") if text.startswith(beginning)]
    return set(re.findall(r"`(\w+)`", paragraph))


def test_the_library_reference_says_which_methods_work_in_a_callers_transaction() -> None:
    page = (DOCS / "reference" / "library.md").read_text()

    assert listed(page, "Store.using", "It has") == set(members(ConversationMethods))


def test_the_library_reference_says_which_methods_of_the_async_store_are_awaited() -> None:
    page = (DOCS / "reference" / "library.md").read_text()
    awaited = {name for name, value in members(AsyncStore).items() if inspect.iscoroutinefunction(value)}

    assert listed(page, "AsyncStore", "Awaited") == awaited
    assert listed(page, "AsyncStore", "Not awaited") == set(members(AsyncStore)) - awaited
    assert set(members(AsyncStore)) == set(members(Store))
    assert set(members(convstore.AsyncReplyStream)) == set(members(convstore.ReplyStream))


def test_the_library_reference_has_every_public_name() -> None:
    page = (DOCS / "reference" / "library.md").read_text()
    named = set(re.findall(r"^(?:#+ |\| |)`(\w+)`", page, flags=re.MULTILINE))

    assert set(convstore.__all__) - named == set()


@pytest.mark.parametrize(
    "name", ["Conversation", "MessageRecord", "Summary", "Turn", "Completion", "UsageReport", "UsageRow"]
)
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


def test_the_library_reference_says_the_base_class_and_exit_code_of_each_error() -> None:
    page = (DOCS / "reference" / "library.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)`(?:, `(\w+)`)? \| (\d+) \|", page, flags=re.MULTILINE)
    shown = {name: ({kind, other} - {""}, int(code)) for name, kind, other, code in rows}

    assert shown == {
        kind.__name__: ({base.__name__ for base in kind.__bases__}, exit_code(kind))
        for kind in vars(__import__("convstore.errors").errors).values()
        if inspect.isclass(kind) and issubclass(kind, ConvstoreError)
    }


def exit_code(kind: type[ConvstoreError]) -> int:
    return next((code for base, code in EXIT_CODES if issubclass(kind, base)), 1)


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


def test_the_columns_listed_as_unused_are_those_that_nothing_fills(
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

    def look() -> None:
        with held.read() as connection:
            for table in Base.metadata.tables.values():
                for row in connection.plain.execute(select(table)).mappings():
                    filled.update((table.name, key) for key, value in row.items() if value is not None)

    def answer(_body: dict[str, Any]) -> Reply:
        look()
        return Reply("Hello", usage=usage)

    chat_server.otherwise = answer
    prices = {"models": {"*": {"prompt": 1, "completion": 1}}}
    with Store(sqlite_url, model="test-model", prices=prices) as store:
        conversation = store.new("All", name="all", system="Hello", metadata={"a": 1}, temperature=0)
        store.say(conversation.id, [{"type": "text", "text": "Hi"}], idempotency_key="first")
        with store.stream(conversation.id, "Hi", name="ann") as reply:
            list(reply)
        chat_server.script(Reply("Hello", finish_reason="odd"))
        store.say(conversation.id, "Hi")
        chat_server.script(Failure(503, retry_after=0), Failure(400))
        with pytest.raises(convstore.TurnFailed):
            store.say(conversation.id, "Hi")
        chat_server.script(Reply(pieces=["Hel", "lo"], hold=threading.Event(), hold_after=1))
        with store.stream(conversation.id, "Hi") as reply:
            next(reply)
            assert next(store.follow(conversation.id)) == "Hel"
            look()
            assert store.stop(conversation.id, wait=0)
            with pytest.raises(convstore.LeaseLost):
                reply.close()
        along_the_tree(store)
        made = store.create_key(
            name="k",
            rights=["act-for"],
            acts_for="team-",
            expires_in=timedelta(days=1),
            max_turns=1,
            max_tokens_a_day=1,
        )
        store.note_key_use(made.key.id)
        store.revoke_key(made.key.id)
        store.set_retention(timedelta(days=365))
        store.import_([ImportedConversation("1", [ImportedMessage("1", None, {"role": "user", "content": "x"})], None)])
        store.purge(store.list(source="custom")[0].id, finish=False)
        today = daily_usage.begin_day(datetime.now(UTC).date())
        span = daily_usage.Span(today - timedelta(days=1), today + timedelta(days=1))
        store._engine.transactions.write(daily_usage.sum_days, "", span)
    with recording(sqlite_url, chat_server.url) as service:
        asked: list[dict[str, Any]] = [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}]
        asked += [service.ask(asked, headers={"Idempotency-Key": "once"}).message, {"role": "user", "content": "b"}]
        completion = json.loads(service.ask(asked).body)["id"]
        service.ask(asked, headers={"x-stainless-retry-count": "1"})
        completions = CompletionArchive(service.store)
        service.run(completions.set_metadata(completion, {"a": "b"}))
        service.run(completions.hide(completion))
        item = {"type": "message", "role": "user", "content": "x", "id": "msg_1"}
        service.run(ItemArchive(service.store).create([item], {}))
    look()
    held.close()

    columns = {(table.name, column.name) for table in Base.metadata.tables.values() for column in table.columns}
    said = {
        (table.name, name)
        for table in Base.metadata.tables.values()
        for name, _, meaning in shown_columns(table)
        if meaning.startswith("*Later*")
    }
    elsewhere = {("convstore_search_documents", "terms")}  # PostgreSQL's
    elsewhere |= {("convstore_redactions", column.name) for column in redactions.columns}  # `redact` writes them
    # The service writes them.
    elsewhere |= {("convstore_client_requests", column.name) for column in client_requests.columns}
    elsewhere |= {("convstore_messages", "item_id")}
    assert said == columns - filled - elsewhere


def along_the_tree(store: Store) -> None:
    """Fill the columns that stay empty until a head moves or a path is long."""
    long = store.new("Long", messages=[{"role": "user", "content": f"Message {n}"} for n in range(32_769)])
    store.append(long.id, "The last of them knows its ancestors")
    store.set(long.id, title="A title that comes after later messages")
    store.append(long.id, "x" * 100_001)  # the search index gets it later
    store.tag(long.id, "long")
    store.archive(long.id)
    store.delete(long.id)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "AAAA" * 2000}}
    tree = store.new("Tree", last=2)
    for content in ("One", "Two", [image]):
        store.append(tree.id, {"role": "user", "content": content}, {"role": "assistant", "content": "Yes"})
    store.rate(tree.id, 2, "good", note="short")
    store.pin(tree.id, 1)
    store.undo(tree.id)
    store.fork(tree.id)
    store.compact(tree.id, keep_last=1)
    store.append(tree.id, "Three", {"role": "assistant", "content": "Yes"})
    store.compact(tree.id, keep_last=1)
    store.set(tree.id, compact_at=1, keep_last=1)
    store.say(tree.id, "Four")


# --- the errors ---


def templates() -> list[str]:
    """Return every text of the program's code, with `…` for each value that is filled in."""
    found = []
    for path in (ROOT / "convstore").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(str(part) for part in parts))
    return found


def test_every_error_on_the_troubleshooting_page_is_a_text_of_the_program() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    explained = re.findall(r"^### `(.+)`$", page, flags=re.MULTILINE)
    known = templates()

    assert len(explained) > 15
    assert [text for text in explained if not any(text in template for template in known)] == []


# --- reading and writing the pages ---


def sections(page: str) -> dict[str, str]:
    """Return the text under each heading that is a name in backquotes."""
    parts = re.split(r"^(#+) (.*)$", page, flags=re.MULTILINE)[1:]
    found = {}
    for heading, text in zip(parts[1::3], parts[2::3], strict=True):
        name = re.fullmatch(r"`(.+)`", heading)
        if name:
            found[name[1]] = text
    return found


def copied(page: str, name: str) -> list[str] | None:
    """Return the part of a section that is copied from the code: its first block, and a table after it."""
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
