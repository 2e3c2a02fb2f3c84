"""Several sweeps at once: side by side on one task, with a profile over several."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import rich.console
from matplotlib.axes import Axes

from jaxinit.compare.report import figures, page, style, table
from jaxinit.compare.report.result import Result, load_result
from jaxinit.compare.stats import across_tasks as across
from jaxinit.compare.stats import summary as stats
from jaxinit.compare.stats import together, verdict


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What sweeps over several tasks found.

    Attributes:
        results: a task each.
    """

    results: tuple[Result, ...]

    def at_target_of(self, scheme: str) -> Results:
        """On each task the target is what a scheme reaches there by a rule."""
        return Results(tuple(each.at_target_of(scheme) for each in self.results))

    def with_targets(self, wanted: Sequence[float]) -> Results:
        """Several targets side by side on every task; see `Result.with_targets`."""
        return Results(tuple(each.with_targets(wanted) for each in self.results))

    def profile_times(self) -> dict[str, np.ndarray]:
        """Median steps to target, scheme to (tasks,); see `together.profile_times`."""
        times = together.profile_times([each.ranking() for each in self.results])
        listed = self.results[0].settings["schemes"]  # so that colours stay
        return dict(sorted(times.items(), key=lambda item: listed.index(item[0])))

    def standings(self, baseline: str | None = None) -> list[across.Standing]:
        """The schemes over all tasks, the fastest first; see `across.standings`."""
        times = []
        for each in self.results:
            _, scoring = verdict.parts(each.runs, each.settings)
            times.append(stats.times(scoring, each.ranking()))
        listed = self.results[0].settings["schemes"]
        times[0] = {scheme: times[0][scheme] for scheme in listed if scheme in times[0]}
        budgets = [float(each.settings["steps"]) for each in self.results]
        return across.standings(times, budgets, baseline)

    def plot_profile(self, ax: Axes | None = None) -> Axes:
        """The performance profile over the tasks; see `figures.profile`."""
        return figures.profile(self.profile_times(), ax, "screen")

    def show(
        self, baseline: str | None = None, learning_rate: float | None = None
    ) -> None:
        """Print each task's table, the schemes over all, and what the profile says."""
        console = rich.console.Console()
        for each in self.results:
            each.show(baseline, learning_rate)
            console.print()
        found = self.standings(baseline)
        texts = [{k: c.text for k, c in row.items()} for row in across.cells(found)]
        console.print(table.grid(texts, console.width))
        console.print(across.caption(found, len(self.results)), markup=False)
        console.print()
        console.print(together.profile_sentence(self.profile_times()), markup=False)

    def write(self, out: str | os.PathLike[str], baseline: str | None = None) -> None:
        """Write `report.html` and `profile.png` into a folder that exists."""
        folder = pathlib.Path(out)
        times = self.profile_times()
        found = self.standings(baseline)
        figure = style.figure_of(figures.profile(times))
        figure.savefig(folder / "profile.png", dpi=150)
        text = page.page(
            [each.page_part(baseline) for each in self.results],
            figures.profile(times, medium="page"),
            together.profile_sentence(times),
            across.cells(found),
            across.caption(found, len(self.results)),
        )
        (folder / "report.html").write_text(text, "utf-8")


def load_results(*folders: str | os.PathLike[str]) -> Result | Results:
    """The sweeps in several folders, compared.

    Args:
        folders: of sweeps. Those over one task become one, schemes side by side.

    Returns:
        A `Result` where all are over one task, else `Results`.

    Raises:
        FileNotFoundError: as `load_result` does.
        ValueError: as `load_result` does; or two sweeps over one task differ in a
            setting that decides their numbers; or tasks have no two schemes in common.
    """
    loaded = [load_result(folder) for folder in folders]
    if len(loaded) == 1:
        return loaded[0]
    names = [pathlib.Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = list(map(str, folders))
    by_task: dict[str, list[tuple[str, Result]]] = {}
    for named in zip(names, loaded, strict=True):
        by_task.setdefault(named[1].settings["task"], []).append(named)
    found = [
        each[0][1]
        if len(each) == 1
        else Result(
            *together.joined(
                [together.Part(name, one.runs, one.settings) for name, one in each]
            ),
            math.nan,
        )
        for each in by_task.values()
    ]
    if len(found) == 1:
        return found[0]
    results = Results(tuple(found))
    results.profile_times()  # or say why there are none
    return results
