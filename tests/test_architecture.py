"""Test that the code is built as the picture and the tables of docs/architecture.md say."""

import ast
import re
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "convstore"
PAGE = (PACKAGE.parent / "docs" / "architecture.md").read_text()
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "testing" not in path.relative_to(PACKAGE).parts)
MOST_ROOMS = 16  # as many as the design names, and `config`, which was one file

# Imports upwards, only for type checkers: the errors carry these types.
ONLY_FOR_TYPES = {("errors", "values"), ("errors", "messages")}

# SQLAlchemy's types that other rooms pass on, and its errors. None of these can write SQL.
NO_SQL = {"sqlalchemy.Connection", "sqlalchemy.Engine", "sqlalchemy.ext.asyncio.AsyncConnection"}


def module_of(path: Path) -> str:
    """Return `db.turn_rows` for convstore/db/turn_rows.py; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def imports(path: Path) -> set[str]:
    """Return everything that a file imports: full module names, and imported names in the same form."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = {module_of(path) for path in PACKAGE.rglob("*.py")}


def ours(path: Path) -> set[str]:
    """Return the modules of the package that a file imports."""
    found = set()
    for name in imports(path):
        if name.split(".")[0] == "convstore":
            inner = name.removeprefix("convstore").removeprefix(".")
            found.add(inner if inner in MODULES else inner.rpartition(".")[0])
    return found


def picture() -> dict[str, int]:
    """Return the rooms of the picture, each with its line."""
    text = re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL)[0]
    found: dict[str, int] = {}
    for line, drawn in enumerate(text.splitlines()):
        names = re.match(r"\w+( · \w+)*", drawn)
        if names:
            found |= dict.fromkeys(names[0].split(" · "), line)
    return found


def listed() -> list[str]:
    """Return the modules that the page describes, by room."""
    found = []
    for room, text in re.findall(r"^### `([\w.]+)`\n(.*?)(?=^##|\Z)", PAGE, flags=re.DOTALL | re.MULTILINE):
        for names in re.findall(r"^\| (`.+?`) \|", text, flags=re.MULTILINE):
            found += [f"{room}.{name}" for name in re.findall(r"`(\w+)`", names)]
    return found


def test_imports_between_rooms_run_downward_only() -> None:
    place = picture()
    upward = set()
    for path in FILES:
        importer = room_of(module_of(path))
        for name in ours(path):
            imported = room_of(name)
            if importer in place and imported in place and importer != imported and place[importer] >= place[imported]:
                upward.add((importer, imported))

    assert upward == ONLY_FOR_TYPES


def test_no_two_modules_import_each_other_directly_or_not() -> None:
    graph = {module_of(path): ours(path) - {module_of(path), ""} for path in FILES if module_of(path) != "errors"}

    assert list(TopologicalSorter(graph).static_order())


def test_every_room_is_in_the_picture_and_there_are_at_most_sixteen() -> None:
    tops = {room_of(module_of(path)) for path in PACKAGE.rglob("*.py")} - {"", "__main__"}
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}

    assert tops - {"testing"} == set(picture())
    assert len(rooms) <= MOST_ROOMS


def test_every_module_is_listed_once_with_what_it_holds() -> None:
    known = {module_of(path) for path in FILES if path.name != "__init__.py"}
    modules = {name for name in known if "." in name and not name.startswith("cli.commands.")}

    assert [name for name, count in Counter(listed()).items() if count > 1] == []
    assert set(listed()) == modules


def test_no_two_files_share_a_name() -> None:
    names = Counter(
        path.name for path in FILES if not path.name.startswith("__") and "cli/commands" not in path.as_posix()
    )

    assert [name for name, count in names.items() if count > 1] == []


def test_the_types_that_errors_name_are_imported_only_for_type_checkers() -> None:
    tree = ast.parse((PACKAGE / "errors.py").read_text())
    at_run_time = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]

    assert {name.module for name in at_run_time if isinstance(name, ast.ImportFrom)} == {
        "__future__",
        "collections.abc",
        "typing",
    }


def test_the_test_server_stands_apart() -> None:
    inside = {name for path in (PACKAGE / "testing").rglob("*.py") for name in ours(path)}
    outside = {name for path in FILES for name in ours(path)}

    assert {name for name in inside if not name.startswith("testing")} == set()
    assert {name for name in outside if name.startswith("testing")} == set()
    third_party = {name.split(".")[0] for path in (PACKAGE / "testing").rglob("*.py") for name in imports(path)}
    assert third_party - set(sys.stdlib_module_names) == {"convstore"}


def test_each_package_is_imported_only_where_the_page_says() -> None:
    said: dict[str, set[str]] = {}
    for package, places in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE.partition("## Who may use what")[2], re.M):
        said[package] = set(re.findall(r"`([\w.]+)`", places))
    found: dict[str, set[str]] = {package: set() for package in said}
    for path in FILES:
        for name in imports(path):
            package = name.split(".")[0]
            if package in sys.stdlib_module_names or package == "convstore":
                continue
            assert package in said, f"{package} has no row in the page's table"
            found[package].add(room_of(module_of(path)))

    assert found == said


def test_sql_is_only_in_one_room() -> None:
    for path in FILES:
        if room_of(module_of(path)) == "db" or module_of(path) == "transfer.foreign_database":
            continue  # the latter reads databases of other programs
        text = path.read_text()
        taken = {name for name in imports(path) if name.startswith("sqlalchemy") and "sqlalchemy.exc" not in name}
        assert taken <= NO_SQL, path
        assert not re.search(r"\.(execute|scalar|scalars|exec_driver_sql)\(|\b(SELECT|INSERT|UPDATE)\b", text), path


def test_only_the_command_line_prints() -> None:
    for path in PACKAGE.rglob("*.py"):
        if room_of(module_of(path)) == "cli" or module_of(path) == "testing.__main__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Name) and node.id == "print"), path
            assert not (isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")), path


PURE = [*sorted(name for name in MODULES if room_of(name) in ("messages", "search", "values")), "context.window"]


@pytest.mark.parametrize("module", PURE)
def test_the_modules_listed_as_pure_use_no_clock_and_no_input_or_output(module: str) -> None:
    path = PACKAGE / f"{module.replace('.', '/')}.py"
    path = path if path.is_file() else PACKAGE / module / "__init__.py"
    used = {name.split(".")[0] for name in imports(path)}

    # Random ids are made in `values`: their form is a rule too.
    forbidden = {"os", "sys", "io", "pathlib", "time", "random", "socket", "threading", "logging"}
    assert used & forbidden == set()
    assert used & {"sqlalchemy", "openai"} == set()
    assert not re.search(r"\.(now|utcnow|today)\(|\bopen\(", path.read_text())
