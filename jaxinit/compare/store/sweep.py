"""A sweep as a value: its runs and its settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxinit import _checks
from jaxinit.compare.store.limit import limit_of
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.train.signal import Signals

SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("task", pa.string()),
        ("scheme", pa.string()),
        ("optimizer", pa.string()),
        ("learning_rate", pa.float64()),
        ("seed", pa.int64()),
        ("status", pa.string()),  # "finished", "diverged", or "reached" if it stops
        ("steps_to_target", pa.int64()),  # null when censored
        ("final_train_loss", pa.float64()),
        ("final_valid_loss", pa.float64()),
        ("final_valid_metric", pa.float64()),
        ("best_valid_metric", pa.float64()),
        ("eval_steps", pa.list_(pa.int64())),
        ("train_loss", pa.list_(pa.float64())),
        ("valid_loss", pa.list_(pa.float64())),
        ("valid_metric", pa.list_(pa.float64())),
        ("init_seconds", pa.float64()),
        ("step_seconds", pa.float64()),
        ("other_metrics", pa.map_(pa.string(), pa.list_(pa.float64()))),
    ]
)
"""A run's columns; steps count from 0.

The metric is the task's, whatever it is: an accuracy as a fraction, or what the setting
`metric_name` says. The best is the greatest or the least, as `direction` says. Losses
by cross-entropy are in nats.

