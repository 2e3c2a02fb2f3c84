"""The command `jaxinit`."""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated, Literal

import jax
import tyro

from jaxinit.compare import devices, sweep, tasks

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


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 2 for bad input."""
    try:
        app.cli(
            prog="jaxinit",
            description="Compare weight initialization schemes.",
            args=arguments,
        )
    except (ValueError, TypeError, FileExistsError) as error:
        print(f"jaxinit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxinit: interrupted; the runs that ended are kept.", file=sys.stderr)
        return 130
    return 0
