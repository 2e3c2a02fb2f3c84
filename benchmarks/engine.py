"""What the sweep engine decides and costs, against what could be had by hand.

Run from the root of the repository: `python benchmarks/engine.py`. Rows: its choice of
a strategy on every built-in task, two devices in one process against two processes, and
the compilation of a large sweep against that of one run.
"""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing

from jaxinit.compare import compare, machine, read_runs
from jaxinit.compare.task import builtin
from jaxinit.compare.task.training import Hparams
from jaxinit.compare.train.engine import Engine
from jaxinit.compare.train.runners import STRATEGIES
from jaxinit.compare.train.strategy import choose_strategy
from jaxinit.compare.train.trainer import Config, make_trainer, source_of

RUNS = timing.sized(16, 2)
"""Runs of each task, by which strategies are compared."""


def arguments(task: Any, runs: int) -> tuple[Any, ...]:
    """The arguments of `Engine.train`: the model's own start, one key a run."""
    keys = jax.random.split(jax.random.key(0), runs)
    params, state = jax.vmap(lambda k: task.model.init(k, task.x_train[:1]))(keys)
    return params, state, keys, Hparams(jnp.full(runs, 0.001, jnp.float32))


def choice(name: str) -> dict[str, Any]:
    """The engine's choice on a task, and the time of the best by its own."""
    task = builtin.parse_task(name)
    config = Config(1000, 10, 64)
    example = jax.tree.map(lambda x: x[0], arguments(task, 1))
    convolved = "cnn" in name or "resnet" in name
    chosen = choose_strategy(task, config, example, convolved)
    spent: dict[str, list[float]] = {}
    trainings = {}
    for strategy in STRATEGIES:
        if convolved and strategy != "loop":
            continue  # measured for the choice, and ten times as slow
        source = source_of(task, config)
        engine = Engine(make_trainer(task, config), config, source, strategy)
        trainings[strategy] = iter(engine.train(*arguments(task, RUNS)))
        for _ in range(2):  # the start, and a segment that compiles
            next(trainings[strategy])
    until = time.perf_counter() + timing.sized(5, 0.1)
    while not spent or time.perf_counter() < until:
        for strategy, training in trainings.items():
            began = time.perf_counter()
            if next(training, None) is not None:
                spent.setdefault(strategy, []).append(time.perf_counter() - began)
    # Such short segments are only ever made longer by what else the machine does.
    seconds = {name: min(times) for name, times in spent.items()}
    best = min(seconds, key=lambda strategy: seconds[strategy])
    return {
        "task": name,
        "chosen": chosen,
        "best": best,
        "ms_a_run_and_step": {
            strategy: round(1e3 * s / config.eval_every / RUNS, 4)
            for strategy, s in seconds.items()
        },
        "speed_of_the_choice_over_the_best": round(seconds[best] / seconds[chosen], 2),
    }


SWEEP = (
    "compare --task digits-mlp(depth=2,width=32) --schemes he_normal glorot_normal "
    "--learning-rates 0.001 0.002 0.004 0.008 --strategy map --quiet "
) + timing.sized(
    "--seeds 16 --steps 4000 --eval-every 200", "--seeds 1 --steps 40 --eval-every 10"
)


def seconds_of_a_step(processes: int, devices_each: int) -> float:
    """Wall-clock of a step of 128 runs, by so many processes on this machine."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
        free.close()
        out = pathlib.Path(folder, "out")
        options = [*SWEEP.split(), "--out", str(out)]
        if processes > 1:
            options += ["--distributed", "--coordinator", address]
            options += ["--processes", str(processes)]
        started = []
        for index in range(processes):
            own = ["--process-index", str(index)] if processes > 1 else []
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "jaxinit", *options, *own],
                    env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices_each)},
                    stdout=subprocess.DEVNULL,
                )
            )
        if any([process.wait() for process in started]):
            raise RuntimeError("a process has failed")
        share = np.nanmedian(read_runs(out)["step_seconds"].to_numpy())
    return float(share) * 128 / processes


def processes() -> dict[str, Any]:
    """Two devices of one process, and two processes with one each, in turns."""
    ratios = []
    for _ in range(timing.sized(3, 1)):
        two = seconds_of_a_step(2, 1)
        ratios.append(seconds_of_a_step(1, 2) / two)
    return {
        "one_process_with_2_devices_over_2_processes_with_1": round(
            float(np.median(ratios)), 2
        ),
        "rounds": [round(each, 2) for each in ratios],
    }


def compilation() -> dict[str, Any]:
    """Seconds that XLA and tracing take for one run, and for 480."""
    spent = 0.0

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        nonlocal spent
        if event.startswith("/jax/core/compile"):
            spent += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)

    def by(schemes: list[str], rates: list[float], seeds: int) -> float:
        nonlocal spent
        jax.clear_caches()
        spent = 0.0
        compare(
            "digits-mlp", schemes, rates, seeds, steps=50, eval_every=25,
            strategy="map", quiet=True,
        )  # fmt: skip
        return spent

    by(["he_normal"], [0.1], 1)
    one = by(["he_normal"], [0.1], 1)
    schemes = ["he_normal", "glorot_normal", "lecun_normal", "orthogonal", "normal"]
    rates = [0.001 * 2**k for k in range(timing.sized(8, 2))]
    many = by([*schemes, "sparse"], rates, timing.sized(10, 1))
    return {
        "seconds_of_one_run": round(one, 2),
        "seconds_of_6_schemes_x_8_rates_x_10_seeds": round(many, 2),
        "ratio": round(many / one, 2),
    }


def main() -> None:
    """Print each row, and write the results."""
    machine.use_all_cores()
    rows: dict[str, Any] = {}
    for name, make in (("compilation", compilation), ("processes", processes)):
        rows[name] = make()
        print(name, rows[name], flush=True)
    rows["choice"] = []
    tasks = timing.sized(list(builtin.TASKS), ["digits-mlp(depth=2, width=8)"])
    for name in tasks:
        rows["choice"].append(choice(name))
        print(rows["choice"][-1], flush=True)
    timing.write("engine", rows)


if __name__ == "__main__":
    main()
