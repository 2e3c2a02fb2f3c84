"""What a sweep did, in words: its protocol, its command, and whom to cite."""

from __future__ import annotations

import ast
import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from jaxinit import _catalogue
from jaxinit._text import parse
from jaxinit.compare.options import Options
from jaxinit.compare.report import words
from jaxinit.compare.stats import summary
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import Sweep
from jaxinit.compare.task import builtin
from jaxinit.compare.train import optimizers
from jaxinit.compare.train.optimizer import OWN


def paragraphs(sweep: Sweep) -> list[str]:
    """The protocol of a sweep over one task, paragraph by paragraph."""
    settings = sweep.settings
    schemes, several = len(settings.schemes), len(settings.optimizers) > 1
    with_each = f"{len(settings.optimizers)} optimizers x " if several else ""
    every, tuning = settings.eval_every, settings.tuning_seeds
    flattery = (
        f"Seeds 0 to {tuning - 1} choose it{_runoff(settings)}, and only the others "
        "score it."
        if tuning
        else "The runs that choose a rate also score it, which flatters every scheme."
    )
    return [
        f"Runs: {schemes} schemes x {with_each}{words.grid_sizes(settings)} learning "
        f"rates x {settings.all_seeds} seeds, {_batches(settings)}. "
        f"{sweep.runs.num_rows} runs are finished, {sweep.diverged.sum()} of them "
        "diverged. Seed k has the same initialization key and the same order of data "
        "in every scheme, with every optimizer and at every rate, so that differences "
        "are paired.",
        *([_of_optimizers()] if several else []),
        f"Target: {words.goal(settings)}, measured every {every} steps, so that steps "
        f"to it are multiples of {every}, within a budget of {settings.steps}. A run "
        "that misses the target, or diverges, is censored at the budget; none is "
        f"dropped.{_of_target(settings)}",
        "Rates: each scheme is shown at its own best rate of the grid, by the least "
        "geometric mean of the steps to target, a miss counted as the budget, then by "
        f"the least median final training loss. {flattery} A best "
        "rate at the edge of the grid is marked *, for a better one may lie outside.",
        "Ratios: the geometric mean of the baseline's steps over the scheme's, each "
        "cut at the budget, with Student's 95 % interval on logarithms paired by "
        "seed; their variance is taken to be no less than what the rounding of steps "
        f"to multiples of {every} makes. With a scheme that never reaches the target "
        "it is a bound (≤ or ≥). Faster or slower is said where p is at most 5 % after "
        "Holm's correction for all pairs of which a run reached the target; the "
        "intervals of ranks hold for all schemes at once, with 95 % confidence.",
        *([f"Code: {settings.code}."] if settings.code else []),
        *([_untraced(settings)] if settings.untraced else []),
        *([_no_seconds(settings)] if settings.of_several_machines else []),
        *(_seconds(settings, cost) for cost in list(summary.costs(sweep).values())[:1]),
        "Few seeds do not show rare failures. A scheme that diverges in one run of ten "
        "shows none in five runs more often than not, so the share of diverged runs "
        "has its interval, too.",
    ]


def _batches(settings: Settings) -> str:
    """By what and of what a step is."""
    if settings.optimizers == (OWN,):
        return "each with the optimizer and batches of the task's own training"
    return f"{words.optimizers(settings)} with batches of {settings.batch_size}"


def _of_optimizers() -> str:
    """How schemes are compared where there are several optimizers."""
    return (
        "Optimizers: each scheme has a rate of its own under each optimizer. Schemes "
        "are ranked within each optimizer, where Holm's correction is for its pairs of "
        "schemes alone, the question of those who have chosen an optimizer; and all "
        "pairs of scheme and optimizer among each other, where it is for all of them. "
        "That the order of two schemes changes is said where each of the two orders is "
        "shown at 5 % among the comparisons within all optimizers together."
    )


def _runoff(settings: Settings) -> str:
    """How the best two rates are told apart."""
    count = min(settings.runoff_seeds, settings.seeds)
    if not count:
        return ""
    return (
        f"; where the target is reached, the next {count} are run at the best rate and "
        "at the better of its neighbours, and decide between the two together with "
        "these"
    )


def _untraced(settings: Settings) -> str:
    """What a change of may go unnoticed."""
    return (
        "Cannot be traced: "
        + "; ".join(settings.untraced)
        + ". Runs are named by all that decides their numbers, but of this only its "
        "code and the values that it closes over are known, so that another change of "
        "it, as in a file that it reads, goes unnoticed."
    )