`init_seconds` is what drawing one initialization by the scheme takes, `step_seconds` a
run's share of a step of all runs that were trained with it: wall-clock of the device
that the settings name, or of one of those, without compilation; null where it is not
known. `other_metrics` are the curves of what else an objective or a training of one's
own measures, by name. Where such a training measures no validation loss, that column
repeats the training loss.
"""


UNKNOWN = ("steps_to_target", "init_seconds", "step_seconds", "other_metrics")
"""The columns in which a run may have nothing."""

CURVES = ("eval_steps", "train_loss", "valid_loss", "valid_metric")
"""The columns of curves; those of a run are of one length."""


def checked(runs: pa.Table) -> pa.Table:
    """Runs that somebody wrote, with the columns of `SCHEMA`.

    Raises:
        ValueError: the table is none of runs.
    """
    lacking = [name for name in SCHEMA.names if name not in runs.column_names]
    if lacking:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    found = runs.select(SCHEMA.names).cast(SCHEMA)
    empty = [n for n in SCHEMA.names if n not in UNKNOWN and found[n].null_count]
    if empty:
        raise ValueError(f"a run has no {', '.join(empty)}")
    lengths = [pc.call_function("list_value_length", [found[n]]) for n in CURVES]
    if any(not each.equals(lengths[0]) for each in lengths):
        raise ValueError("a run has curves of two lengths")
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """Runs, and the settings that made them; or some of them.

    Attributes:
        runs: a row for each run, with the columns of `SCHEMA`.
        settings: of the sweep.
        seconds: wall-clock seconds it took in all sessions, compilation included; NaN
            if not known, as of runs that were merged.
        signals: of the layers at step 0, by scheme; see `train.signal`.
    """

    runs: pa.Table
    settings: Settings
    seconds: float = math.nan
    signals: Signals = dataclasses.field(default_factory=dict)

    @property
    def schemes(self) -> list[str]:
        """The schemes that have runs, in the order of the runs."""
        return list(dict.fromkeys(self.runs["scheme"].to_pylist()))

    @property
    def optimizers(self) -> list[str]:
        """The optimizers that have runs, in the order of the runs."""
        return list(dict.fromkeys(self.runs["optimizer"].to_pylist()))

    @property
    def learning_rates(self) -> list[float]:
        """The learning rates that have runs, ascending."""
        return sorted(set(self.runs["learning_rate"].to_pylist()))

    @property
    def diverged(self) -> np.ndarray:
        """Which runs diverged, (runs,)."""
        return np.array([s == "diverged" for s in self.runs["status"].to_pylist()])

    @property
    def tuning(self) -> Sweep:
        """The runs that choose learning rates: all, unless seeds of their own do.

        Raises:
            ValueError: as `scoring` does.
        """
        return self._part(range(self.settings.tuning_seeds))

    @property
    def scoring(self) -> Sweep:
        """The runs that score the rates: all, unless some only choose.

        Raises:
            ValueError: all runs choose, or none does.
        """
        choosing = range(self.settings.tuning_seeds)
        return self._part(set(self.runs["seed"].to_pylist()) - set(choosing))

    def at(
        self, scheme: str | None = None, learning_rate: float | None = None
    ) -> Sweep:
        """The runs of a scheme, or at a learning rate, or both, by seed."""
        part = self.of(
            None if scheme is None else [scheme],
            None if learning_rate is None else [learning_rate],
        )
        return dataclasses.replace(part, runs=part.runs.sort_by("seed"))

    def of(
        self,
        schemes: Collection[str] | None = None,
        learning_rates: Collection[float] | None = None,
        seeds: Collection[int] | None = None,
        optimizers: Collection[str] | None = None,
    ) -> Sweep:
        """The runs that are among these schemes, rates and so on; None leaves all."""
        wanted = {
            "scheme": schemes,
            "learning_rate": learning_rates,
            "seed": seeds,
            "optimizer": optimizers,
        }
        keep = np.ones(self.runs.num_rows, bool)
        for column, among in wanted.items():
            if among is not None:
                values = self.runs[column].to_pylist()
                keep &= np.array([value in among for value in values], bool)
        return dataclasses.replace(self, runs=self.runs.filter(pa.array(keep)))

    def under(self, optimizer: str) -> Sweep:
        """The sweep of one optimizer: its runs and its grid."""
        settings = self.settings
        alone = dataclasses.replace(settings, optimizers=(optimizer,))
        alone = alone.with_grids({optimizer: settings.rates(optimizer)})
        part = self.of(optimizers=[optimizer])
        return dataclasses.replace(part, settings=alone).cut()

    def contestants(self) -> Sweep:
        """The sweep in which each scheme under each optimizer is a scheme of its own.

        What ranks and compares schemes then does so for the pairs. A sweep of one
        optimizer keeps its schemes. The runs are `cut`.
        """
        pairs, cut = self.settings.contestants, self.cut()
        if len(self.settings.optimizers) == 1:
            return cut
        names = {pair: name for name, pair in pairs.items()}
        columns = (cut.runs[name].to_pylist() for name in ("scheme", "optimizer"))
        named = [names[pair] for pair in zip(*columns, strict=True)]
        place = cut.runs.schema.get_field_index("scheme")
        runs = cut.runs.set_column(place, "scheme", pa.array(named, pa.string()))
        settings = dataclasses.replace(cut.settings, schemes=tuple(pairs))
        return dataclasses.replace(cut, runs=runs, settings=settings)

    def cut(self) -> Sweep:
        """The sweep as far as all of its runs were trained, where `stop_at` ended them.

        That is the multiple of the fastest time; of several optimizers, of the fastest
        of all. Runs that were made before it was known are longer, and are read to
        there. Without `stop_at`, and where it is done, the sweep stays as it is.
        """
        settings = self.settings
        if settings.stop_at is None or settings.stopped is not None:
            return self
        rows = self.runs.to_pylist()
        found = limit_of(settings, rows)
        budget = min(map(found.steps, settings.optimizers))
        runs = pa.Table.from_pylist([self._until(budget, row) for row in rows], SCHEMA)
        noted = dataclasses.replace(settings, stopped=budget)
        return dataclasses.replace(self, runs=runs, settings=noted)

    def _until(self, budget: int, row: dict[str, Any]) -> dict[str, Any]:
        """A run as it was at a step."""
        if row["eval_steps"][-1] <= budget:
            return row
        count = sum(step <= budget for step in row["eval_steps"])
        row = {**row, **{name: row[name][:count] for name in CURVES}}
        losses = np.array([row["train_loss"], row["valid_loss"]], float)
        if row["status"] == "diverged" and np.isfinite(losses).all():
            row["status"] = "finished"
            row["steps_to_target"] = self._first(
                row["valid_metric"], row["eval_steps"], self.settings.target
            )
        elif (row["steps_to_target"] or 0) > budget:
            row["steps_to_target"] = None
        metric = row["valid_metric"]
        best = max if self.settings.direction == "max" else min
        finals = {f"final_{name}": row[name][-1] for name in CURVES[1:]}
        return {**row, **finals, "best_valid_metric": best(metric)}

    def column(self, name: str) -> np.ndarray:
        """A column of numbers, (runs,): null, NaN and a diverged run are the worst.

        The worst is infinity, and for the metric as `Settings.worst_metric` says.
        """
        metric = name in ("final_valid_metric", "best_valid_metric")
        worst = self.settings.worst_metric if metric else math.inf
        values = np.array(self.runs[name].to_pylist(), dtype=float)  # null: NaN
        return np.where(np.isnan(values) | self.diverged, worst, values)

    def with_target(self, target: float) -> Sweep:
        """The sweep as it would be with another target.

        A run reaches the target at its first evaluation with the metric at the target
        or better; a diverged run never does. That is the rule by which a sweep is made,
        so that the target it was made for gives its own steps again.

        Args:
            target: of the task's metric.

        Returns:
            The sweep; its setting `made_for` is the target that it was made for.

        Raises:
            ValueError: the target is no value of the metric, or harder than that at
                which the runs stopped.
        """
        settings = self.settings
        self._check_target(target)
        if target == settings.target:
            return self
        columns = ("valid_metric", "eval_steps", "status")
        rows = zip(*(self.runs[name].to_pylist() for name in columns), strict=True)
        steps = [
            None if status == "diverged" else self._first(curve, when, target)
            for curve, when, status in rows
        ]
        place = self.runs.schema.get_field_index("steps_to_target")
        runs = self.runs.set_column(
            place, "steps_to_target", pa.array(steps, pa.int64())
        )
        made_for = self._made_for
        changed = dataclasses.replace(
            settings,
            target=target,
            made_for=None if target == made_for else made_for,
            settled=None,  # it was said of the other target
            target_of=None,
        )
        return dataclasses.replace(self, runs=runs, settings=changed)

    def with_targets(self, targets: Sequence[float]) -> Sweep:
        """The sweep with further targets, which reports show side by side.

        Raises:
            ValueError: as `with_target` does.
        """
        up = self.settings.direction == "max"
        listed = sorted(set(map(float, targets)), reverse=not up)  # easy to hard
        for each in listed:
            self._check_target(each)
        changed = dataclasses.replace(self.settings, targets=tuple(listed))
        return dataclasses.replace(self, settings=changed)

    @property
    def _made_for(self) -> float:
        made_for = self.settings.made_for
        return self.settings.target if made_for is None else made_for

    def _check_target(self, target: float) -> None:
        _checks.number("report", target=target)
        if self.settings.is_accuracy and not 0 < target <= 1:
            raise ValueError(
                f"report: target={target!r} must be an accuracy, above 0 and at most 1."
            )
        settings = self.settings
        stopped = settings.stop_at_target or settings.stop_at is not None
        stopped = stopped or "reached" in self.runs["status"].to_pylist()
        sign = 1 if self.settings.direction == "max" else -1
        if not stopped:
            return
        if sign * target > sign * self._made_for:
            raise ValueError(
                f"report: the runs stopped at the target {self._made_for:g}, so that "
                f"nothing is known of the harder {target:g}; run the sweep without "
                "stopping."
            )

    def _first(self, curve: list[float], when: list[int], target: float) -> int | None:
        """The first step at which a curve is at the target, which NaN never is."""
        values = np.array(curve, dtype=float)
        up = self.settings.direction == "max"
        reached = values >= target if up else values <= target
        return when[int(reached.argmax())] if reached.any() else None

    def _part(self, seeds: Collection[int]) -> Sweep:
        count = self.settings.tuning_seeds
        if not count:
            return self
        part = self.of(seeds=seeds)
        if part.runs.num_rows in (0, self.runs.num_rows):
            tuning = {seed < count for seed in self.runs["seed"].to_pylist()}
            which = "all" if True in tuning else "none"
            raise ValueError(
                f"report: {which} of the runs are at the {count} seeds that tune; "
                "rates are chosen on some seeds and scored on others."
            )
        return part
