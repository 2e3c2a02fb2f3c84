"""What one asks for: the arguments of `compare` and the options of its command.

Nothing here needs JAX, so that the command can say what it takes at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Literal, TypeAlias

Dtype: TypeAlias = Literal["float32", "bfloat16"]
"""In what a model may compute."""

Precision: TypeAlias = Literal["default", "high", "highest"]
"""Of float32 products, as `jax.default_matmul_precision` names them."""

Strategy: TypeAlias = Literal["map", "vmap", "loop"]
"""How a device trains its runs; see `runners`."""

DEFAULT_SCHEMES = (
    "normal(stddev=0.01)",
    "normal(stddev=1.0)",
    "lecun_normal()",
    "glorot_normal()",
    "he_normal()",
    "orthogonal(scale=1.4142)",
)
DEFAULT_OPTIMIZERS = ("momentum()",)

Mark: TypeAlias = Literal["decides", "reads", "grows", "noted"]

DECIDES: Mapping[str, Mark] = {"mark": "decides"}
READS: Mapping[str, Mark] = {"mark": "reads"}
GROWS: Mapping[str, Mark] = {"mark": "grows"}
NOTED: Mapping[str, Mark] = {"mark": "noted"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What one asks for: the arguments of `compare` and the options of its command.

    Attributes:
        schemes: the schemes, as texts such as 'he_normal(gain=2)', or one's own, as in
            mine.py:my_scheme.
        learning_rates: the grid of learning rates, each positive; by default each
            optimizer has its own.
        seeds: runs of each scheme that score it; without tuning_seeds, at each learning
            rate.
        optimizers: the optimizers, as texts such as 'adamw(weight_decay=0.1)'; each
            scheme is run with each of them.
        steps: optimizer steps of each run, a multiple of eval_every.
        eval_every: steps between two evaluations on the validation data; by default the
            task's own, or the next smaller number that divides steps.
        batch_size: examples in a step; by default 64, or those of a stream's batches.
        dtype: in what the model computes; parameters, updates and losses are float32.
        matmul_precision: of float32 products; below highest an accelerator is faster
            and less exact, and a CPU the same.
        targets: further values of the metric at which the schemes are compared; the
            task's own target decides what is run.
        stop_at_target: end a run when it reaches the target.
        stop_at: train no run beyond so many times the fastest scheme's time to the
            target, at least 1; what is not there by then has missed the target.
        tuning_seeds: each scheme's learning rate is chosen on so many seeds of their
            own, and the others are run at that rate alone. With 0 all seeds are run at
            every rate, and those that choose a rate also score it.
        runoff_seeds: the first so many of the seeds that score are run at the best rate
            and at the better of its neighbours, and decide between the two.
        extend_grid: let the grid of learning rates grow where a scheme is best at its
            end, by the grid's own steps and four times at most.
        until_sure: if not 0, run at most so many rounds of --seeds seeds, until the
            winner is settled at 95 % confidence over all rounds.
        strategy: how a device trains its runs: one after another in a compiled loop
            (map), all at once (vmap), or step by step from Python (loop). By default
            what made the folder's runs, or what is measured to be fastest for a large
            sweep, or what usually is.
    """

    schemes: tuple[str, ...] = field(default=DEFAULT_SCHEMES, metadata=GROWS)
    learning_rates: tuple[float, ...] | None = field(default=None, metadata=GROWS)
    seeds: int = field(default=18, metadata=GROWS)
    optimizers: tuple[str, ...] = field(default=DEFAULT_OPTIMIZERS, metadata=GROWS)
    steps: int = field(default=500, metadata=DECIDES)
    eval_every: int | None = field(default=None, metadata=DECIDES)
    batch_size: int | None = field(default=None, metadata=DECIDES)
    dtype: Dtype = field(default="float32", metadata=DECIDES)
    matmul_precision: Precision = field(default="highest", metadata=DECIDES)
    targets: tuple[float, ...] = field(default=(), metadata=NOTED)
    stop_at_target: bool = field(default=False, metadata=DECIDES)
    stop_at: float | None = field(default=None, metadata=DECIDES)
    tuning_seeds: int = field(default=2, metadata=READS)
    runoff_seeds: int = field(default=6, metadata=READS)
    extend_grid: bool = field(default=False, metadata=NOTED)
    until_sure: int = field(default=0, metadata=NOTED)
    strategy: Strategy | None = field(default=None, metadata=NOTED)
