"""Whole commands as a person waits for them: each a process of its own.

Run from the root of the repository: `python benchmarks/commands.py`. A sweep is timed
cold, with no compiled program kept, and the second time; beside it stands the usual
PyTorch loop over the same runs, one after another, where torch is installed. Imports
and listings are measured in units of `python -c "import jax"`.
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
from collections.abc import Sequence
from typing import Any

import numpy as np
import timing

ROUNDS = timing.sized(5, 1)

PYTHON = sys.executable

JAXINIT = [PYTHON, "-m", "jaxinit"]

SHORT: dict[str, list[str]] = {
    "import jax": [PYTHON, "-c", "import jax"],
    "import jaxinit": [PYTHON, "-c", "import jaxinit"],
    "import jaxinit, one scheme": [PYTHON, "-c", "import jaxinit; jaxinit.he_normal"],
    "jaxinit --help": [*JAXINIT, "--help"],
    "jaxinit list": [*JAXINIT, "list"],
    "jaxinit show he_normal": [*JAXINIT, "show", "he_normal"],
}

_RATES = "0.001 0.002 0.005 0.01 0.02 0.05 0.1 0.2".split()
_SCHEMES = ["normal(stddev=0.05)", "lecun_normal", "he_normal", "orthogonal"]


class Work:
    """A sweep of so many runs, as a command and as a loop in PyTorch."""

    def __init__(self, task: str, seeds: int, rates: int, steps: int) -> None:
        """Four schemes, each with so many rates and seeds."""
        self.task, self.steps = task, steps
        self.runs = 4 * rates * seeds
        self.command = [
            *JAXINIT, "compare", "--task", task, "--schemes", *_SCHEMES, "--seeds",
            str(seeds), "--tuning-seeds", "0", "--steps", str(steps), "--eval-every",
            str(steps // 10), "--learning-rates", *_RATES[:rates], "--quiet",
        ]  # fmt: skip

    @property
    def torch(self) -> list[str]:
        """The loop of `by_torch`, as a process."""
        code = (
            "import sys; sys.path.insert(0, 'benchmarks'); import sweep;"
            "from jaxinit.compare.task import builtin;"
            f"task = builtin.parse_task({self.task!r});"
            f"[sweep.by_torch(task, {self.steps})() for _ in range({self.runs})]"
        )
        return [PYTHON, "-c", code]


SWEEPS: dict[str, Work] = timing.sized(
    {
        "MLP 2 x 32, 160 runs x 600 steps": Work(
            "digits-mlp(depth=2, width=32)", 5, 8, 600
        ),
        "MLP 8 x 128, 64 runs x 300 steps": Work(
            "digits-mlp(depth=8, width=128)", 2, 8, 300
        ),
        "digits-cnn, 32 runs x 150 steps": Work("digits-cnn", 1, 8, 150),
    },
    {"MLP 1 x 8, 4 runs x 20 steps": Work("digits-mlp(depth=1, width=8)", 1, 1, 20)},
)


def seconds(command: Sequence[str], cache: str) -> float:
    """How long a command takes that keeps its programs in a folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    root = pathlib.Path(__file__).parent.parent
    began = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root,
        env={**kept, "XDG_CACHE_HOME": cache, "MPLBACKEND": "agg"},
    )  # fmt: skip
    spent = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-800:]}")
    return spent


def in_turn(commands: dict[str, Any], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each command in each round."""
    spent: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, run in commands.items():
            spent[name].append(run())
    return {name: np.array(each) for name, each in spent.items()}


def short_commands() -> list[dict[str, Any]]:
    """Imports and listings, in units of importing JAX."""
    with tempfile.TemporaryDirectory() as cache:
        calls = {
            name: lambda each=each: seconds(each, cache) for name, each in SHORT.items()
        }
        in_turn(calls, timing.sized(1, 0))  # compiles Python's own files
        times = in_turn(calls, ROUNDS)
    return [
        {
            "command": name,
            "seconds": round(float(np.median(times[name])), 2),
            "in_imports_of_jax": timing.ratio(times, name, "import jax"),
        }
        for name in times
    ]


def sweep_command(name: str, work: Work) -> dict[str, Any]:
    """A sweep cold and warm, its report, and torch's loop."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "out")

        def made(cache: str) -> float:
            there = f"{out}{time.time_ns()}"
            return seconds([*work.command, "--out", there], cache)

        def cold() -> float:
            with tempfile.TemporaryDirectory() as fresh:
                return made(fresh)

        calls: dict[str, Any] = {"cold": cold, "second": lambda: made(folder)}
        if importlib.util.find_spec("torch"):
            calls["torch"] = lambda: seconds(work.torch, folder)
        seconds([*work.command, "--out", str(out)], folder)  # fills the folder
        report = [*JAXINIT, "report", str(out), "--quiet"]
        calls["report"] = lambda: seconds(report, folder)
        times = in_turn(calls, timing.sized(2, 1))
    row: dict[str, Any] = {"command": name}
    for what, each in times.items():
        row[f"{what}_s"] = round(float(np.median(each)), 2)
    if "torch" in times:
        row["times_as_fast_as_torch"] = {
            what: timing.ratio(times, "torch", what) for what in ("cold", "second")
        }
    return row


def default_command() -> dict[str, Any]:
    """`jaxinit compare` as it stands, and its report."""
    command = [*JAXINIT, "compare", "--quiet"]
    row: dict[str, Any] = {"command": "jaxinit compare"}
    with tempfile.TemporaryDirectory() as folder:
        for what in ("cold", "second"):
            out = pathlib.Path(folder, what)
            spent = seconds([*command, "--out", str(out)], folder)
            row[f"{what}_s"] = round(spent, 1)
        report = [*JAXINIT, "report", str(out), "--quiet"]
        row["report_s"] = round(min(seconds(report, folder) for _ in range(3)), 2)
    return row


def main() -> None:
    """Print a row a command, and write what there is after each."""
    rows = short_commands()
    for row in rows:
        print(row, flush=True)
    parts = [functools.partial(sweep_command, *work) for work in SWEEPS.items()]
    for part in [*timing.sized([default_command], []), *parts]:
        rows.append(part())
        print(rows[-1], flush=True)
        timing.write("commands", rows)


if __name__ == "__main__":
    main()