def _of_target(settings: Settings) -> str:
    """Where the target comes from, and what it does to the runs."""
    text = ""
    if settings.target_of is not None:
        seeds = " on the seeds that tune" if settings.tuning_seeds else ""
        text += (
            f" The target is what {settings.target_of} reaches{seeds}: of each "
            "learning rate the value of the validation metric that half of its runs or "
            "more reach at their best evaluation (the median over seeds, the easier of "
            "two in the middle; a diverged run is the worst), and of these values the "
            "best."
        )
    if settings.made_for is not None:
        text += (
            f" The runs were made for the target {settings.made_for:g}; "
            "steps to this one are read from their curves"
        )
        tuned = "; rates are chosen for it among those that the scoring seeds ran at"
        text += f"{tuned if settings.tuning_seeds else ''}."
    if settings.stop_at is not None:
        text += (
            f" No run is trained beyond {settings.stop_at:g} times the fastest time, "
            "the first step by which all seeds that tune are at the target, of some "
            "scheme at some rate (of each optimizer, where there are several): what is "
            "not there by then is censored there, and curves are shown to there."
        )
    if settings.stop_at_target:
        text += (
            " A run stops at the evaluation that reaches it: its curves are constant "
            "from there, and its final values are those of that moment."
        )
    return text


def _no_seconds(settings: Settings) -> str:
    """Why there are no times."""
    where = f"{settings.device}{f', {settings.machine}' if settings.machine else ''}"
    return (
        f"Times: none, for the runs were made on several machines ({where}), and "
        "seconds of one tell nothing of another."
    )


def _seconds(settings: Settings, cost: summary.Cost) -> str:
    """What times are and are not."""
    return (
        "Times: the seconds to draw an initialization, median over the scheme's runs, "
        f"and for every step {words.duration(cost.step)}, the median over all runs of "
        "the sweep, so that a slow moment of the machine favours no scheme. A step is "
        "a run's share of those trained at once, its evaluations included: one run "
        f"alone may take longer. Times are of {settings.device} and hold there alone; "
        "compilation, reading data and the search for the learning rate are not in "
        "them. They have no interval; ratios and verdict are of steps."
    )


def command(settings: Settings) -> str | None:
    """The command that makes a sweep again.

    Every option that `Options` has is written out, unless it has no value. The grid is
    written as it grew, so that it need not grow again, unless each optimizer has its
    own.

    Returns:
        A line for a shell; None where the task, a scheme or an optimizer is defined in
        a program, so that no command can name it.
    """
    task = _task(settings.task)
    known = all(map(_parses, settings.schemes)) and all(
        map(_is_optimizer, settings.optimizers)
    )
    if task is None or not known:
        return None
    made_for = settings.target if settings.made_for is None else settings.made_for
    texts = ["jaxinit", "compare", *task, "--target", str(made_for)]
    for each in dataclasses.fields(Options):
        value = getattr(settings, each.name)
        empty = value is None or value is False or value == ()  # but 0 is a number
        if (each.name == "extend_grid" and not settings.grids) or empty:
            continue
        texts.append(f"--{each.name.replace('_', '-')}")
        texts += _arguments(value)
    return shlex.join([*texts, "--out", "results/again"])


def _arguments(value: Any) -> list[str]:
    if value is True:
        return []
    return [str(each) for each in (value if isinstance(value, tuple) else (value,))]


def citations(schemes: Sequence[str]) -> dict[str, str]:
    """Scheme to the BibTeX of its sources; schemes without a known one are left out."""
    entries = _catalogue.catalogue()
    found = {}
    for scheme in schemes:
        if _parses(scheme) and (entry := entries.get(parse(scheme).name)):
            if bibtex := entry.bibtex():
                found[scheme] = bibtex
    return found


def _task(name: str) -> list[str] | None:
    """The options that name a task."""
    family = name.partition("(")[0]
    if family in builtin.TASKS:
        return ["--task", name]
    if family != "data":
        return None
    try:
        call = ast.parse(name, mode="eval").body
        assert isinstance(call, ast.Call) and len(call.args) == 1
        texts = ["--data", str(ast.literal_eval(call.args[0]))]
        for keyword in call.keywords:
            texts += [f"--{keyword.arg}", str(ast.literal_eval(keyword.value))]
    except (SyntaxError, ValueError, TypeError, AssertionError, RecursionError):
        return None
    return texts


def _parses(scheme: str) -> bool:
    try:
        parse(scheme)
    except (ValueError, TypeError):
        return False
    return True


def _is_optimizer(text: str) -> bool:
    try:
        optimizers.parse(text)
    except (ValueError, TypeError):
        return False
    return True
