"""Which initialization should this model have? Candidates, raced within a budget."""

from __future__ import annotations

import math
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxinit import _checks
from jaxinit._text import parse
from jaxinit.compare.report.advice import PRESENT, Advice
from jaxinit.compare.report.result import Result
from jaxinit.compare.stats.verdict import LEVEL
from jaxinit.compare.sweep.compare import compare
from jaxinit.compare.task.builtin import parse_task
from jaxinit.compare.task.task import Task
from jaxinit.compare.train.initial import Draws, InitialParams
from jaxinit.compare.train.signal import reports
from jaxinit.compare.train.trainer import Config
from jaxinit.diagnosis import Report
from jaxinit.tree._structure import Structure

TUNING, ROUND, LOOKS = 2, 6, 5
"""Seeds that choose rates, seeds of a round, and the most rounds."""


def _plain(structure: Structure) -> bool:
    return not structure.branches


def _attends(structure: Structure) -> bool:
    return any(branch.attention for branch in structure.branches)


def _after(*names: str) -> Callable[[Structure], bool]:
    """Whether kernels are fed by one of these activations."""
    return lambda s: bool({k.activation_before for k in s.kernels} & set(names))


CANDIDATES: Mapping[str, Callable[[Structure], bool]] = {
    "tree.with_gain(orthogonal(), gain='auto')": lambda s: True,
    "he_normal()": _after("relu", "leaky_relu", "squared_relu", "gelu", "silu", "elu"),
    "tree.gpt2()": _attends,
    "tree.with_gain(orthogonal())": _after("tanh", "sigmoid", "softsign", "erf"),
    "tree.siren()": _after("sin"),
    "tree.fixup()": lambda s: bool(s.branches) and not _attends(s),
    "lsuv()": lambda s: True,
    "tree.t_fixup()": _attends,
    "tree.looks_linear()": lambda s: _plain(s) and _after("relu")(s),
    "glorot_normal()": lambda s: True,
    "tree.mimetic()": _attends,
    "lecun_normal()": _after("selu", "tanh"),
    "tree.skipinit()": lambda s: any(branch.scalars for branch in s.branches),
    "tree.chrono(100)": _after("sigmoid"),
}
"""What is tried, by what the model is made of; the first are the likeliest to help."""


