"""The same sweep at several sizes of a model."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from jaxinit import _checks
from jaxinit.compare import cluster
from jaxinit.compare.report.ladder import Ladder
from jaxinit.compare.sweep.compare import compare
from jaxinit.compare.task.builtin import parse_task
from jaxinit.compare.task.task import Task


def ladder(
    task_of: Callable[[int], Task] | str = "digits-mlp",
    *,
    widths: Sequence[int] = (),
    depths: Sequence[int] = (),
    out: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **options: Any,
) -> Ladder:
    """Compare schemes at several sizes: does the small size's winner win at the large?

    Between each size and the next, and between the first and the last, it gives the
    rank correlation of the schemes with its interval, and the regret: how many times
    as long the small size's winner takes at the large size as the fastest there. Of
    each scheme it gives how the best learning rate goes with the size, which muP's
    does not.

    Args:
        task_of: from a size to a task; or the text of a built-in task, whose option
            is given the size.
        widths: sizes that are widths, two or more.
        depths: sizes that are depths, instead.
        out: folder for `ladder.json` and `ladder.png`, and for each size's results in
            a folder within, such as `width=64`, which is added to as `compare` does.
        quiet: neither progress nor tables on the screen.
        **options: the arguments of `compare`, such as `schemes`, `learning_rates`,
            `seeds` and `optimizers`; `stop_at=3` spares most of the work.

    Returns:
        The `Ladder`.

    Raises:
        ValueError: fewer than two sizes are given, or a setting is out of range.
        TypeError: `task_of` gives no task.

    Example:
        >>> from jaxinit.compare import ladder
        >>> found = ladder(
        ...     "digits-mlp(depth=1)", widths=[8, 16], schemes=["he_normal", "zeros"],
        ...     learning_rates=[0.1], seeds=3, steps=50, tuning_seeds=0, quiet=True,
        ... )
        >>> [step.winner for step in found.rungs.steps]
        ['he_normal()']
    """
    option, sizes = _sizes(widths, depths)
    tasks = {size: _task(task_of, option, size) for size in sizes}
    results = {}
    for size, task in tasks.items():
        own = None if out is None else pathlib.Path(out) / f"{option}={size}"
        results[size] = compare(task, out=own, quiet=quiet, **options)
    found = Ladder(results, option)
    if cluster.index() == 0:
        if out is not None:
            found.write(out)
        if not quiet:
            found.show()
    return found


def _sizes(widths: Sequence[int], depths: Sequence[int]) -> tuple[str, list[int]]:
    """What the sizes are, and the sizes, ascending."""
    if bool(widths) == bool(depths):
        raise ValueError(
            "ladder: give two or more sizes as widths= or as depths=, one of the two."
        )
    option = "width" if widths else "depth"
    sizes = sorted(widths or depths)
    for size in sizes:
        _checks.integer("ladder", **{option: size})
    if len(set(sizes)) < max(2, len(sizes)):
        raise ValueError(
            f"ladder: {option}s={sizes} must be two or more different sizes."
        )
    return option, sizes


def _task(task_of: Callable[[int], Task] | str, option: str, size: int) -> Task:
    if isinstance(task_of, str):
        return parse_task(task_of, **{option: size})
    task = task_of(size) if callable(task_of) else task_of
    if not isinstance(task, Task):
        raise TypeError(
            f"ladder: task_of gives a {type(task).__name__} for {option} {size}; it "
            "must be a function from a size to a task of make_task, or the text of a "
            "built-in one."
        )
    return task
