"""What a sweep did, in words: its protocol, its command, and whom to cite."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from jaxinit import _catalogue
from jaxinit._parse import parse
from jaxinit.compare.report.table import goal
from jaxinit.compare.stats import summary as stats
from jaxinit.compare.stats.verdict import duration
from jaxinit.compare.task import builtin as tasks


def words(settings: Mapping[str, Any], runs: pa.Table) -> list[str]:
    """The protocol, a paragraph an item.

    Args:
        settings: of the sweep.
        runs: a row a run, of one task.
    """
    diverged = runs["status"].to_pylist().count("diverged")
    schemes, rates = len(settings["schemes"]), len(settings["learning_rates"])
    seeds, every = settings["seeds"], settings["eval_every"]
    tuning = settings.get("tuning_seeds", 0)
    flattery = (
        f"Seeds 0 to {tuning - 1} choose it, and only the others, run at that rate "
        "alone, score it."
        if tuning
        else "The runs that choose a rate also score it, which flatters every scheme."
    )
    return [
        f"Runs: {schemes} schemes x {rates} learning rates x {seeds} seeds, "
        f"{settings['optimizer']} with batches of {settings['batch_size']}. "
        f"{runs.num_rows} runs are finished, {diverged} of them diverged. Seed k has "
        "the same initialization key and the same order of data in every scheme and at "
        "every rate, so that differences are paired.",
        f"Target: {goal(settings)}, looked at every {every} steps, so that steps to it "
        f"are multiples of {every}, within a budget of {settings['steps']}. A run that "
        "misses the target, or diverges, is censored at the budget; none is dropped."
        + _of_target(settings),
        "Rates: each scheme is shown at its own best rate of the grid, by least median "
        f"steps to target, then by least median final training loss. {flattery} A best "
        "rate at the edge of the grid is marked *, for a better one may lie outside.",
        "Ratios: the geometric mean of the baseline's steps over the scheme's, each "
        "cut at the budget, with Student's 95 % interval on logarithms paired by "
        "seed. With a scheme that never reaches the target it is a bound (≤ or ≥). "
        "Faster or slower is said where p is at most 5 % after Holm's correction for "
        "all pairs; the intervals of ranks hold for all schemes at once, with 95 % "
        "confidence.",
        *([f"Code: {settings['code']}."] if settings.get("code") else []),
        *(_seconds(settings, cost) for cost in list(stats.costs(runs).values())[:1]),
        "Not seen by few seeds: failures that are rare. A scheme that diverges in one "
        "run of ten shows none in five runs more often than not, so the share of "
        "diverged runs has its interval, too.",
    ]


def _of_target(settings: Mapping[str, Any]) -> str:
    """Where the target comes from, and what it does to the runs."""
    text = ""
    if "target_of" in settings:
        seeds = " on the seeds that tune" if settings.get("tuning_seeds") else ""
        text += (
            f" The target is what {settings['target_of']} reaches{seeds}: of each "
            "learning rate the value of the validation metric that half of its runs or "
            "more reach at their best evaluation (the median over seeds, the easier of "
            "two in the middle; a diverged run is the worst), and of these values the "
            "best."
        )
    if "made_for_target" in settings:
        text += (
            f" The runs were made for the target {settings['made_for_target']:g}; "
            "steps to this one are read from their curves"
        )
        tuned = "; rates are chosen for it among those that the scoring seeds ran at"
        text += f"{tuned if settings.get('tuning_seeds') else ''}."
    if settings.get("stop_at_target"):
        text += (
            " A run stops at the evaluation that reaches it: its curves are constant "
            "from there, and its final values are those of that moment."
        )
    return text


def _seconds(settings: Mapping[str, Any], cost: stats.Cost) -> str:
    """What times are and are not."""
    return (
        "Times: the seconds to draw a start, median over the scheme's runs, and for "
        f"every step {duration(cost.step)}, the median over all runs of the sweep, so "
        "that a slow moment of the machine favours no scheme. A step is a run's share "
        "of those trained at once, its evaluations included: one run alone may take "
        f"longer. Times are of {settings['device']} and hold there alone; compilation, "
        "reading data and the search for the learning rate are not in them. They have "
        "no interval; ratios and verdict are of steps."
    )


def rerun(settings: Mapping[str, Any]) -> str | None:
    """The command that makes the sweep again.

    Args:
        settings: of the sweep.

    Returns:
        A line for a shell; None where task or schemes are a program's own, which no
        command can name.
    """
    task = _task(settings["task"])
    if task is None or not all(map(_parses, settings["schemes"])):
        return None
    options = {
        "target": [settings.get("made_for_target", settings["target"])],
        "schemes": settings["schemes"],
        "learning-rates": settings["learning_rates"],
        "seeds": [settings["seeds"] - settings.get("tuning_seeds", 0)],
        **{
            name: [settings[name.replace("-", "_")]]
            for name in ("steps", "eval-every", "batch-size", "optimizer")
        },
        **{
            name: [settings[name.replace("-", "_")]]
            for name in ("dtype", "matmul-precision", "strategy", "tuning-seeds")
            if settings.get(name.replace("-", "_"))
        },
        **({"targets": settings["targets"]} if settings.get("targets") else {}),
        **({"stop-at-target": []} if settings.get("stop_at_target") else {}),
        "out": ["results/again"],
    }
    texts = ["jaxinit", "compare", *task]
    for name, values in options.items():
        texts += [f"--{name}", *map(str, values)]
    return shlex.join(texts)


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
    if family in tasks.TASKS:
        return ["--task", name]
    if family != "data":
        return None
    try:
        call = ast.parse(name, mode="eval").body
        assert isinstance(call, ast.Call) and len(call.args) == 1
        texts = ["--data", str(ast.literal_eval(call.args[0]))]
        for keyword in call.keywords:
            texts += [f"--{keyword.arg}", str(ast.literal_eval(keyword.value))]
    except (SyntaxError, ValueError, AssertionError):
        return None
    return texts


def _parses(scheme: str) -> bool:
    try:
        parse(scheme)
    except (ValueError, TypeError):
        return False
    return True
