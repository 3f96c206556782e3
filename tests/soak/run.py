"""Run a soak: `make soak`, or `python -m tests.soak.run [--minutes 10] [--seed N] [--databases sqlite,postgresql]`.

Workers use a few conversations at random while they are killed, stopped and started, and while the model server, and
the database's server, fail. Meanwhile and at the end, all that callers were told is compared with the database.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.processes import running_zygote
from tests.soak.plan import DATABASES, Plan
from tests.soak.report import MOST_PRINTED, Figures, format_table
from tests.soak.soaking import soak


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soaks that the command line asks for, and return the exit code."""
    options = _parse(arguments)
    print(f"SEED={options.seed}: the same seed repeats the choices, not their timing", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="convstore-soak-"))
    failed = True
    try:
        all_figures = _soak_each(options, folder)
        failed = any(figures.violations for figures in all_figures)
    except KeyboardInterrupt:
        failed = False
        return 130
    finally:
        if failed:
            print(f"what is left of it: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
    print(f"\n{format_table(all_figures)}\n\n{'FAILED' if failed else 'no violation'}, SEED={options.seed}")
    return int(failed)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Use convstore from workers that are killed, stopped and started.")
    parser.add_argument("--minutes", type=float, default=10, help="length of the whole run (default: 10)")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="repeats the choices of a run")
    parser.add_argument(
        "--databases",
        type=_parse_databases,
        default=DATABASES,
        help="sqlite, postgresql, or both (the default); each gets the same part of the time",
    )
    return parser.parse_args(arguments)


def _parse_databases(text: str) -> list[str]:
    names = text.split(",")
    if wrong := set(names) - set(DATABASES):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(wrong))}; known: {', '.join(DATABASES)}")
    return names


def _soak_each(options: argparse.Namespace, folder: Path) -> list[Figures]:
    """Run one soak after another, and print what they find."""
    found = []
    seconds = options.minutes * 60 / len(options.databases)
    with running_zygote(folder) as zygote:
        for name in options.databases:
            place = folder / name
            place.mkdir()
            plan = Plan(
                name,
                options.seed,
                seconds,
                str(place),
                lease=min(1.5, seconds / 5),
                began=time.monotonic(),
            )
            figures = soak(plan, zygote, _tell)
            _tell(figures.format_line())
            for violation in figures.violations[:MOST_PRINTED]:
                _tell(f"VIOLATION {violation}")
            found.append(figures)
    return found


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
