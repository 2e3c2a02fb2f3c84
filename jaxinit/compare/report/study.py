"""Several sweeps at once: side by side on one task, with a profile over several."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from jaxinit.compare import files
from jaxinit.compare.report import figures, page, style, table, terminal, words
from jaxinit.compare.report.result import Result, load_result
from jaxinit.compare.stats import across_tasks, summary
from jaxinit.compare.store.side_by_side import side_by_side


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """What sweeps over several tasks found.

    Attributes:
        results: a task each.
    """

    results: tuple[Result, ...]

    def with_target_of(self, scheme: str) -> Study:
        """On each task the target is what a scheme reaches there by a rule."""
        return Study(tuple(each.with_target_of(scheme) for each in self.results))

    def with_targets(self, wanted: Sequence[float]) -> Study:
        """Several targets side by side on every task; see `Result.with_targets`."""
        return Study(tuple(each.with_targets(wanted) for each in self.results))

    def profile_times(self) -> dict[str, np.ndarray]:
        """Median steps to target; see `across_tasks.profile_times`."""
        rankings = [each.ranking() for each in self.results]
        times = across_tasks.profile_times(rankings)
        listed = self.results[0].contestants.settings.schemes  # so that colours stay
        return dict(sorted(times.items(), key=lambda item: listed.index(item[0])))

    def standings(self, baseline: str | None = None) -> list[across_tasks.Standing]:
        """The schemes over all tasks, the fastest first; see `across_tasks`."""
        times = [
            summary.times(each.contestants.scoring, each.ranking())
            for each in self.results
        ]
        listed = self.results[0].contestants.settings.schemes
        times[0] = {scheme: times[0][scheme] for scheme in listed if scheme in times[0]}
        budgets = [float(each.contestants.settings.budget) for each in self.results]
        return across_tasks.standings(times, budgets, baseline)

    def plot_profile(self, ax: Axes | None = None) -> Axes:
        """The performance profile over the tasks; see `figures.profile`."""
        return figures.profile(self.profile_times(), ax, "screen")

    def show(
        self, baseline: str | None = None, learning_rate: float | None = None
    ) -> None:
        """Print each task's table, the schemes over all, and what the profile says."""
        for each in self.results:
            each.show(baseline, learning_rate)
            terminal.console().print()
        self.show_together(baseline)

    def show_together(self, baseline: str | None = None) -> None:
        """Print the schemes over all tasks, and what the profile says."""
        console = terminal.console()
        found = self.standings(baseline)
        rows = table.texts(table.standing_cells(found))
        console.print(table.grid(rows, console.width))
        console.print(words.over_tasks(found, len(self.results)), markup=False)
        console.print()
        console.print(words.profile(self.profile_times()), markup=False)

    def write(self, out: str | os.PathLike[str], baseline: str | None = None) -> None:
        """Write `report.html` and `profile.png` into a folder that exists."""
        folder, times = pathlib.Path(out), self.profile_times()
        files.write(folder / "profile.png", style.png(figures.profile(times)))
        text = page.page_of_tasks(
            [each.page_part(baseline) for each in self.results],
            figures.profile(times, medium="page"),
            words.profile(times),
            self.standings(baseline),
        )
        files.write(folder / "report.html", text)


def load_results(*folders: str | os.PathLike[str]) -> Result | Study:
    """The sweeps in several folders, compared.

    Args:
        folders: of sweeps. Those over one task become one, schemes side by side.

    Returns:
        A `Result` where all are over one task, else a `Study`.

    Raises:
        FileNotFoundError: as `load_result` does.
        ValueError: as `load_result` does; or two sweeps over one task differ in a
            setting that decides or reads their runs; or tasks have no two schemes in
            common.
    """
    loaded = [load_result(folder) for folder in folders]
    if len(loaded) == 1:
        return loaded[0]
    names = [pathlib.Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = list(map(str, folders))
    by_task: dict[str, dict[str, Result]] = {}
    for name, result in zip(names, loaded, strict=True):
        by_task.setdefault(result.settings.task, {})[name] = result
    found = [_as_one(each) for each in by_task.values()]
    if len(found) == 1:
        return found[0]
    study = Study(tuple(found))
    study.profile_times()  # or say why there are none
    return study


def _as_one(results: Mapping[str, Result]) -> Result:
    if len(results) == 1:
        return next(iter(results.values()))
    return Result(side_by_side({name: one.sweep for name, one in results.items()}))
