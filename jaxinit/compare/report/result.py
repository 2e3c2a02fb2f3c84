"""A sweep as its user sees it: table, figures, files."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes

from jaxinit import _checks
from jaxinit.compare import files
from jaxinit.compare.report import (
    export,
    figures,
    page,
    signal_figure,
    style,
    table,
    terminal,
    words,
)
from jaxinit.compare.stats import targets, verdict
from jaxinit.compare.stats.across_optimizers import AcrossOptimizers, judge_across
from jaxinit.compare.stats.measures import Quartiles
from jaxinit.compare.stats.summary import SchemeSummary, ranking
from jaxinit.compare.stats.verdict import Verdict
from jaxinit.compare.store import folder, signal_file
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import Sweep
from jaxinit.compare.train.optimizer import text_of
from jaxinit.compare.train.optimizers import Given, as_optimizer


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a sweep found.

    Attributes:
        sweep: its runs and settings.
    """

    sweep: Sweep

    @property
    def runs(self) -> pa.Table:
        """A row for each run; the columns are those of `store.sweep.SCHEMA`."""
        return self.sweep.runs

    @property
    def settings(self) -> Settings:
        """What the sweep is."""
        return self.sweep.settings

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the sweep, compilation included; NaN if not known."""
        return self.sweep.seconds

    @functools.cached_property
    def contestants(self) -> Sweep:
        """What is compared; see `Sweep.contestants`."""
        return self.sweep.contestants()

    def under(self, optimizer: Given) -> Result:
        """The same of one of several optimizers.

        Args:
            optimizer: one of the sweep, or its text.

        Raises:
            ValueError: the sweep has no such optimizer.
        """
        known = self.settings.optimizers
        if optimizer not in known:  # as a function of the user's is, by its name
            optimizer = text_of(as_optimizer(optimizer))
        _checks.choice("report", "optimizer", optimizer, known)
        return Result(self.sweep.under(str(optimizer)))

    def across_optimizers(
        self, learning_rate: float | None = None
    ) -> AcrossOptimizers | None:
        """Verdicts within each of several optimizers; see `judge_across`."""
        return judge_across(self.sweep, learning_rate)

    def ranking(self) -> list[SchemeSummary]:
        """The schemes at their best learning rates, the fastest first."""
        return ranking(self.contestants)

    def judge(
        self, baseline: str | None = None, learning_rate: float | None = None
    ) -> Verdict:
        """Ranks, ratios and what they show; see `verdict.judge`."""
        asked = baseline, learning_rate
        if asked not in self._judged:
            self._judged[asked] = verdict.judge(self.sweep, *asked)
        return self._judged[asked]

    @functools.cached_property
    def _judged(self) -> dict[Any, Verdict]:
        return {}

    def sentence(self, baseline: str | None = None) -> str:
        """The verdict in one sentence; of several optimizers whether it changes."""
        across = self.across_optimizers()
        if across is not None:
            return words.across_optimizers(across)
        return words.sentence(self.judge(baseline), self.contestants.settings)

    def notes(self, baseline: str | None = None) -> list[str]:
        """Sentences on what limits the verdict."""
        return words.notes(self.judge(baseline), self.contestants.settings)

    def judge_targets(
        self, baseline: str | None = None, learning_rate: float | None = None
    ) -> dict[float, Verdict]:
        """The verdict at each of the setting `targets`, from easy to hard."""
        return {
            each: verdict.judge(self.sweep.with_target(each), baseline, learning_rate)
            for each in self.settings.targets
        }

    def summary(self) -> dict[str, Any]:
        """Settings and ranking as plain data; infinity is null, for JSON."""
        more = {
            f"{each:g}": _rows(ranking(self.contestants.with_target(each)))
            for each in self.settings.targets
        }
        return {
            "settings": self.settings.to_json(),
            "runs": self.runs.num_rows,
            "diverged": int(self.sweep.diverged.sum()),
            "seconds": _plain(round(self.seconds, 2)),
            "verdict": self.sentence(),
            "ranking": _rows(self.ranking()),
            **({"ranking_at_targets": more} if more else {}),
            **({"optimizers": self._by_optimizer()} if self._several else {}),
        }

    @property
    def _several(self) -> bool:
        return len(self.settings.optimizers) > 1

    def _by_optimizer(self) -> dict[str, Any]:
        """Verdict and ranking within each optimizer, as plain data."""
        every = {each: self.under(each) for each in self.sweep.optimizers}
        return {
            name: {"verdict": each.sentence(), "ranking": _rows(each.ranking())}
            for name, each in every.items()
        }

    def with_target(self, target: float) -> Result:
        """The same runs with another target; see `Sweep.with_target`."""
        return Result(self.sweep.with_target(target))

    def with_target_of(self, scheme: str) -> Result:
        """The target is what a scheme reaches by the rule of `targets.target_of`."""
        return Result(targets.with_target_of(self.sweep, scheme))

    def with_targets(self, wanted: Sequence[float]) -> Result:
        """The same runs, with several targets side by side in table and page."""
        return Result(self.sweep.with_targets(wanted))

    def save(self, out: str | os.PathLike[str]) -> None:
        """Write runs, summary, figures and `report.html` into the folder `out`."""
        path = pathlib.Path(out)
        folder.claim(path, self.settings)
        folder.write_runs(path, self.runs, self.seconds)
        self.write(path)

    def write(self, out: str | os.PathLike[str], baseline: str | None = None) -> None:
        """Write what follows from the runs: summary, figures and `report.html`.

        Args:
            out: a folder that exists.
            baseline: the scheme that ratios compare with; see `verdict.judge`.
        """
        path = pathlib.Path(out)
        summary = json.dumps(self.summary(), indent=2)
        files.write(path / "summary.json", summary)
        part = self.page_part(baseline)
        given = part.sweep.contestants(), part.verdict
        drawn = {
            "curves": figures.curves(*given)[0],
            "learning_rates": figures.learning_rates(*given),
            "survival": figures.survival(*given),
            "heat_map": figures.heat_map(*given),
        }
        if part.across is not None:
            verdicts = part.across.verdicts
            drawn["optimizers"] = figures.optimizer_map(verdicts, self.settings)
        if any(self.sweep.signals.values()):
            drawn["signal"] = self._signal_axes()[0]
            signal_file.write_signals(path, self.sweep.signals)
        for name, axes in drawn.items():
            files.write(path / f"{name}.png", style.png(axes))
        files.write(path / "report.html", page.page(part))

    def show(
        self, baseline: str | None = None, learning_rate: float | None = None
    ) -> None:
        """Print the table of schemes, the fastest first, and the verdict.

        Args:
            baseline: the scheme that ratios compare with; see `verdict.judge`.
            learning_rate: see all schemes at this rate, instead of each at its best.
        """
        shown = self.judge(baseline, learning_rate)
        console = terminal.console()
        across = self.across_optimizers(learning_rate)
        for each in across.verdicts if across else ():
            self.under(each).show(None, learning_rate)
            console.print()
        console.print(table.table(self.contestants, shown, console.width))
        if across is not None:
            console.print("\n" + words.across_optimizers(across), markup=False)
        if several := self.judge_targets(shown.baseline, learning_rate):
            console.print(
                table.targets(
                    several, shown.order, self.contestants.settings, console.width
                )
            )

    def plot_curves(
        self,
        columns: Sequence[str] = ("train_loss", "valid_metric"),
        ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    ) -> np.ndarray:
        """Loss and metric against steps: (columns,) axes; see `figures.curves`."""
        return figures.curves(self.contestants, self.judge(), columns, ax, "screen")

    def plot_learning_rates(self, ax: Axes | None = None) -> Axes:
        """Final training loss against the rate; see `figures.learning_rates`."""
        return figures.learning_rates(self.contestants, self.judge(), ax, "screen")

    def plot_survival(self, ax: Axes | None = None) -> Axes:
        """The share of runs not yet at the target; see `figures.survival`."""
        return figures.survival(self.contestants, self.judge(), ax, "screen")

    def plot_heat_map(self, ax: Axes | None = None) -> Axes:
        """Scheme x learning rate; see `figures.heat_map`."""
        return figures.heat_map(self.contestants, self.judge(), ax, "screen")

    def plot_optimizers(self, ax: Axes | None = None) -> Axes:
        """Scheme x optimizer; see `figures.optimizer_map`.

        Raises:
            ValueError: the sweep has one optimizer.
        """
        across = self.across_optimizers()
        if across is None:
            raise ValueError(
                f"report: the sweep has one optimizer, {self.settings.optimizers[0]}; "
                "run it with several to see schemes by optimizers."
            )
        return figures.optimizer_map(across.verdicts, self.settings, ax, "screen")

    def plot_signal(
        self, ax: Axes | Sequence[Axes] | np.ndarray | None = None
    ) -> np.ndarray:
        """The signal at step 0, forward and backward: (2,) axes.

        Raises:
            ValueError: the result has none, as that of a single part of a sweep.
        """
        if not any(self.sweep.signals.values()):
            raise ValueError(
                "report: this result has no signal at step 0; load it from a folder "
                "with a signal.json, or run the sweep again."
            )
        return self._signal_axes(ax, "screen")

    def _signal_axes(self, ax: Any = None, medium: style.Medium = "file") -> np.ndarray:
        title = f"{self.settings.task}, before the first step"
        return signal_figure.plot(self.sweep.signals, title, ax=ax, medium=medium)

    def to_pandas(self) -> Any:
        """The runs as a `pandas.DataFrame`; see `export.to_pandas`."""
        return export.to_pandas(self.runs)

    def to_polars(self) -> Any:
        """The runs as a `polars.DataFrame`; see `export.to_polars`."""
        return export.to_polars(self.runs)

    def to_xarray(self) -> Any:
        """The runs as an `xarray.Dataset`; see `export.to_xarray`."""
        return export.to_xarray(self.sweep)

    def _repr_html_(self) -> str:
        return page.fragment(self.judge(), self.contestants.settings)

    def page_part(self, baseline: str | None = None) -> page.Part:
        """What a page takes of it."""
        shown = self.judge(baseline)
        targets = self.judge_targets(shown.baseline)
        return page.Part(self.sweep, shown, targets, self.across_optimizers())


def load_result(path: str | os.PathLike[str]) -> Result:
    """The result that a sweep left in a folder.

    Args:
        path: of the folder, with `sweep.json` and `runs/`, as `compare` writes it.

    Raises:
        FileNotFoundError: the folder is no sweep's, or holds no finished run.
        ValueError: its files are damaged, or do not belong together.
    """
    return Result(folder.read_sweep(path))


def _rows(found: Sequence[SchemeSummary]) -> list[dict[str, Any]]:
    return [
        {name: _plain(value) for name, value in scheme._asdict().items()}
        for scheme in found
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Quartiles):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
