"""The code is built as docs/architecture.md draws it: the pictures and the table there are what is tested."""

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "convstore"
PAGE = (PACKAGE.parent / "docs" / "architecture.md").read_text()
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "testing" not in path.relative_to(PACKAGE).parts)

# Imported for type checkers alone, upwards: what the errors carry.
ONLY_FOR_TYPES = {("errors", "records"), ("errors", "completions")}

# Of SQLAlchemy, beside its errors: types to hand on. With none of these can SQL be said.
NO_SQL = {"sqlalchemy.Connection", "sqlalchemy.Engine", "sqlalchemy.ext.asyncio.AsyncConnection"}


def module_of(path: Path) -> str:
    """`ledger.turns` for convstore/ledger/turns.py; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> set[str]:
    """Everything that a file imports, wherever in it: modules in full, and names as if they were modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    """The modules of the package that a file imports."""
    known = {module_of(file) for file in PACKAGE.rglob("*.py")}
    found = set()
    for name in imports(path):
        if name.split(".")[0] == "convstore":
            inner = name.removeprefix("convstore").removeprefix(".")
            found.add(inner if inner in known else inner.rpartition(".")[0])
    return found


def layers(picture: int) -> dict[str, int]:
    """The modules of a picture, each with its line."""
    text = re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL)[picture]
    found: dict[str, int] = {}
    for line, drawn in enumerate(text.splitlines()):
        names = re.match(r"\w+( · \w+)*", drawn)
        assert names, drawn
        found |= dict.fromkeys(names[0].split(" · "), line)
    return found


@pytest.mark.parametrize(("picture", "inside"), [(0, ""), (1, "ledger.")], ids=["package", "ledger"])
def test_imports_run_downward_only(picture: int, inside: str) -> None:
    place = layers(picture)
    upward = set()
    for path in FILES:
        if not module_of(path).startswith(inside):
            continue
        importer = module_of(path).removeprefix(inside).split(".")[0]
        for name in ours(path):
            imported = name.removeprefix(inside).split(".")[0]
            if importer in place and imported in place and importer != imported:
                if inside and not name.startswith(inside):
                    continue
                if place[importer] >= place[imported]:
                    upward.add((importer, imported))

    assert upward - (set() if inside else ONLY_FOR_TYPES) == set()


def test_every_module_has_its_place_in_the_pictures() -> None:
    tops = {module_of(path).split(".")[0] for path in FILES} - {"", "__main__"}
    rooms = {module_of(path).split(".")[1] for path in FILES if module_of(path).startswith("ledger.")}

    assert tops == set(layers(0))
    assert rooms == set(layers(1))


def test_what_errors_name_for_type_checkers_is_not_imported_when_they_run() -> None:
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
    for package, places in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, flags=re.MULTILINE):
        said[package] = set(re.findall(r"`([\w.]+)`", places))
    found: dict[str, set[str]] = {package: set() for package in said}
    for path in FILES:
        for name in imports(path):
            package = name.split(".")[0]
            if package in sys.stdlib_module_names or package == "convstore":
                continue
            assert package in said, f"{package} has no row in the page's table"
            module = module_of(path)
            found[package].add(module if module in said[package] else module.split(".")[0])

    assert found == said


def test_sql_is_in_the_ledger_and_nowhere_else() -> None:
    for path in FILES:
        if module_of(path).startswith("ledger"):
            continue
        text = path.read_text()
        taken = {name for name in imports(path) if name.startswith("sqlalchemy") and "sqlalchemy.exc" not in name}
        assert taken <= NO_SQL, path
        assert not re.search(r"\.(execute|scalar|scalars|exec_driver_sql)\(|\b(SELECT|INSERT|UPDATE)\b", text), path


def test_only_the_command_line_prints() -> None:
    for path in PACKAGE.rglob("*.py"):
        if module_of(path).startswith("cli") or module_of(path) == "testing.__main__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Name) and node.id == "print"), path
            assert not (isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")), path


@pytest.mark.parametrize(
    "module", ["window", "streaming", "params", "tokens", "messages", "attachments", "completions", "records"]
)
def test_what_is_said_to_be_pure_has_no_clock_and_no_way_out(module: str) -> None:
    used = {name.split(".")[0] for name in imports(PACKAGE / f"{module}.py")}

    assert used & {"os", "sys", "io", "pathlib", "time", "random", "secrets", "socket", "threading", "logging"} == set()
    assert not re.search(r"\.(now|utcnow|today)\(|\bopen\(", (PACKAGE / f"{module}.py").read_text())
