"""Orthogonal draws against JAX's and torch's: time, compile time, orthogonality.

Run from the root of the repository: `python benchmarks/orthogonal.py`. A ratio above 1
says how many times as fast jaxinit is. Torch is compared where it is installed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import jax
import numpy as np
import timing

import jaxinit

SHAPES = [
    *[(n, n) for n in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)],
    *[(512, 128), (128, 512), (4096, 512), (512, 4096), (2304, 256)],
]
STACKS = [(16, 512), (64, 512), (64, 64)]
INITS = {"jaxinit": jaxinit.orthogonal(), "jax": jax.nn.initializers.orthogonal()}


def main() -> None:
    """Print a row a shape, and write the results."""
    largest = timing.sized(4096, 64)
    shapes = [((), shape) for shape in SHAPES] + [((c,), (n, n)) for c, n in STACKS]
    shapes = [each for each in shapes if max(each[1]) <= largest]
    # Torch comes second, for its threads slow LAPACK's.
    rows = [against_jax(*each) for each in shapes]
    if importlib.util.find_spec("torch"):
        for row, each in zip(rows, shapes, strict=True):
            row |= against_torch(*each)
    # After all timing, for NumPy's products leave threads that slow LAPACK's.
    for row in rows:
        row.update(errors(row["shape"]))
        print(row, flush=True)
    timing.write("orthogonal", rows)


def against_jax(stack: tuple[int, ...], shape: tuple[int, int]) -> dict[str, Any]:
    """How many times as fast jaxinit is, for one matrix or a stack by `vmap`."""
    ours, theirs = (program(init, shape, stack) for init in INITS.values())
    row = {
        "shape": [*stack, *shape],
        "times_as_fast_as_jax": timing.times_as_fast(ours, theirs),
        "compile_s": timing.compile_seconds(ours),
    }
    print(row, flush=True)
    return row


def against_torch(stack: tuple[int, ...], shape: tuple[int, int]) -> dict[str, float]:
    """The same for torch, which draws a stack one after another."""
    torch = importlib.import_module("torch")
    gpu = jax.default_backend() == "gpu"
    empty = torch.empty((*stack, *shape), device="cuda" if gpu else "cpu")

    def draw() -> None:
        for matrix in empty if stack else [empty]:
            torch.nn.init.orthogonal_(matrix)
        if gpu:
            torch.cuda.synchronize()

    ours = program(INITS["jaxinit"], shape, stack)
    return {"times_as_fast_as_torch": timing.times_as_fast(ours, draw)}


def program(init: Any, shape: tuple[int, ...], stack: tuple[int, ...] = ()) -> Any:
    """A compiled draw, without arguments, of one matrix or a stack."""
    draw = functools.partial(init, shape=shape)
    key = jax.random.key(0)
    keys = jax.random.split(key, stack) if stack else key
    return functools.partial(jax.jit(jax.vmap(draw) if stack else draw), keys)


def errors(shape: list[int]) -> dict[str, float]:
    """Largest entry of Q'Q - I over four draws, in float64 on the host."""
    *stack, n, m = shape
    if stack:
        return {}
    found = {}
    for name, init in INITS.items():
        draws = [init(jax.random.key(seed), (n, m)) for seed in range(4)]
        q = np.stack([np.asarray(draw, np.float64) for draw in draws])
        gram = q.mT @ q if n >= m else q @ q.mT
        largest = np.abs(gram - np.eye(min(n, m))).max()
        found[f"{name}_error"] = float(f"{largest:.1e}")
    return found


if __name__ == "__main__":
    main()
