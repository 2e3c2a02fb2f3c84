"""Everything that is to be known of a GPU, in one run of under eight minutes.

Run from the root of the repository: `python benchmarks/gpu.py`. First the tests marked
`gpu`, then benchmarks against their peers in one process: JAX's own draws, a jitted
loop, and PyTorch where it is installed. A part that fails is written down with its
error, and the next goes on; what the time does not allow is named. With `--smoke` all
of it runs at a small size on whatever there is.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import orthogonal
import sweep
import timing

import jaxinit
from jaxinit.compare import compare
from jaxinit.compare.task import builtin

SECONDS = 450
"""For all parts together; none begins later."""

BEGAN = time.perf_counter()


def tests() -> dict[str, Any]:
    """The tests marked `gpu`, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py"]
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return {
        "status": done.returncode,
        "said": done.stdout.splitlines()[-12:] + done.stderr.splitlines()[-4:],
    }


def orthogonal_draws() -> list[dict[str, Any]]:
    """Square matrices and a stack of them against JAX and torch."""
    shapes = timing.sized(
        [((64,), (512, 512)), ((), (2048, 2048)), ((), (4096, 4096))],
        [((2,), (16, 16))],
    )
    rows = [orthogonal.against_jax(*each) for each in shapes]
    if importlib.util.find_spec("torch"):
        for row, each in zip(rows, shapes, strict=True):
            row |= orthogonal.against_torch(*each)
    for row in rows:
        row.update(orthogonal.errors(row["shape"]))
    return rows


def large_draws() -> list[dict[str, Any]]:
    """Draws in bfloat16 against JAX's, as shares of the rate at which memory is copied.

    A draw writes its bytes once, and a copy reads and writes them.
    """
    count = timing.sized(2**30, 2**12)
    x = jnp.ones(count, jnp.bfloat16)
    copy = jax.jit(lambda x: x + jnp.ones((), x.dtype))
    rows = []
    for name in ("normal", "uniform", "truncated_normal"):
        ours = getattr(jaxinit, name)()
        theirs = getattr(jax.nn.initializers, name)()
        runs = {"copy": functools.partial(copy, x)}
        for who, init in (("jaxinit", ours), ("jax", theirs)):
            draw = jax.jit(lambda key, init=init: init(key, (count,), jnp.bfloat16))
            runs[who] = functools.partial(draw, jax.random.key(0))
        times = timing.take_turns(timing.ready(runs), 2.0)
        rate = 4 * count / 1e9 / float(min(times["copy"]))
        rows.append(
            {
                "draw": f"{name} of {count} in bfloat16",
                "times_as_fast_as_jax": timing.ratio(times, "jax", "jaxinit"),
                "share_of_bandwidth": timing.ratio(times, "copy", "jaxinit") / 2,
                "copy_GB_a_second": round(rate, 1),
            }
        )
    return rows


def runs_side_by_side() -> list[dict[str, Any]]:
    """Seconds a run and step by each strategy, against loops."""
    work: dict[str, tuple[Any, int, int]] = {
        "digits MLP 4 x 64": (lambda: builtin.digits_mlp(4, 64), 1024, 100),
        "digits CNN": (builtin.digits_cnn, 256, 10),
        "text transformer": (builtin.text_transformer, 256, 10),
    }
    rows = []
    for name, (make, runs, steps) in timing.sized(
        work, dict(list(work.items())[:1])
    ).items():
        runs, steps = timing.sized((runs, steps), (2, 4))
        task = make()
        contenders: dict[str, Callable[[], float]] = {
            "vmap": sweep.by_engine(task, runs, steps, "vmap"),
            "jitted loop": sweep.by_jitted_loop(task, runs, steps),
        }
        if runs <= 256:
            contenders["loop"] = sweep.by_engine(task, runs, steps, "loop")
        if importlib.util.find_spec("torch"):
            contenders["torch loop"] = sweep.by_torch(task, steps)
        times = sweep.measured(contenders, rounds=3)
        row: dict[str, Any] = {"work": name, "runs": runs}
        for who in times:
            row[f"{who}, ms"] = round(1e3 * float(min(times[who])) / steps, 4)
            if who != "vmap":
                row[f"vmap against {who}"] = timing.ratio(times, who, "vmap")
        rows.append(row)
    return rows


def default_sweep() -> dict[str, Any]:
    """The sweep that `jaxinit compare` makes, from start to end."""
    small = {"steps": 20, "seeds": 2, "schemes": ["he_normal"]}
    options: dict[str, Any] = timing.sized({}, small)
    task = builtin.parse_task("digits-mlp")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = compare(task, **options, out=folder, quiet=True)
        spent = time.perf_counter() - began
    return {"seconds": round(spent, 1), "runs": result.runs.num_rows}


def whole_model() -> dict[str, Any]:
    """A transformer drawn anew by us, against the model's own eager `init`."""
    task = builtin.text_transformer()
    model, x, key = task.model, jnp.asarray(task.x_train[:2]), jax.random.key(0)
    params, state = model.init(key, x)

    def apply(params: Any, x: Any) -> Any:
        return model.apply(params, state, x, key, False)[0]

    found = timing.times_as_fast(
        lambda: jaxinit.reinit(key, params, "he_normal()", apply, (x,)),
        lambda: model.init(key, x),
        seconds=3.0,
    )
    return {"reinit_times_as_fast_as_eager": found}


def diagnosis() -> dict[str, Any]:
    """A report of a transformer, in units of one `value_and_grad`."""
    task = builtin.text_transformer()
    model, key = task.model, jax.random.key(0)
    size = timing.sized(64, 4)
    x, y = jnp.asarray(task.x_train[:size]), jnp.asarray(task.y_train[:size])
    params, state = model.init(key, x)

    def apply(params: Any, x: Any) -> Any:
        return model.apply(params, state, x, key, False)[0]

    of = task.loss
    assert of is not None

    def loss(params: Any) -> Any:
        return of(apply(params, x), y).mean()

    grad = jax.jit(jax.value_and_grad(loss))
    found = timing.times_as_fast(
        lambda: grad(params),
        lambda: jaxinit.diagnose(apply, params, x, labels=y),
        seconds=3.0,
    )
    return {"whole_call_in_gradients": found}


PARTS: dict[str, Callable[[], Any]] = {
    "tests": tests,
    "orthogonal": orthogonal_draws,
    "large draws": large_draws,
    "side by side": runs_side_by_side,
    "default sweep": default_sweep,
    "whole model": whole_model,
    "diagnosis": diagnosis,
}


def main() -> int:
    """Print each part when it is done, and write what there is; 1 if one failed."""
    found: dict[str, Any] = {}
    for name, part in PARTS.items():
        began = time.perf_counter()
        if began - BEGAN > SECONDS:
            found[name] = {"left out": "the time was over"}
        else:
            try:
                found[name] = part()
            except Exception:  # the next part may work
                found[name] = {"error": traceback.format_exc().splitlines()[-6:]}
        spent = round(time.perf_counter() - began, 1)
        print(f"{name}, {spent} s: {found[name]}", flush=True)
        timing.write("gpu", found)
    broken = [each for each in found.values() if "error" in each]
    return int(bool(broken) or found["tests"]["status"] != 0)


if __name__ == "__main__":
    sys.exit(main())
