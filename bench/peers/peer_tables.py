"""Write what was measured as Markdown tables."""

from collections.abc import Iterable, Sequence

from bench.peers.peer_results import Results, StoreResults, Times

TABLE_LENGTH = 1_000
"""Length of the conversation in the table of prices."""
GUARANTEES = {
    "killed": "killed in the call",
    "interleaving": "two turns at once",
    "letter": "a changed letter",
    "clock": "a clock that goes back",
    "fields": "unknown fields",
}
ACTS = {"turn": "A turn", "read": "Reading the last 20 messages"}


def format_results(results: Results) -> str:
    """Return all tables."""
    lines = [f"{line}  " for line in results.about]
    for section, stores in results.sections.items():
        lines += ["", f"### {section}", "", f"Price with {TABLE_LENGTH:,} messages, as ratios to the bare driver:", ""]
        lines += format_prices(stores)
        for act, title in ACTS.items():
            lines += ["", f"{title}, by the number of messages (milliseconds of the bare driver, then ratios):", ""]
            lines += format_lengths(stores, act, results.lengths)
    if results.listings:
        lines += ["", "### Start-up, whole processes", "", *format_listings(results.listings)]
    lines += ["", f"Versions: {', '.join(_list_versions(results))}."]
    return "\n".join(lines) + "\n"


def format_prices(stores: Sequence[StoreResults]) -> list[str]:
    """Return the table of prices with `TABLE_LENGTH` messages, and of the guarantees beside them."""
    bare = stores[0]
    head = ["store", "turn", "CPU", "last 20", "CPU", "load all", "CPU", "bytes per character", *GUARANTEES.values()]
    rows = []
    for one in stores:
        cells = [one.name]
        for act in ("turn", "read", "load"):
            cells += _format_ratio(one, bare, act)
        size = "" if one.bytes_per_character is None else f"{one.bytes_per_character:.2f}"
        rows.append([*cells, size, *(one.trials.get(name, one.trials.get("failed", "")) for name in GUARANTEES)])
    return format_table(head, rows, numbers=range(1, 8))


def format_listings(listings: dict[str, Times]) -> list[str]:
    """Return the table of the commands that list conversations."""
    rows = [[f"`{command}`", f"{one.wall * 1000:.0f} ms ({one.cpu * 1000:.0f})"] for command, one in listings.items()]
    return format_table(["command", "time (CPU)"], rows, numbers=[1])


def format_lengths(stores: Sequence[StoreResults], act: str, lengths: Sequence[int]) -> list[str]:
    """Return the table of one act at each length: the wall ratio and, in brackets, the CPU ratio."""
    bare = stores[0].acts.get(act, {})
    first = [stores[0].name, *(_format_times(bare.get(length)) for length in lengths), ""]
    rows = [first]
    for one in stores[1:]:
        cells = [one.name]
        for length in lengths:
            times, base = one.acts.get(act, {}).get(length), bare.get(length)
            if times is None or base is None:
                cells.append("–")
            else:
                cells.append(f"{times.wall / base.wall:.1f} ({times.cpu / base.cpu:.1f})")
        rows.append([*cells, f"stopped: {one.stopped}" if one.stopped else ""])
    head = ["store", *(f"{length:,}" for length in lengths), ""]
    return format_table(head, rows, numbers=range(1, len(lengths) + 1))


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int]) -> list[str]:
    """Return the lines of a Markdown table; the columns `numbers` are set to the right."""
    right = set(numbers)
    rule = ["---:" if place in right else "---" for place in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def _list_versions(results: Results) -> list[str]:
    stores = [one for section in results.sections.values() for one in section]
    return sorted({f"{name} {version}" for one in stores for name, version in one.versions.items()})


def _format_ratio(one: StoreResults, bare: StoreResults, act: str) -> list[str]:
    times, base = (store.acts.get(act, {}).get(TABLE_LENGTH) for store in (one, bare))
    if times is None or base is None:
        return ["–", "–"]
    return [f"{times.wall / base.wall:.2f}", f"{times.cpu / base.cpu:.2f}"]


def _format_times(times: Times | None) -> str:
    return "–" if times is None else f"{times.wall * 1000:.3g} ms ({times.cpu * 1000:.3g})"
