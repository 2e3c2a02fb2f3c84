"""Statistics -> table, figures, files."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import rich.console
import rich.progress
from matplotlib.figure import Figure

from jaxinit.compare import figures, stats, store, table, verdict
from jaxinit.compare.verdict import Verdict


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a sweep found.

    Attributes:
        runs: a row a run; the columns are those of `store.SCHEMA`.
        settings: all that decided the runs, and where they were made.
        seconds: wall-clock seconds of the sweep, compilation included.
    """

    runs: pa.Table
    settings: dict[str, Any]
    seconds: float

    def ranking(self) -> list[stats.SchemeSummary]:
        """The schemes at their best learning rates, the fastest first.

        `final_valid_accuracy` is the task's metric, whatever it is.
        """
        return verdict.ranking(self.runs, self.settings)

    def summary(self) -> dict[str, Any]:
        """Settings and ranking as plain data; infinity is null, for JSON."""
        ranking = [
            {name: _plain(value) for name, value in scheme._asdict().items()}
            for scheme in self.ranking()
        ]
        diverged = self.runs["status"].to_pylist().count("diverged")
        return {
            "settings": self.settings,
            "runs": self.runs.num_rows,
            "diverged": diverged,
            "seconds": round(self.seconds, 2),
            "ranking": ranking,
        }

    def save(self, out: str | os.PathLike[str]) -> None:
        """Write runs, summary and figures into the folder `out`."""
        folder = pathlib.Path(out)
        store.claim(folder, self.settings)
        store.write_runs(folder, self.runs)
        summary = json.dumps(self.summary(), indent=2)
        store.write_atomically(folder / "summary.json", summary.encode())
        self.plot_curves().savefig(folder / "curves.png", dpi=150)
        self.plot_learning_rates().savefig(folder / "learning_rates.png", dpi=150)
        self.plot_survival().savefig(folder / "survival.png", dpi=150)
        self.plot_heat_map().savefig(folder / "heat_map.png", dpi=150)

    def show(
        self, baseline: str | None = None, learning_rate: float | None = None
    ) -> None:
        """Print the table of schemes, the fastest first, and the verdict.

        Args:
            baseline: the scheme that ratios compare with; see `verdict.judge`.
            learning_rate: see all schemes at this rate, instead of each at its best.
        """
        shown = self.judge(baseline, learning_rate)
        console = rich.console.Console()
        runs = self.runs.num_rows
        console.print(
            table.table(shown, self.settings, self.seconds, runs, console.width)
        )

    def judge(
        self, baseline: str | None = None, learning_rate: float | None = None
    ) -> Verdict:
        """Ranks, ratios and the verdict in one sentence; see `verdict.judge`."""
        return verdict.judge(self.runs, self.settings, baseline, learning_rate)

    def plot_curves(self) -> Figure:
        """Loss and metric against steps; see `figures.curves`."""
        return figures.curves(self.runs, self.settings, self.ranking())

    def plot_learning_rates(self) -> Figure:
        """Final training loss against the rate; see `figures.learning_rates`."""
        return figures.learning_rates(self.runs, self.settings, self.ranking())

    def plot_survival(self) -> Figure:
        """The share of runs not yet at the target; see `figures.survival`."""
        return figures.survival(self.runs, self.settings, self.ranking())

    def plot_heat_map(self) -> Figure:
        """Scheme x learning rate; see `figures.heat_map`."""
        return figures.heat_map(self.runs, self.settings, self.ranking())


class Progress:
    """A bar on the screen: steps done, runs, diverged runs, time left."""

    def __init__(self, runs: int, steps: int, quiet: bool) -> None:
        """Prepare the bar; `quiet` shows none."""
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("step {task.completed:.0f} of {task.total:.0f}"),
            rich.progress.TextColumn(
                "{task.fields[done]} of {task.fields[runs]} runs done, "
                "{task.fields[diverged]} diverged"
            ),
            rich.progress.TimeRemainingColumn(),
            disable=quiet,
        )
        self._runs, self._steps = runs, steps
        self._row = self._bar.add_task(
            "compiling", total=steps, runs=runs, done=0, diverged=0
        )

    def __enter__(self) -> Progress:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()

    def update(self, step: int, diverged: int) -> None:
        """Move the bar to `step`, with so many runs diverged."""
        done = self._runs if step == self._steps else diverged
        self._bar.update(
            self._row,
            completed=step,
            diverged=diverged,
            done=done,
            description="training" if step < self._steps else "done",
        )


def histogram(values: np.ndarray, bins: int = 15, width: int = 50) -> str:
    """A histogram in text, a line a bin: its centre and a bar."""
    counts, edges = np.histogram(values, bins)
    centers = (edges[:-1] + edges[1:]) / 2
    bars = np.round(width * counts / max(counts.max(), 1)).astype(int)
    rows = zip(centers, bars, counts, strict=True)
    return "\n".join(
        f"{c:11.4g} {'█' * bar}{'▏' * (not bar and n > 0)}" for c, bar, n in rows
    )


def _plain(value: Any) -> Any:
    if isinstance(value, stats.Quartiles):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
