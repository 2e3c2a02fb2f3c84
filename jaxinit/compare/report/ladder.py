"""A ladder of sizes as its user sees it: a sentence, a table, a figure, files."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jaxinit.compare import files
from jaxinit.compare.report import style, table, terminal, words
from jaxinit.compare.report.result import Result
from jaxinit.compare.stats.ladder import Rungs, Step, climb


@dataclasses.dataclass(frozen=True, eq=False)
class Ladder:
    """What sweeps at several sizes of a model found.

    Attributes:
        results: size to result.
        option: what the size is, such as "width".
    """

    results: Mapping[int, Result]
    option: str = "width"

    @functools.cached_property
    def rungs(self) -> Rungs:
        """Rank correlations, regrets and drifts; see `stats.ladder.climb`."""
        return climb({size: each.sweep for size, each in self.results.items()})

    def sentence(self) -> str:
        """Whether the winner at the smallest size is the one at the largest."""
        return sentence(self.rungs, self.option)

    def notes(self) -> list[str]:
        """What goes on from size to size, and how the best rates drift."""
        rungs = self.rungs
        found = [_step(step, self.option) for step in rungs.steps]
        for scheme, drift in rungs.drifts.items():
            if drift.moves is None:
                found.append(f"Whether the best rate of {scheme} drifts is not known.")
                continue
            listed = words.listed([f"{rate:g}" for rate in drift.rates])
            how = (
                f"it is multiplied by {drift.factor:.2g} when the {self.option} doubles"
                if drift.moves
                else "a drift beyond one step of the grid is not seen"
            )
            found.append(f"Best rates of {scheme}: {listed}; {how}.")
        return found

    def show(self) -> None:
        """Print times and rates by size, the sentence and the notes."""
        console = terminal.console()
        rows = []
        for scheme, times in self.rungs.times.items():
            rates = self.rungs.drifts[scheme].rates
            cells = {
                f"{self.option} {size}": f">{budget:g}"
                if math.isclose(time, budget)
                else f"{time:.0f} (at {rate:g})"
                for size, time, budget, rate in zip(
                    self.rungs.sizes, times, self.rungs.budgets, rates, strict=True
                )
            }
            rows.append({"scheme": scheme, **cells})
        console.print(table.grid(rows, console.width))
        caption = "Geometric means of steps to target, a miss the budget; best rates."
        for text in (caption, "", self.sentence(), *self.notes()):
            console.print(text, markup=False)

    def summary(self) -> dict[str, Any]:
        """The ladder as plain data; what is not known is null, for JSON."""
        rungs = self.rungs
        return {
            "option": self.option,
            "sizes": list(rungs.sizes),
            "verdict": self.sentence(),
            "times": {k: [_known(t) for t in v] for k, v in rungs.times.items()},
            "steps": [_plain(step._asdict()) for step in rungs.steps],
            "best_rates": {k: _plain(v._asdict()) for k, v in rungs.drifts.items()},
        }

    def write(self, out: str | os.PathLike[str]) -> None:
        """Write `ladder.json` and `ladder.png` into a folder, made if need be."""
        folder = pathlib.Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        files.write(folder / "ladder.json", json.dumps(self.summary(), indent=2))
        files.write(folder / "ladder.png", style.png(self._drawn(None, "file")[0]))

    def plot(self, ax: Any = None) -> np.ndarray:
        """Steps to target, and the best rate, against the size: (2,) axes."""
        return self._drawn(ax, "screen")

    def _drawn(self, ax: Any, medium: style.Medium) -> np.ndarray:
        rungs = self.rungs
        panels: np.ndarray = style.given_or_new(ax, medium, 2, "ladder: panels")
        times, rates = panels
        for scheme, way in style.styles(list(rungs.times)).items():
            look = {"color": way.color, "marker": way.marker, "ms": 5}
            name = style.text(scheme, style.NAME)
            times.plot(rungs.sizes, rungs.times[scheme], way.dash, label=name, **look)
            drift = rungs.drifts[scheme]
            rates.plot(rungs.sizes, drift.rates, way.dash, **look)
        times.plot(rungs.sizes, rungs.budgets, color="0.6", lw=1, ls="--", zorder=0)
        for axes, label in ((times, "steps to target"), (rates, "best learning rate")):
            self._finish(axes, label)
        times.set_title("geometric means; dashed: the budget", loc="left", fontsize=10)
        task = next(iter(self.results.values())).settings.task.partition("(")[0]
        title = f"{task}, by {self.option}"
        style.finish(panels, title, columns=3, whole=ax is None)
        return panels

    def _finish(self, axes: Axes, label: str) -> None:
        drawn = np.concatenate([line.get_ydata() for line in axes.get_lines()])
        scale = "log" if np.isfinite(drawn.astype(float)).any() else "linear"
        axes.set(xscale="log", yscale=scale, xlabel=self.option, ylabel=label)
        style.plain(axes)
        axes.set_xticks(self.rungs.sizes, [f"{size:g}" for size in self.rungs.sizes])
        axes.set_xticks([], minor=True)


def sentence(rungs: Rungs, option: str) -> str:
    """Whether the winner at the smallest size is the one at the largest."""
    last = rungs.steps[-1]
    where = f"{option} {last.small}"
    ends = [times[-1] for times in rungs.times.values()]
    if all(math.isclose(time, rungs.budgets[-1]) for time in ends):
        return f"No scheme reaches the target at {option} {last.large}."
    cost = _regret(last)
    if last.kept:
        return (
            f"The winner at {where}, {last.winner}, is the winner at {last.large}, "
            f"too; {_ranks(last)}."
        )
    if last.kept is None:
        return (
            f"Not enough seeds to tell whether {last.winner}, the first at {where}, "
            f"is the winner at {last.large}; {_ranks(last)}, and choosing it costs "
            f"{cost}."
        )
    return (
        f"The winner at {where}, {last.winner}, is not the winner at {last.large}, "
        f"where {last.ahead} is faster: choosing it costs {cost}; {_ranks(last)}."
    )


def _step(step: Step, option: str) -> str:
    return (
        f"From {option} {step.small} to {step.large}: {_ranks(step)}; choosing "
        f"{step.winner} costs {_regret(step)}."
    )


def _regret(step: Step) -> str:
    ratio = step.regret
    if math.isnan(ratio.low) or ratio.ratio == ratio.high == 1:
        return f"{words.number(ratio.ratio)} times the steps"
    bounds = f"{words.number(ratio.low)} to {words.number(ratio.high)}"
    return f"{words.number(ratio.ratio)} times the steps (95 % interval {bounds})"


def _ranks(step: Step) -> str:
    """The correlation in words, with what its interval leaves open."""
    found = step.correlation
    if math.isnan(found.value):
        return "the schemes are level at a size, so that ranks tell nothing"
    text = f"rank correlation {found.value:.2f}"
    if math.isnan(found.low):
        return f"{text}, too few seeds for an interval"
    text += f" ({found.low:.2f} to {found.high:.2f})"
    open_ = found.low <= 0 <= found.high
    return f"{text}, which leaves open whether the order is kept" if open_ else text


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _plain(value._asdict()) if hasattr(value, "_asdict") else _known(value)
        for name, value in values.items()
    }


def _known(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
