"""Draw the times of a run against the length of the conversation: `python -m bench.peers.peer_plot JSON SVG`."""

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from bench.peers.peer_results import Results

SECTIONS = ("SQLite", "PostgreSQL, fsync on")
ACTS = {"turn": "a turn", "read": "reading the last 20 messages"}
COLOURS = mpl.colormaps["tab20"].colors


def draw_plot(results: Results, path: Path) -> None:
    """Draw a row of plots for each database, on logarithmic scales: without "fsync off", which the tables have."""
    names = list(dict.fromkeys(one.name for stores in results.sections.values() for one in stores))
    colours = {name: COLOURS[place * 2 % 19] for place, name in enumerate(names)}
    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "convstore", "font.size": 8, "font.sans-serif": ["DejaVu Sans"]}
    )
    figure, rows = plt.subplots(len(SECTIONS), len(ACTS), figsize=(11, 8), squeeze=False)
    for section, row in zip(SECTIONS, rows, strict=True):
        for (act, title), axes in zip(ACTS.items(), row, strict=True):
            axes.set(xscale="log", yscale="log", xlabel="messages in the conversation", ylabel="milliseconds")
            axes.set_title(f"{section}: {title}")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:,.6g}")
            axes.minorticks_off()  # each tick is bytes in the file
            axes.grid(which="major", linewidth=0.3)
            for one in results.sections.get(section, []):
                times = one.acts.get(act, {})
                ours = one.name.startswith("convstore")
                axes.plot(
                    list(times),
                    [each.wall * 1000 for each in times.values()],
                    label=one.name,
                    color="black" if ours else colours[one.name],
                    linestyle="--" if "append" in one.name else ":" if "commits" in one.name else "-",
                    linewidth=2 if ours else 1,
                )
        row[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    draw_plot(Results.read(source), target)


if __name__ == "__main__":
    main()
