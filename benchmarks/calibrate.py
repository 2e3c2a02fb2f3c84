"""What a start from the model itself costs, and how near sampled inputs come to data.

Run from the root of the repository: `python benchmarks/calibrate.py`. One pass of LSUV
takes turns with a compiled forward pass of the same batch, and with the loop over
layers that Mishkin and Matas 2016 describe; `autoinit` of a 48-layer transformer with
`jaxinit.init` alone, cold, each in a process of its own; and the scales that it finds
on sampled inputs are held against those of LSUV on data, on the same weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
from flax import linen as nn

import jaxinit
from jaxinit.calibrate import CalibratedScheme, autoinit, lsuv
from jaxinit.calibrate._balance import Balance
from jaxinit.calibrate._pass import forward
from jaxinit.compare import parse_task
from jaxinit.compare.task.task import Task
from jaxinit.trace import arrays_of, outputs

KEY = jax.random.key(0)
ROUNDS = timing.sized(3, 1)


class MLP(nn.Module):
    """Layers of ReLU."""

    layers: int
    width: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Map (batch, width) to as much."""
        for _ in range(self.layers):
            x = nn.relu(nn.Dense(self.width)(x))
        return x


class Block(nn.Module):
    """A transformer's block, normalised before its branches."""

    @nn.compact
    def __call__(self, x: Any, _: Any = None) -> Any:
        """Map (batch, time, width) to as much."""
        width = x.shape[-1]
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
        y = nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x)))
        return x + nn.Dense(width)(y), None


class Transformer(nn.Module):
    """Blocks, listed or scanned."""

    layers: int
    scanned: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Map (batch, time, width) to as much."""
        if not self.scanned:
            for _ in range(self.layers):
                x, _ = Block()(x)
            return x
        stack = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
        )
        return stack()(x, None)[0]


def classic(
    deviations: Callable[[Any], dict[str, Any]], params: Any, order: list[str]
) -> int:
    """LSUV as published: a loop over layers, whose number of passes is returned."""
    passes = 0
    for path in order:
        for _ in range(10):
            passes += 1
            std = float(deviations(params)[path])
            if abs(std - 1) < 0.1:
                break
            module, name = path.split("/")
            old = params[module]
            params = {**params, module: {**old, name: old[name] / std}}
    return passes


def costs(name: str, model: nn.Module, x: Any) -> dict[str, Any]:
    """Times of a pass, of one that verifies, and of the loop over layers."""
    params = jaxinit.init(model, KEY, x, scheme="orthogonal")["params"]
    apply = lambda p, x: model.apply({"params": p}, x)  # noqa: E731
    made: Any = lsuv(None).made(apply, params, (x,))
    assert isinstance(made, Balance)
    arrays = arrays_of(params, x)
    compiled = jax.jit(lambda arrays, live: forward(made.plan, arrays, live)[1])
    plain = jax.jit(apply)
    both = {
        "pass": lambda: jax.block_until_ready(compiled(arrays, True)),
        "verify": lambda: jax.block_until_ready(compiled(arrays, False)),
        "forward": lambda: jax.block_until_ready(plain(params, x)),
    }
    for run in both.values():
        run()
    times = timing.take_turns(both, 3.0)
    row: dict[str, Any] = {
        "model": name,
        "pass over forward": timing.ratio(times, "pass", "forward"),
        "both passes over forward": round(
            timing.ratio(times, "pass", "forward")
            + timing.ratio(times, "verify", "forward"),
            2,
        ),
    }
    if isinstance(model, MLP):
        told = jax.jit(lambda p: {k: v.std() for k, v in outputs(apply, p, x).items()})
        order = list(told(params))
        start = time.perf_counter()
        passes = classic(told, params, order)
        spent = time.perf_counter() - start
        row["classic passes"] = passes
        row["classic over pass"] = round(spent / float(np.median(times["pass"])), 1)
    new, measured = made(KEY, params, (x,))
    assert not made.unmet(measured)
    worst = max(
        float(np.abs(np.asarray(std) - 1).max()) for std in measured.deviations[0]
    )
    row["worst deviation from 1"] = float(f"{worst:.1e}")
    return row


TASKS = timing.sized(
    (
        *("digits-mlp", "mnist1d-mlp", "autoencoder", "regression-mlp", "digits-cnn"),
        *("text-transformer", "text-transformer(norm='none')", "adding-lstm"),
        "digits-resnet",
    ),
    ("digits-mlp(depth=2)",),
)


def agreement(text: str) -> list[dict[str, Any]]:
    """Scales on sampled inputs over those on data, on the same weights."""
    task: Task = parse_task(text)
    x = jnp.asarray(task.x_train[: timing.sized(256, 16)])
    params, state = task.model.init(KEY, x)
    apply = lambda p, x: task.model.apply(p, state, x, KEY, False)[0]  # noqa: E731
    params = jaxinit.reinit(KEY, params, "orthogonal", apply, (x,))

    def sizes(scheme: CalibratedScheme) -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            new = scheme(KEY, params, apply, (x,))
        pairs = jax.tree_util.tree_leaves_with_path(new)
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): float(
                jnp.linalg.norm(leaf)
            )
            for path, leaf in pairs
            if leaf.ndim > 1
        }

    data = sizes(lsuv(None))
    rows: list[dict[str, Any]] = []
    for name, scheme in (
        ("normal", autoinit(None)),
        ("moments of the data", autoinit(None, like="data")),
    ):
        found = sizes(scheme)
        off = {path: abs(found[path] / data[path] - 1) for path in data if data[path]}
        worst = max(off, key=lambda path: off[path])
        rows.append(
            {
                "task": text,
                "inputs": name,
                "median": round(float(np.median(list(off.values()))), 3),
                "worst": round(off[worst], 3),
                "at": worst,
            }
        )
    return rows


def cold(scheme: str, layers: int) -> float:
    """Seconds from a fresh process's first call to the arrays."""
    import whole_model

    model = whole_model.Transformer(layers, 128)
    jax.block_until_ready(jnp.zeros(8) + jax.random.normal(jax.random.key(1), (8,)))
    start = time.perf_counter()
    made = jaxinit.init(model, KEY, whole_model.TOKENS, scheme=scheme)
    jax.block_until_ready(made)
    return time.perf_counter() - start


