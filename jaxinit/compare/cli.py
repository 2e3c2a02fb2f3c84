"""The command `jaxinit`."""

from __future__ import annotations

import inspect
import json as jsonlib
import pathlib
import sys
from typing import Annotated, Literal

import jax
import numpy as np
import rich.box
import rich.console
import rich.markup
import rich.table
import tyro

from jaxinit import _catalogue, _checks
from jaxinit._fans import compute_fans
from jaxinit._parse import parse
from jaxinit.compare import devices, report, sweep, tasks

app = tyro.extras.SubcommandApp()


@app.command(name="compare")
def compare_command(
    *,
    task: Literal["digits-mlp"] = "digits-mlp",
    depth: int = 20,
    width: int = 64,
    activation: str = "relu",
    schemes: tuple[str, ...] = sweep.DEFAULT_SCHEMES,
    learning_rates: tuple[float, ...] = sweep.DEFAULT_LEARNING_RATES,
    seeds: int = sweep.DEFAULT_SEEDS,
    steps: int = 500,
    eval_every: int = 25,
    batch_size: int = 64,
    optimizer: str = "momentum",
    target: float = 0.9,
    platform: Literal["cpu", "gpu", "tpu"] | None = None,
    out: pathlib.Path | None = None,
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Train a task from every scheme at every learning rate and seed, side by side.

    Prints which scheme converged fastest, and writes runs, summary and figures.

    Args:
        task: the task.
        depth: hidden layers of the task's model.
        width: units in a hidden layer.
        activation: activation of the hidden layers.
        schemes: the schemes, as texts such as 'he_normal(gain=2)'.
        learning_rates: the grid of learning rates.
        seeds: runs for each scheme and learning rate.
        steps: optimizer steps of each run.
        eval_every: steps between two evaluations.
        batch_size: examples in a step.
        optimizer: sgd, momentum (0.9), adam or adamw.
        target: validation accuracy at which a run has converged.
        platform: where to run; JAX's own choice by default.
        out: folder for the results; results/TASK by default. A folder with other
            results is never overwritten.
        quiet: print neither progress nor table.
    """
    if platform is not None:
        jax.config.update("jax_platforms", platform)
    devices.use_all_cores()
    try:
        jax.devices()
    except RuntimeError:
        raise ValueError(
            f"platform {platform!r} is not to be had here; run without --platform for "
            "the best there is."
        ) from None
    sweep.compare(
        tasks.TASKS[task](depth, width, activation, target),
        schemes,
        learning_rates,
        seeds,
        steps=steps,
        eval_every=eval_every,
        batch_size=batch_size,
        optimizer=optimizer,
        out=pathlib.Path("results", task) if out is None else out,
        quiet=quiet,
    )


@app.command(name="list")
def list_command(
    *,
    family: str | None = None,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """List the schemes: name, law, formula, source.

    Args:
        family: only the schemes of one family, such as orthogonal or recurrent.
        json: print everything that is known of each, as JSON.
    """
    entries = list(_catalogue.catalogue().values())
    if family is not None:
        _checks.choice("list", "family", family, sorted({e.family for e in entries}))
        entries = [each for each in entries if each.family == family]
    if json:
        print(jsonlib.dumps([each._asdict() for each in entries], indent=2))
        return
    table = rich.table.Table(box=rich.box.SIMPLE)
    for column in ("scheme", "law", "formula", "from", "family"):
        table.add_column(column, overflow="fold")
    for each in entries:
        names = ", ".join((each.name, *each.aliases))
        source = each.references[0] if each.references else ""
        texts = (names, each.summary, each.formula, source)
        table.add_row(*map(rich.markup.escape, texts), each.family)
    rich.console.Console().print(table)


@app.command(name="show")
def show_command(
    scheme: Annotated[str, tyro.conf.Positional],
    /,
    *,
    shape: tuple[int, ...] = (256, 256),
    cite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Show what a scheme is and what it draws.

    Args:
        scheme: its text, such as 'he_normal(gain=2)'.
        shape: shape of the array to draw.
        cite: print the sources as BibTeX, and nothing else.
    """
    init = parse(scheme)
    entry = _catalogue.catalogue()[init.name]
    if cite:
        print(entry.bibtex() or f"{entry.name} names no source.")
        return
    x = np.asarray(init(jax.random.key(0), shape), np.float64)
    print(f"{init!r}: {entry.summary}\n\n{entry.law}\n\nshape  {shape}")
    if "in_axis" in init.arguments and init.arguments.get("fan") is None:
        names = inspect.signature(compute_fans).parameters
        layout = {k: v for k, v in init.arguments.items() if k in names}
        fan_in, fan_out = compute_fans(shape, **layout)
        print(f"fans   in {fan_in:g}, out {fan_out:g}")
    print(f"mean   {x.mean():.4g}\nstd    {x.std():.4g}\n\n{report.histogram(x)}")
    for reference in entry.references:
        print(f"\n{reference}.")


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 2 for bad input."""
    try:
        app.cli(
            prog="jaxinit",
            description="Weight initialization schemes: list, show, compare.",
            args=arguments,
        )
    except (ValueError, TypeError, FileExistsError) as error:
        print(f"jaxinit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxinit: interrupted; the runs that ended are kept.", file=sys.stderr)
        return 130
    return 0
