"""Where and how the runs of a sweep execute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxinit.compare.train import Config, Data, Hparams, Metrics, Trainer

RUNS = "runs"
"""Name of the mesh axis over which runs are spread."""


class Engine:
    """Runs many trainings side by side in one compiled program.

    The run axis is sharded over all local devices; a device takes its runs one after
    another on a CPU, whose caches hold one run better than many, and all at once
    elsewhere.
    """

    def __init__(self, trainer: Trainer, config: Config, data: Data) -> None:
        """Place the data on the devices, and make the programs of a segment."""
        self.config = config
        devices = jax.local_devices()
        self.mesh = jax.make_mesh(
            (len(devices),), (RUNS,), (jax.sharding.AxisType.Auto,), devices=devices
        )
        self._runs = NamedSharding(self.mesh, PartitionSpec(RUNS))
        self._data = jax.device_put(data, NamedSharding(self.mesh, PartitionSpec()))
        self._start = self._over_runs(trainer.start)
        self._segment = self._over_runs(trainer.segment, donate=(1,))

    def _over_runs(self, function: Any, donate: tuple[int, ...] = ()) -> Any:
        """`function(data, *runs)` with a leading run axis on all but the data."""
        one_by_one = self.mesh.devices.flat[0].platform == "cpu"

        def on_device(data: Data, *runs: Any) -> Any:
            def body(run: Any) -> Any:
                return function(data, *run)

            return lax.map(body, runs) if one_by_one else jax.vmap(body)(runs)

        def specs(*runs: Any) -> Any:
            return (PartitionSpec(), *(PartitionSpec(RUNS) for _ in runs))

        def program(data: Data, *runs: Any) -> Any:
            return jax.shard_map(
                on_device,
                mesh=self.mesh,
                in_specs=specs(*runs),
                out_specs=PartitionSpec(RUNS),
                check_vma=False,
            )(data, *runs)

        return jax.jit(program, donate_argnums=donate)

    def train(
        self, params: Any, model_state: Any, keys: Any, hparams: Hparams
    ) -> Iterator[tuple[int, Metrics]]:
        """Train all runs; every argument has a leading axis of one length.

        Args:
            params: initial parameters.
            model_state: initial model state.
            keys: one key a run.
            hparams: hyperparameters.

        Yields:
            After each segment the steps done and the runs' newest metrics, NumPy
            arrays of shape (runs,).
        """
        runs = len(hparams.learning_rate)
        arguments = (params, model_state, keys, hparams)
        arguments = jax.tree.map(self._spread, arguments)
        state, metrics = self._start(self._data, *arguments)
        for step in range(0, self.config.steps + 1, self.config.eval_every):
            if step:
                state, metrics = self._segment(self._data, state)
            yield step, jax.tree.map(lambda x: np.asarray(x)[:runs], metrics)

    def _spread(self, leaf: Any) -> Any:
        """Pad the run axis to a multiple of the devices, and shard it over them."""
        missing = -len(leaf) % self.mesh.size
        padded = np.pad(np.arange(len(leaf)), (0, missing))
        return jax.device_put(leaf[padded] if missing else leaf, self._runs)
