"""Whether two rows tell the same of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

EXACT = ("task", "scheme", "optimizer", "learning_rate", "seed", "eval_steps")
ROUNDED = (
    "train_loss",
    "valid_loss",
    "valid_metric",
    "final_train_loss",
    "final_valid_loss",
    "final_valid_metric",
    "best_valid_metric",
)
"""Numbers that devices round differently."""


def difference(run: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first column in which two rows of a run disagree, seconds aside.

    Losses and metrics may differ as the rounding of different devices makes them. The
    step at which the target is reached may differ only where the metric does at that
    evaluation, for it is read from the metric; and the status only with it.

    Returns:
        None where they agree.
    """
    for name in EXACT:
        if run[name] != other[name]:
            return name
    for name in ROUNDED:
        mine, theirs = (np.array(row[name], float) for row in (run, other))
        if mine.shape != theirs.shape or not np.allclose(
            mine, theirs, rtol=1e-2, atol=1e-4, equal_nan=True
        ):
            return name
    moved = run["steps_to_target"] != other["steps_to_target"]
    if moved and not _may_move(run, other):
        return "steps_to_target"
    statuses = {run["status"], other["status"]}
    if len(statuses) > 1 and not (moved and statuses == {"finished", "reached"}):
        return "status"
    return None


def _may_move(run: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the metrics differ where only one of two runs reaches the target."""
    steps = (run["steps_to_target"], other["steps_to_target"])
    first = min(step for step in steps if step is not None)
    if first not in run["eval_steps"]:
        return False
    at = run["eval_steps"].index(first)
    return run["valid_metric"][at] != other["valid_metric"][at]
