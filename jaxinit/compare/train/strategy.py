"""Which strategy is the fastest for a task here: measured once, and remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.compare import files, machine
from jaxinit.compare.options import Strategy
from jaxinit.compare.task.task import Task
from jaxinit.compare.train.engine import Engine
from jaxinit.compare.train.optimizer import text_of
from jaxinit.compare.train.optimizers import as_optimizer
from jaxinit.compare.train.runners import STRATEGIES
from jaxinit.compare.train.trainer import Config, make_trainer, source_of

LOG = logging.getLogger("jaxinit")

MARGIN = 1.1
"""How many times as fast as the usual strategy another must be to be taken.

Strategies round differently, which long trainings amplify: equal ones should not change
from one day to the next by the noise of a measurement.
"""

SECONDS = 0.4
"""About what the measurement of a strategy takes, once its programs are compiled."""


def usual_strategy(convolved: bool) -> Strategy:
    """The strategy that is usually the fastest.

    Args:
        convolved: whether the model has convolutions, which XLA runs slowly in a
            compiled loop on a CPU.
    """
    if jax.default_backend() != "cpu":
        return "vmap"
    return "loop" if convolved else "map"


def choose_strategy(
    task: Task, config: Config, example: Any, convolved: bool
) -> Strategy:
    """The fastest strategy for a task here, by a short measurement.

    Args:
        task: what is learned.
        config: what all runs share.
        example: the arguments of `Engine.train` for one run, without a run axis.
        convolved: whether the model has convolutions.

    Returns:
        The usual strategy, unless another is clearly faster.
    """
    optimizer = text_of(as_optimizer(config.optimizer))
    what = (task.fingerprint, config.batch_size, optimizer, config.dtype)
    name = " ".join(map(str, what))
    remembered = _Remembered(name)
    if remembered.strategy is not None:
        LOG.info("%s: %s, as measured before", name, remembered.strategy)
        return remembered.strategy
    usual = usual_strategy(convolved)
    on_cpu = jax.default_backend() == "cpu"
    spent: dict[Strategy, float] = {}
    for strategy in ("loop", "map", "vmap") if on_cpu else ("vmap", "loop"):
        if strategy == "vmap" and on_cpu and spent["map"] > 3 * spent["loop"]:
            continue  # a loop in the program is what costs here
        spent[strategy] = _seconds_a_step(task, config, example, strategy)
    fastest = min(spent, key=lambda strategy: spent[strategy])
    best = fastest if MARGIN * spent[fastest] < spent[usual] else usual
    times = ", ".join(f"{s} {1e3 * t:.3g} ms a step" for s, t in spent.items())
    LOG.info("%s: %s, of %s", name, best, times)
    remembered.write(best)
    return best


def _seconds_a_step(
    task: Task, config: Config, example: Any, strategy: Strategy
) -> float:
    """Of a run among several: the least of many short segments."""
    segment = 10
    config = config._replace(steps=100 * segment, eval_every=segment)
    block = 8 if jax.default_backend() == "cpu" else 64
    runs = len(jax.local_devices()) * block
    batch = jax.tree.map(lambda x: jnp.stack([x] * runs), example)
    engine = Engine(
        make_trainer(task, config),
        config,
        source_of(task, config),
        strategy,
        over=lambda metrics: np.zeros(runs, bool),
        block=block,
    )
    moments: list[float] = []
    for _ in engine.train(*batch):
        moments.append(time.perf_counter())
        if len(moments) > 3 and moments[-1] - moments[2] > SECONDS:
            break  # the first two are step 0, and a segment that compiles
    spent = [b - a for a, b in zip(moments[1:], moments[2:], strict=False)]
    return min(spent) / segment / runs


class _Remembered:
    """A choice on disk, of this task on this machine with these versions."""

    def __init__(self, name: str) -> None:
        device = jax.local_devices()[0]
        where = (device.device_kind, len(jax.local_devices()), jax.__version__)
        digest = hashlib.sha256(repr((name, where)).encode()).hexdigest()[:16]
        self._file = machine.cache_folder() / "strategies" / f"{digest}.json"
        try:
            found = json.loads(self._file.read_text())["strategy"]
        except (OSError, ValueError, KeyError):
            found = None
        self.strategy: Strategy | None = found if found in STRATEGIES else None

    def write(self, strategy: Strategy) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            files.write(self._file, json.dumps({"strategy": strategy}))
        except OSError:
            pass  # it is measured again next time
