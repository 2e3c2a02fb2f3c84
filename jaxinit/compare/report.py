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
import rich.box
import rich.console
import rich.progress
import rich.table
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxinit.compare import stats, store

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

MARKERS = "osD^vPX"


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
        ranking = stats.rank(self.runs)
        if self.percent:
            return ranking
        # Where 0 is not the worst there is, a diverged run has infinitely bad values.
        worst = -math.inf if self.settings["direction"] == "max" else math.inf
        finals = [
            stats.finite_column(
                stats.at_rate(self.runs, each.scheme, each.learning_rate),
                "final_valid_accuracy",
                worst,
            )
            for each in ranking
        ]
        return [
            each._replace(final_valid_accuracy=stats.quartiles(final))
            for each, final in zip(ranking, finals, strict=True)
        ]

    @property
    def percent(self) -> bool:
        """Whether the metric is a fraction, written as a percentage."""
        return self.settings["metric_name"] == "accuracy"

    @property
    def _unit(self) -> str:
        """The unit of the loss, as text after its name."""
        return " (nats)" if self.settings["loss_name"] == "cross_entropy" else ""

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

    def show(self) -> None:
        """Print the table of schemes, the fastest first."""
        rich.console.Console().print(_table(self))

    def plot_curves(self) -> Figure:
        """Loss and metric against steps, each scheme at its best learning rate.

        Lines are medians over seeds, bands the quartiles. A line ends where more than
        half of the seeds have diverged.
        """
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        panels = figure.subplots(1, 2)
        for (color, _), scheme in zip(self._styles(), self.ranking(), strict=False):
            at = stats.at_rate(self.runs, scheme.scheme, scheme.learning_rate)
            label = f"{scheme.scheme}, {_rate(scheme)}"
            for axes, column in zip(
                panels, ("train_loss", "valid_accuracy"), strict=True
            ):
                _band(axes, at, column, label, color)
        losses, metrics = panels
        losses.set(xlabel="step", ylabel=f"training loss{self._unit}")
        losses.set_title("median and quartiles over seeds", loc="left", fontsize=10)
        losses.set(**self._scale("train_loss"))
        name = self.settings["metric_name"]
        unit = self._unit if name == "loss" else ""
        metrics.set(xlabel="step", ylabel=f"validation {name}{unit}")
        fraction = {"ylim": (0, 1.02)}
        metrics.set(**fraction if self.percent else self._scale("valid_accuracy"))
        metrics.axhline(self.settings["target"], color="0.6", lw=1, ls="--", zorder=0)
        metrics.set_title("dashed: the target", loc="left", fontsize=10)
        self._finish(figure, metrics, columns=3)
        return figure

    def plot_learning_rates(self) -> Figure:
        """Final training loss against the learning rate, for each scheme.

        Marks are medians over seeds; rates at which half of the seeds or more
        diverged have none. A ring is the rate that the ranking takes.
        """
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.subplots()
        for (color, marker), scheme in zip(
            self._styles(), self.ranking(), strict=False
        ):
            rates = sorted(set(self.runs["learning_rate"].to_pylist()))
            finals = [
                stats.quartiles(
                    stats.finite_column(
                        stats.at_rate(self.runs, scheme.scheme, rate),
                        "final_train_loss",
                        math.inf,
                    )
                )
                for rate in rates
            ]
            low, median, high = np.array(finals).T
            gone = ~np.isfinite(median)
            label = scheme.scheme
            if scheme.diverged:
                label += f" ({scheme.diverged} of {scheme.runs} diverged)"
            median = np.where(gone, np.nan, median)
            axes.plot(
                rates, median, color=color, marker=marker, ms=5, lw=1.5, label=label
            )
            shown = ~gone & np.isfinite(high)
            axes.fill_between(rates, low, high, where=shown, color=color, alpha=0.15)
            best = rates.index(scheme.learning_rate)
            axes.plot(rates[best], median[best], "o", mec=color, mfc="none", ms=13)
        axes.set(xlabel="learning rate", ylabel=f"final training loss{self._unit}")
        axes.set(xscale="log", yscale=self._scale("train_loss")["yscale"])
        self._finish(figure, axes, columns=2)
        return figure

    def _styles(self) -> list[tuple[str, str]]:
        count = len(self.settings["schemes"])
        return [(COLORS[i % 7], MARKERS[i // 7 % 7]) for i in range(count)]

    def _scale(self, column: str) -> dict[str, Any]:
        """Scale and limits that an exploded scheme cannot stretch beyond reading.

        Logarithmic where no value is negative; else linear, without the worst tenth.
        """
        curves = np.array(self.runs[column].to_pylist(), dtype=float)
        values = curves[np.isfinite(curves)]
        if (values < 0).any():
            falls = column == "train_loss" or self.settings["direction"] == "min"
            kept = (0, 0.9) if falls else (0.1, 1)
            return {"yscale": "linear", "ylim": tuple(np.quantile(values, kept))}
        values = values[values > 0]
        if not len(values):
            return {"yscale": "log", "ylim": (1e-3, 10.0)}
        low = max(np.quantile(values, 0.001), 1e-6)
        nats = self.settings["loss_name"] == "cross_entropy"
        cap = 10.0 if nats else 4 * np.nanmedian(curves[:, 0])
        return {"yscale": "log", "ylim": (low / 1.5, 2 * min(values.max(), cap))}

    def _finish(self, figure: Figure, axes: Axes, columns: int) -> None:
        for each in figure.axes:
            each.grid(alpha=0.25, lw=0.6)
            each.spines[["top", "right"]].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
        )
        settings = self.settings
        figure.suptitle(
            f"{settings['task']}, {settings['optimizer']}, batch "
            f"{settings['batch_size']}, {settings['seeds']} seeds",
            fontsize=11,
        )


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


def _band(axes: Axes, at: pa.Table, column: str, label: str, color: str) -> None:
    steps = at["eval_steps"][0].as_py()
    values = np.array(at[column].to_pylist(), dtype=float)
    loss = np.array(at["train_loss"].to_pylist(), dtype=float)
    gone = np.maximum.accumulate(~np.isfinite(loss), axis=1)
    values = np.where(gone, np.inf, values)  # a diverged model has none
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0, method="higher")
    alive = np.isfinite(median)
    axes.plot(steps, np.where(alive, median, np.nan), color=color, lw=1.8, label=label)
    axes.fill_between(
        steps, low, high, where=alive & np.isfinite(high), color=color, alpha=0.18, lw=0
    )


def _table(result: Result) -> rich.table.Table:
    settings = result.settings
    name, target = settings["metric_name"], settings["target"]
    sign = ">=" if settings["direction"] == "max" else "<="
    goal = (
        f"{target:.0%} validation accuracy"
        if result.percent
        else f"validation {name} {sign} {target:g}"
    )
    table = rich.table.Table(
        title=f"{settings['task']}, {settings['optimizer']}:\nsteps to {goal}",
        caption=(
            f"{result.runs.num_rows} runs in {result.seconds:.1f} s on "
            f"{settings['device']}. Medians, and quartiles of the steps, over "
            f"{settings['seeds']} seeds at the best of "
            f"{len(settings['learning_rates'])} learning rates (* at the edge of the "
            "grid). Hits: runs that reached the target. Loss: of training"
            f"{', in nats' if settings['loss_name'] == 'cross_entropy' else ''}."
        ),
        title_justify="left",
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("scheme", no_wrap=True)
    metric = "acc." if result.percent else f"valid. {name}"
    for column in ("rate", "steps", "hits", "loss", metric, "diverged"):
        table.add_column(column, justify="right", no_wrap=True)
    form = ".1%" if result.percent else ".4g"
    for scheme in result.ranking():
        dead = not math.isfinite(scheme.final_train_loss.median)
        table.add_row(
            scheme.scheme,
            "-" if dead else f"{scheme.learning_rate:g}{'*' * scheme.at_edge}",
            _steps(scheme, settings["steps"]),
            f"{scheme.reached}/{scheme.seeds}",
            "-" if dead else f"{scheme.final_train_loss.median:.3f}",
            "-" if dead else f"{scheme.final_valid_accuracy.median:{form}}",
            f"{scheme.diverged}/{scheme.runs}",
        )
    return table


def _rate(scheme: stats.SchemeSummary) -> str:
    dead = not math.isfinite(scheme.final_train_loss.median)
    return "diverged" if dead else f"rate {scheme.learning_rate:g}"


def _steps(scheme: stats.SchemeSummary, budget: int) -> str:
    low, median, high = (
        f"{steps:.0f}" if math.isfinite(steps) else f">{budget}"
        for steps in scheme.steps_to_target
    )
    return median if low == high else f"{median} ({low}-{high})"


def _plain(value: Any) -> Any:
    if isinstance(value, stats.Quartiles):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