def fresh(scheme: str, layers: int) -> float:
    """That, in a process of its own."""
    command = [sys.executable, __file__, "--cold", scheme, str(layers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the rows and write the results."""
    layers, width, deep = timing.sized((50, 256, 48), (3, 8, 1))
    x = jax.random.normal(jax.random.key(1), (timing.sized(256, 4), width))
    y = jax.random.normal(jax.random.key(2), timing.sized((16, 32, 128), (2, 4, 8)))
    models = (
        (f"perceptron {layers} x {width}", MLP(layers, width), x),
        ("transformer 8 x 128, listed", Transformer(timing.sized(8, 1), False), y),
        ("transformer 8 x 128, scanned", Transformer(timing.sized(8, 1), True), y),
    )
    rows: list[dict[str, Any]] = []
    for model in models:
        rows.append(costs(*model))
        print(rows[-1], flush=True)
    for task in TASKS:
        rows += agreement(task)
        print(*rows[-2:], sep="\n", flush=True)
    spent: dict[str, list[float]] = {"orthogonal()": [], "autoinit()": []}
    for _ in range(ROUNDS):
        for scheme, seconds in spent.items():
            seconds.append(fresh(scheme, deep))
    plain, with_pass = (float(np.median(seconds)) for seconds in spent.values())
    rows.append(
        {
            "model": f"transformer of {deep} layers, cold, width 128",
            "init, s": round(plain, 2),
            "autoinit beyond it, s": round(with_pass - plain, 2),
        }
    )
    print(rows[-1])
    timing.write("calibrate", rows)


if __name__ == "__main__":
    if "--cold" in sys.argv:
        _, _, scheme, layers = sys.argv
        print(json.dumps(cold(scheme, int(layers))))
    else:
        main()
