"""Several processes that make one sweep, each on its own devices.

Runs share nothing, so that no array spans processes: each trains its part of a chunk,
and all learn of all metrics after each segment.
"""

from __future__ import annotations

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
