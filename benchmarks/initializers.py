"""Every shared scheme against JAX's and torch's: time of a draw, compile time apart.

Run from the root of the repository: `python benchmarks/initializers.py`. A ratio above
1 says how many times as fast jaxinit is. Torch is compared where it is installed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import timing

import jaxinit

SHAPES = timing.sized([(64, 64), (3, 3, 256, 256), (2048, 2048)], [(8, 8)])
SHARED = [
    "zeros",
    "uniform",
    "normal",
    "truncated_normal",
    "lecun_normal",
    "lecun_uniform",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "orthogonal",
]
TORCH = {
    "zeros": "zeros_",
    "uniform": "uniform_",
    "normal": "normal_",
    "truncated_normal": "trunc_normal_",
    "glorot_normal": "xavier_normal_",
    "glorot_uniform": "xavier_uniform_",
    "he_normal": "kaiming_normal_",
    "he_uniform": "kaiming_uniform_",
    "orthogonal": "orthogonal_",
}


def main() -> None:
    """Print a row a scheme and shape, and write the results."""
    rows = [against_jax(name, shape) for name in SHARED for shape in SHAPES]
    if importlib.util.find_spec("torch"):
        for row in rows:
            if row["scheme"] in TORCH:
                row["times_as_fast_as_torch"] = against_torch(**row)
    for row in rows:
        print(row)
    timing.write("initializers", rows)


def against_jax(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Ratio of times and of compile times of compiled draws."""
    ours = program(getattr(jaxinit, name), shape)
    theirs = program(getattr(jax.nn.initializers, name), shape)
    row = {
        "scheme": name,
        "shape": shape,
        "times_as_fast_as_jax": timing.times_as_fast(ours, theirs, 0.5),
        "compile_s": timing.compile_seconds(ours),
        "jax_compile_s": timing.compile_seconds(theirs),
    }
    print(row, flush=True)
    return row


def against_torch(scheme: str, shape: tuple[int, ...], **_: Any) -> float:
    """The same for torch, on the device that JAX uses."""
    torch = importlib.import_module("torch")
    gpu = jax.default_backend() == "gpu"
    empty = torch.empty(shape[::-1], device="cuda" if gpu else "cpu")
    fill = getattr(torch.nn.init, TORCH[scheme])

    def draw() -> None:
        fill(empty)
        if gpu:
            torch.cuda.synchronize()

    return timing.times_as_fast(program(getattr(jaxinit, scheme), shape), draw, 0.5)


def program(scheme: Any, shape: tuple[int, ...]) -> Callable[[], Any]:
    """A compiled draw, without arguments, of a scheme at its defaults."""
    init = scheme if scheme in (jaxinit.zeros, jax.nn.initializers.zeros) else scheme()
    return functools.partial(
        jax.jit(functools.partial(init, shape=shape)), jax.random.key(0)
    )


if __name__ == "__main__":
    main()