def advise(
    task: Task | str = "digits-mlp",
    budget: float | str = "60s",
    *,
    out: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **options: Any,
) -> Advice:
    r"""Recommend an initialization for a task's model, or to keep what it has.

    Candidates that suit the model (its own initialization; those that its activations,
    branches and attention ask for, as the trace tells) and whose signal at step 0 is
    finite are raced, each at a learning rate of its own that other seeds chose. The
    number of candidates, and of rounds of 6 seeds, is settled from the time of the
    first runs, before any scheme is compared with another.

    A candidate is recommended where it is first and shown to be faster than the model's
    own initialization: its p-value, adjusted by Holm over all pairs, is at most 5 %
    divided by the number of rounds. So something slower is recommended with a
    probability of at most 5 %, a bound that `race.look_at` explains; in its
    simulations anything false at all was shown in 0.1 to 4.7 % of races.

    Args:
        task: a task from `make_task`, or the text of a built-in one.
        budget: how long it may take, about: seconds, or a text such as "60s", "10m" or
            "300 runs". What is begun is finished, and two candidates are always run.
        out: folder for runs, figures and the page; None writes nothing.
        quiet: neither progress nor advice on the screen.
        **options: further arguments of `compare`, such as `learning_rates`, `steps`
            and `optimizers` (one).

    Returns:
        The `Advice`.

    Raises:
        ValueError: the budget is none, or as `compare` does.

    Example:
        >>> from jaxinit.compare import advise
        >>> found = advise(
        ...     "digits-mlp(depth=1, width=8)", "40 runs", learning_rates=[0.1],
        ...     steps=20, quiet=True,
        ... )
        >>> found.sentence().startswith(("Use ", "Keep what you have"))
        True
    """
    if not isinstance(task, Task):
        task = parse_task(task)
    seconds, runs = _budget(budget)
    taken = {"schemes", "seeds", "tuning_seeds", "until_sure", "shard", "redo"}
    if bad := sorted(taken & options.keys()):
        raise ValueError(f"advise: {', '.join(bad)} is for advise to choose; leave it.")
    schemes, left_out = _suited(task)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch if out is None else out)

        def raced(names: list[str], looks: int) -> Result:
            return compare(
                task, [schemes[name] for name in names], seeds=ROUND,
                tuning_seeds=TUNING, until_sure=looks, out=folder, quiet=quiet,
                **options,
            )  # fmt: skip

        # What one scheme takes says how many can be raced, and how often.
        names = list(schemes)
        first = raced(names[:2], 1)
        spent = time.perf_counter() - began
        each = max(1, first.runs.num_rows // 2)
        can = int(runs / each if runs is not None else 2 * seconds / spent)
        names, more = names[: max(2, can)], names[max(2, can) :]
        left_out |= dict.fromkeys(more, "which the budget leaves no time for")
        rounds = (can - len(names)) * each / (ROUND * len(names))
        looks = min(LOOKS, 1 + max(0, math.floor(rounds)))
        result = first if (len(names), looks) == (2, 1) else raced(names, looks)
    found = _judged(task, result, looks, left_out)
    if not quiet:
        found.show()
    return found


def _judged(task: Task, result: Result, looks: int, left_out: dict[str, str]) -> Advice:
    """What the race says of the present initialization."""
    verdict = result.judge()
    reached = any(np.isfinite(row.times).any() for row in verdict.rows)
    leader, *others = verdict.order
    rival = others[0] if leader == PRESENT else leader
    pair = verdict.pair(rival, PRESENT) if reached and verdict.pairs else None
    sure = pair is not None and pair.p_value <= LEVEL / looks
    if not sure or leader == PRESENT:
        return Advice(None, "", pair, LEVEL, left_out, result)
    model = task.model
    made = "Model" if model.joined == "model" else "model"
    code = f'{model.joined} = jaxinit.init({made}, key, x, scheme="{leader}")'
    return Advice(leader, code, pair, LEVEL, left_out, result)


def _suited(task: Task) -> tuple[dict[str, Any], dict[str, str]]:
    """The present initialization and what suits the model; what does not, and why."""
    structure = Structure(Draws(task, Config(), {}).layers)
    tried = [parse(text) for text, suits in CANDIDATES.items() if suits(structure)]
    starts, left_out = {}, {}
    for name, scheme in zip(map(repr, tried), tried, strict=True):
        try:
            starts[name] = InitialParams(task, Config(), {name: scheme}, 1).one(name, 0)
        except ValueError as error:
            said = str(error).partition("\n")[0].rstrip(".")
            left_out[name] = f"which does not fit: {said}"
    known = reports(task, starts)
    for name in starts:
        reason = _unfit(known.get(name))
        if reason is not None:
            left_out[name] = reason
    found: dict[str, Any] = {PRESENT: present_initialization}
    found |= {repr(each): each for each in tried if repr(each) not in left_out}
    if len(found) < 2:
        raise ValueError(
            f"advise: no candidate fits the model of task {task.name}; compare schemes "
            "of your own with compare."
        )
    return found, left_out


def present_initialization(key: Any, params: Any, apply: Any, batch: Any) -> Any:
    """The model's own, as a scheme."""
    return params


def _unfit(report: Report | None) -> str | None:
    """Why what starts so cannot train; None if nothing speaks against it."""
    if report is None:
        return "of whose signal at step 0 nothing is known"
    if not math.isfinite(float(report.loss)):
        return "with which the loss is not finite at step 0"
    gradients = [float(row.kernel_gradient) for row in report.rows]
    if not all(map(math.isfinite, gradients)) or not any(gradients):
        return "with which no finite gradient arrives at step 0"
    return None


def _budget(budget: float | str) -> tuple[float, float | None]:
    """Seconds, and runs where they are given instead."""
    said = str(budget).strip()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|runs)?", said)
    if found is None or float(found[1]) <= 0:
        raise ValueError(
            f"advise: budget={_checks.shortened(said)} must be seconds, or a text such "
            "as '60s', '10m' or '300 runs'."
        )
    amount = float(found[1])
    if found[2] == "runs":
        return math.inf, amount
    return amount * {"s": 1, "m": 60, "h": 3600}.get(found[2] or "s", 1), None
