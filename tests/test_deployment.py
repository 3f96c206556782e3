"""Test the examples of a unit for systemd and of an image: linted, and with commands that the program has."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from convstore.cli import convstore
from tests.cli.program import commands_of
from tests.processes import PATIENCE, ROOT

UNIT, IMAGE = ROOT / "deploy" / "convstore.service", ROOT / "deploy" / "Containerfile"
SERVE = commands_of(convstore)["serve"]


def read_options(arguments: list[str]) -> dict[str, object]:
    """Return the options of a command line of `serve`, as the program reads it."""
    return SERVE.make_context("serve", list(arguments), resilient_parsing=False).params


def read_settings(unit: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", unit, flags=re.MULTILINE))


def test_the_unit_starts_the_service_and_gives_it_more_time_than_its_grace(tmp_path: Path) -> None:
    unit = UNIT.read_text()
    settings = read_settings(unit)
    program, command, *arguments = shlex.split(settings["ExecStart"])
    assert (Path(program).name, command) == ("convstore", "serve")
    options = read_options(arguments)
    assert options["host"] == "127.0.0.1"
    assert int(settings["TimeoutStopSec"]) > int(str(options["grace"]))
    assert settings["KillMode"] == "mixed"  # the other processes are ended by the first one
    checker = shutil.which("systemd-analyze")
    if checker is not None:  # not on macOS
        checked = tmp_path / UNIT.name
        checked.write_text(unit.replace(program, sys.executable))
        run = subprocess.run(
            [checker, "verify", str(checked)], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_the_image_is_made_of_what_the_package_needs_and_starts_the_service() -> None:
    lines = IMAGE.read_text().replace("\\\n", " ").splitlines()
    steps = [line.partition(" ")[::2] for line in lines if line and not line.startswith("#")]
    copied = [name for step, rest in steps if step == "COPY" for name in rest.split()[:-1] if not name.startswith("--")]
    assert all((ROOT / name).exists() for name in copied if not name.startswith("/"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = re.search(r"pip install .*'\.\[(.+?)\]'", IMAGE.read_text())
    assert installed is not None
    assert set(installed[1].split(",")) <= set(project["optional-dependencies"])
    said = dict(steps)
    command, *arguments = json.loads(said["CMD"])
    assert (json.loads(said["ENTRYPOINT"]), command) == (["convstore"], "serve")
    options = read_options(arguments)
    assert str(options["port"]) == said["EXPOSE"]
    assert f":{options['port']}/readyz" in said["HEALTHCHECK"]
    assert said["USER"].isdecimal()  # not root


def test_the_image_is_linted() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    run = subprocess.run([linter, "--no-color", IMAGE], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")
