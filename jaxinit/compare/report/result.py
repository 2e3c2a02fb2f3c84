"""Statistics -> table, figures, files."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import rich.console
from matplotlib.axes import Axes

from jaxinit.compare.report import export, figures, page, style, table
from jaxinit.compare.stats import summary as stats
from jaxinit.compare.stats import targets, verdict
from jaxinit.compare.stats.verdict import Verdict
from jaxinit.compare.store import store
from jaxinit.compare.sweep.progress import Progress as Progress
from jaxinit.compare.sweep.progress import histogram as histogram
from jaxinit.compare.train import signal

_BEFORE = {
    "loss_name": "cross_entropy",
    "metric_name": "accuracy",
    "direction": "max",
    "device": "an unknown device",
}
_NEEDED = (
    "task",
    "target",
    "schemes",
    "learning_rates",
    "seeds",
    "steps",
    "eval_every",
    "batch_size",
    "optimizer",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a sweep found.

    Attributes:
        runs: a row a run; the columns are those of `store.SCHEMA`.
        settings: all that decided the runs, and where they were made.
        seconds: wall-clock seconds of the sweep, compilation included.
        signals: of the layers at step 0, by scheme; see `signal.signals`.
    """

    runs: pa.Table
    settings: dict[str, Any]
    seconds: float
    signals: Mapping[str, Sequence[signal.Row]] = dataclasses.field(
        default_factory=dict
    )

    def ranking(self) -> list[stats.SchemeSummary]:
        """The schemes at their best learning rates, the fastest first.

        `final_valid_metric` is the task's metric, whatever it is.
        """
        return verdict.ranking(self.runs, self.settings)

    def summary(self) -> dict[str, Any]:
        """Settings and ranking as plain data; infinity is null, for JSON."""
        diverged = self.runs["status"].to_pylist().count("diverged")
        others = self.settings.get("targets", ())
        more = {f"{each:g}": self.at_target(each)._rows() for each in others}
        return {
            "settings": self.settings,
            "runs": self.runs.num_rows,
            "diverged": diverged,
            "seconds": _plain(round(self.seconds, 2)),
            "verdict": self.judge().sentence,
            "ranking": self._rows(),
            **({"ranking_at_targets": more} if more else {}),
        }

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {name: _plain(value) for name, value in scheme._asdict().items()}
            for scheme in self.ranking()
        ]

    def at_target(self, target: float) -> Result:
        """The same runs with another target; see `targets.at_target`."""
        runs, settings = targets.at_target(self.runs, self.settings, target)
        return dataclasses.replace(self, runs=runs, settings=settings)

    def at_target_of(self, scheme: str) -> Result:
        """The target is what a scheme reaches by the rule of `targets.target_of`."""
        scheme = verdict.scheme_named("target_of", scheme, self.settings["schemes"])
        found = self.at_target(targets.target_of(self.runs, self.settings, scheme))
        settings = found.settings | {"target_of": scheme}
        return dataclasses.replace(found, settings=settings)

    def with_targets(self, wanted: Sequence[float]) -> Result:
        """The same runs, with several targets side by side in table and page.

        Args:
            wanted: values of the task's metric.

        Raises:
            ValueError: as `at_target` does.
        """
        up = self.settings["direction"] == "max"
        listed = sorted(set(map(float, wanted)), reverse=not up)
        for each in listed:
            self.at_target(each)  # or say what is wrong with it
        settings = self.settings | {"targets": listed}
        return dataclasses.replace(self, settings=settings)

    @classmethod
    def from_store(cls, folder: str | os.PathLike[str]) -> Result:
        """The result that a sweep left in a folder; see `load_result`."""
        return load_result(folder)

    def save(self, out: str | os.PathLike[str]) -> None:
        """Write runs, summary, figures and `report.html` into the folder `out`."""
        folder = pathlib.Path(out)
        store.claim(folder, self.settings)
        store.write_runs(folder, self.runs)
        self.write(folder)

    def write(self, out: str | os.PathLike[str], baseline: str | None = None) -> None:
        """Write what follows from the runs: summary, figures and `report.html`.

        Args:
            out: a folder that exists.
            baseline: the scheme that ratios compare with; see `verdict.judge`.
        """
        folder = pathlib.Path(out)
        summary = json.dumps(self.summary(), indent=2)
        store.write_atomically(folder / "summary.json", summary.encode())
        given = self.runs, self.settings, self.ranking()
        drawn = {
            "curves": figures.curves(*given)[0],
            "learning_rates": figures.learning_rates(*given),
            "survival": figures.survival(*given),
            "heat_map": figures.heat_map(*given),
        }
        if any(self.signals.values()):
            drawn["signal"] = self._signal_axes()[0]
            content = json.dumps(signal.to_json(self.signals), allow_nan=False)
            store.write_atomically(folder / "signal.json", content.encode())
        for name, axes in drawn.items():
            figure = style.figure_of(axes)
            figure.savefig(folder / f"{name}.png", dpi=150)
        text = page.page([self.page_part(baseline)])
        (folder / "report.html").write_text(text, "utf-8")

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
        if several := self.judge_targets(shown.baseline, learning_rate):
            order = [row.summary.scheme for row in shown.rows]
            console.print(table.targets(several, order, self.settings, console.width))

    def judge(
        self, baseline: str | None = None, learning_rate: float | None = None
    ) -> Verdict:
        """Ranks, ratios and the verdict in one sentence; see `verdict.judge`."""
        return verdict.judge(self.runs, self.settings, baseline, learning_rate)

    def judge_targets(
        self, baseline: str | None = None, learning_rate: float | None = None
    ) -> dict[float, Verdict]:
        """The verdict at each of the setting `targets`, from easy to hard."""
        return {
            each: self.at_target(each).judge(baseline, learning_rate)
            for each in self.settings.get("targets", ())
        }

    def plot_curves(
        self,
        columns: Sequence[str] = ("train_loss", "valid_metric"),
        ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    ) -> np.ndarray:
        """Loss and metric against steps: (columns,) axes; see `figures.curves`."""
        given = self.runs, self.settings, self.ranking()
        return figures.curves(*given, columns, ax, "screen")

    def plot_learning_rates(self, ax: Axes | None = None) -> Axes:
        """Final training loss against the rate; see `figures.learning_rates`."""
        given = self.runs, self.settings, self.ranking()
        return figures.learning_rates(*given, ax, "screen")

    def plot_survival(self, ax: Axes | None = None) -> Axes:
        """The share of runs not yet at the target; see `figures.survival`."""
        given = self.runs, self.settings, self.ranking()
        return figures.survival(*given, ax, "screen")

    def plot_heat_map(self, ax: Axes | None = None) -> Axes:
        """Scheme x learning rate; see `figures.heat_map`."""
        given = self.runs, self.settings, self.ranking()
        return figures.heat_map(*given, ax, "screen")

    def plot_signal(
        self, ax: Axes | Sequence[Axes] | np.ndarray | None = None
    ) -> np.ndarray:
        """The signal at step 0, forward and backward: (2,) axes; see `signal.plot`.

        Raises:
            ValueError: the result has none, as that of a single part of a sweep.
        """
        if not any(self.signals.values()):
            raise ValueError(
                "report: this result has no signal at step 0; sweeps of this version "
                "leave it in signal.json."
            )
        return self._signal_axes(ax, "screen")

    def _signal_axes(self, ax: Any = None, medium: style.Medium = "file") -> np.ndarray:
        title = f"{self.settings['task']}, before the first step"
        return signal.plot(self.signals, title, ax=ax, medium=medium)

    def to_pandas(self) -> Any:
        """The runs as a `pandas.DataFrame`; see `export.to_pandas`."""
        return export.to_pandas(self.runs)

    def to_polars(self) -> Any:
        """The runs as a `polars.DataFrame`; see `export.to_polars`."""
        return export.to_polars(self.runs)

    def to_xarray(self) -> Any:
        """The runs as an `xarray.Dataset`; see `export.to_xarray`."""
        return export.to_xarray(self.runs, self.settings)

    def _repr_html_(self) -> str:
        return page.fragment(self.judge(), self.settings)

    def page_part(self, baseline: str | None = None) -> page.Sweep:
        """What `page.page` takes of it."""
        shown = self.judge(baseline)
        several = self.judge_targets(shown.baseline)
        return page.Sweep(
            self.runs, self.settings, self.seconds, shown, several, self.signals
        )


