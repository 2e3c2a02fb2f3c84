"""What the terminal shows while a sweep runs, and of what a scheme draws."""

from __future__ import annotations

import numpy as np
import rich.progress


class Progress:
    """A bar on the screen: runs, diverged runs, time left."""

    def __init__(self, runs: int, quiet: bool) -> None:
        """Prepare the bar of so many runs; `quiet` shows none."""
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn(
                "{task.completed:.0f} of {task.total:.0f} runs, "
                "{task.fields[diverged]} diverged"
            ),
            rich.progress.TimeRemainingColumn(),
            disable=quiet,
        )
        self._made = self._diverged = 0
        self._row = self._bar.add_task("compiling", total=runs, diverged=0)

    def __enter__(self) -> Progress:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()

    def show(self, runs: float, diverged: int) -> None:
        """So many more are made, shares of runs counted, of which so many diverged."""
        self._bar.update(
            self._row,
            description="training",
            completed=self._made + runs,
            diverged=self._diverged + diverged,
        )

    def made(self, runs: int, diverged: int) -> None:
        """So many more are finished."""
        self.show(runs, diverged)
        self._made += runs
        self._diverged += diverged


def histogram(values: np.ndarray, bins: int = 15, width: int = 50) -> str:
    """A histogram in text, a line for each bin: its centre and a bar."""
    counts, edges = np.histogram(values, bins)
    centers = (edges[:-1] + edges[1:]) / 2
    bars = np.round(width * counts / max(counts.max(), 1)).astype(int)
    rows = zip(centers, bars, counts, strict=True)
    return "\n".join(
        f"{c:11.4g} {'█' * bar}{'▏' * (not bar and n > 0)}" for c, bar, n in rows
    )
