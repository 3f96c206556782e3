"""Measure convstore beside other conversation stores: `make bench-peers`, or `python -m bench.peers`."""

import argparse
import os
import platform
import sqlite3
import tempfile
import time
from pathlib import Path

from bench.peers.all_stores import select_stores
from bench.peers.listings import measure_listings
from bench.peers.measure import Scale, measure_stores, say
from bench.peers.peer_results import Results, StoreResults
from bench.peers.peer_tables import format_results
from bench.peers.places import Places, making_places
from bench.peers.trials import try_guarantees

LENGTHS = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
MODES = {"SQLite": ("SQLite",), "PostgreSQL": ("PostgreSQL, fsync off", "PostgreSQL, fsync on")}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure convstore beside other conversation stores.")
    parser.add_argument("--longest", type=int, default=100_000, help="longest conversation; 100,000 by default")
    parser.add_argument(
        "--fill-seconds", type=float, default=120, help="a store that needs more for a length is stopped"
    )
    parser.add_argument("--lengths", help="only conversations of these lengths, as in 1000,1000000")
    parser.add_argument("--only", default="", help="only stores with one of these in their name, and the bare drivers")
    parser.add_argument("--times-only", action="store_true", help="no trials of guarantees, and no listings")
    parser.add_argument("--out", type=Path, default=Path("build/bench-peers"), help="folder for the results")
    given = parser.parse_args()
    lengths = [length for length in LENGTHS if length <= given.longest]
    if given.lengths is not None:
        lengths = [int(length) for length in given.lengths.split(",")]
    scale = Scale(lengths, fill_seconds=given.fill_seconds)
    began = time.monotonic()
    sections: dict[str, list[StoreResults]] = {}
    with tempfile.TemporaryDirectory(prefix="convstore-peers-") as folder, making_places(Path(folder)) as places:
        about = _describe(places)
        for backend, modes in MODES.items():
            bare, *others = select_stores(backend)
            only = [part.strip() for part in given.only.lower().split(",")]
            stores = [bare, *(store for store in others if any(part in store.name.lower() for part in only))]
            trials = [{} if given.times_only else try_guarantees(store, places) for store in stores]
            say(f"{backend}: guarantees {'not ' if given.times_only else ''}tried")
            found = measure_stores(stores, places, scale, modes)
            for section in found.values():
                for one, outcomes in zip(section, trials, strict=True):
                    one.trials = outcomes
            sections |= found
            _write(Results(about, list(scale.lengths), sections), given.out)  # a long run may be stopped
        listings = {} if given.times_only else measure_listings(places)
    about.append(f"{time.monotonic() - began:.0f} seconds; load average at the end {os.getloadavg()[1]:.1f}")
    results = Results(about, list(scale.lengths), sections, listings)
    print(_write(results, given.out))
    from bench.peers.peer_plot import draw_plot  # matplotlib is in the peers' environment only

    draw_plot(results, given.out / "peers.svg")
    say(f"written to {given.out}")


def _write(results: Results, folder: Path) -> str:
    """Write results as JSON and as Markdown, and return the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    results.write(folder / "peers.json")
    page = format_results(results)
    (folder / "peers.md").write_text(page)
    return page


def _describe(places: Places) -> list[str]:
    return [
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, PostgreSQL {places.read_server_version()}",
        f"load average at the start {os.getloadavg()[1]:.1f}",
    ]


if __name__ == "__main__":
    main()
