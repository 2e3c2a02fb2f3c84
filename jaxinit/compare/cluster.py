"""Several processes that make one sweep, each on its own devices.

Runs share nothing, so that no array spans processes: each trains its part of a chunk,
and all learn of all metrics after each segment.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    index: int | None = None,
) -> None:
    """Make this process one of a cluster, before anything else is done with JAX.

    Args:
        coordinator: host:port of process 0. None, as the others, where JAX finds it:
            under Slurm, Open MPI, Kubernetes, and on Cloud TPUs.
        processes: how many there are.
        index: which this is, from 0.

    Raises:
        ValueError: nothing is given and no cluster is found, or something is missing.
    """
    given = (coordinator, processes, index)
    if any(x is None for x in given) and any(x is not None for x in given):
        raise ValueError(
            "distributed: coordinator, processes and index belong together; give all "
            "three, or none where the cluster is one that JAX knows."
        )
    try:
        jax.distributed.initialize(coordinator, processes, index)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"distributed: no cluster could be joined: {reason}."
        ) from error
    _end_in_a_sentence()


_RELAY = r"""
import re, signal, sys
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, signal.SIG_IGN)
of_jax = re.compile(rb"[IWEF]\d{4} \S+ +\d+ (coordination_s|preemption|client\.h)")
begins = re.compile(rb"[IWEF]\d{4} |jaxinit: ")
kept, within, said = [], False, False
for line in iter(sys.stdin.buffer.readline, b""):
    within = bool(of_jax.match(line)) or within and not begins.match(line)
    said |= sys.argv[1].encode() in line
    if within:
        kept.append(line)
        continue
    sys.stderr.buffer.write(line)
    sys.stderr.buffer.flush()
if any(b"detected fatal errors" in line for line in kept):
    kept = [] if said else [f"jaxinit: {sys.argv[1]}\n".encode()]
sys.stderr.buffer.write(b"" if said else b"".join(kept))
"""
"""What passes standard error on. What JAX's service says of processes comes at the end,
and as one sentence where it says that one of them is gone."""


def _end_in_a_sentence() -> None:
    """Let a process that JAX ends, as it does where another is gone, leave a sentence.

    JAX writes a trace of its own stack and aborts, from a thread of C++ that asks
    nobody: only another process can still say what is the matter.
    """
    before = os.dup(2)
    relay = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _RELAY, _GONE], stdin=subprocess.PIPE
    )
    assert relay.stdin is not None
    os.dup2(relay.stdin.fileno(), 2)
    relay.stdin.close()

    @atexit.register
    def end() -> None:
        sys.stderr.flush()
        os.dup2(before, 2)
        relay.wait(timeout=10)


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def index() -> int:
    """Which of them this is; 0 writes the results."""
    return jax.process_index()


def gathered(tree: Any) -> Any:
    """Every process's arrays, which are of the same shapes, with a leading axis.

    Raises:
        ConnectionError: a process is gone.
    """
    if count() == 1:
        return jax.tree.map(lambda x: np.asarray(x)[None], tree)
    try:
        return multihost_utils.process_allgather(tree)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise ConnectionError(_GONE) from error


def wait() -> None:
    """Wait until every process is here.

    Raises:
        ConnectionError: a process is gone.
    """
    gathered(np.zeros(1))


class Share:
    """A process's part of a number of runs: each count()-th.

    Attributes:
        own: its runs' places among all; at least one, so that all do the same.
    """

    def __init__(self, runs: int) -> None:
        """Of so many runs."""
        self._runs = runs
        self._most = -(-runs // count())
        self.own = list(range(index(), runs, count())) or [0]

    def of_all(self, tree: Any) -> Any:
        """Arrays of all runs from arrays of the own, each with a leading axis.

        Raises:
            ConnectionError: a process is gone.
        """
        take = np.minimum(np.arange(self._most), len(self.own) - 1)
        every = gathered(jax.tree.map(lambda x: np.asarray(x)[take], tree))
        return jax.tree.map(
            lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[: self._runs], every
        )


_GONE = (
    "distributed: another process of this sweep is gone; what was finished is kept, "
    "so run all of them again with the same folder."
)