def load_result(folder: str | os.PathLike[str]) -> Result:
    """The result that a sweep left in a folder.

    Args:
        folder: with `sweep.json` and `runs/`, as `compare` writes it. What versions
            before tasks of any loss left out is known: cross-entropy, and accuracy.

    Raises:
        FileNotFoundError: the folder is no sweep's, or holds no finished run.
        ValueError: its files are damaged, or do not belong together.
    """
    folder = pathlib.Path(folder)
    marker = folder / "sweep.json"
    if not marker.is_file():
        raise FileNotFoundError(
            f"{folder} is no folder of a sweep: it has no sweep.json; give the folder "
            "that jaxinit compare wrote."
        )
    try:
        settings = json.loads(marker.read_text())
        settings |= {k: v for k, v in _BEFORE.items() if k not in settings}
        runs = store.read_runs(folder)
    except (ValueError, TypeError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{folder} cannot be read: {reason}.") from error
    missing = [name for name in _NEEDED if name not in settings]
    if missing:
        raise ValueError(
            f"{marker} lacks {', '.join(missing)}, so that it is no sweep of this "
            "version; run the sweep again."
        )
    if not runs.num_rows:
        raise FileNotFoundError(f"{folder} holds no finished runs; run the sweep.")
    strange = set(runs["scheme"].to_pylist()) - set(settings["schemes"])
    if strange:
        raise ValueError(
            f"{folder} holds runs of {', '.join(sorted(strange))}, which its "
            "sweep.json does not list; they are of another sweep."
        )
    return Result(runs, settings, _seconds(folder), load_signals(folder))


def load_signals(folder: str | os.PathLike[str]) -> dict[str, list[signal.Row]]:
    """The signals at step 0 that a sweep left in a folder, none where it did not."""
    try:
        text = (pathlib.Path(folder) / "signal.json").read_text()
        return signal.from_json(json.loads(text))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _seconds(folder: pathlib.Path) -> float:
    """How long the sweep took, as its summary says; NaN where it does not."""
    try:
        return float(json.loads((folder / "summary.json").read_text())["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, stats.Quartiles):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
