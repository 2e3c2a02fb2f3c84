"""What the terminal shows while a sweep runs, and of what a scheme draws."""

from __future__ import annotations

import numpy as np
import rich.progress


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
