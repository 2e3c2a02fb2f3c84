"""What a sweep is: what one asks for, and the record that its folder keeps.

Each field says once, by its mark, what it means for the sweep:

- "decides": it decides the numbers of a run, and is part of the run's name.
- "reads": it decides how runs are read, and which of them are made.
- "grows": a sweep may have more of it later, and no run changes.
- "noted": it is written down and decides nothing.

Two sweeps may share a folder or a report if they agree in all that decides or reads.
"""

from __future__ import annotations

import builtins
import collections.abc
import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Any, get_args, get_origin, get_type_hints

from jaxinit import _checks
from jaxinit._text import parse
from jaxinit.compare.options import DECIDES, GROWS, NOTED, Mark, Options
from jaxinit.compare.task.task import Direction
from jaxinit.compare.train.optimizers import Given
from jaxinit.compare.train.trainer import Config

_BETWEEN = "; "
"""Between the items of a text that is a list."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """The record of a sweep: its options, its task, and what was noted with it.

    Attributes:
        task: the task's name.
        parts: digests of the code and data that decide all runs, such as of "model";
            see `identity`.
        own_schemes: digests of the schemes that are the user's own.
        own_optimizers: digests of what each optimizer does, as a program.
        grids: each optimizer's learning rates, where they are not the same for all.
        untraced: what these digests cannot know all of, in words.
        loss_name: the loss's name.
        metric_name: the metric's.
        direction: whether the metric is to rise, "max", or to fall, "min".
        target: of the metric.
        eval_every: steps between two evaluations.
        batch_size: examples in a step.
        rounds: rounds of `seeds` seeds that score.
        settled: whether the winner of a sweep with `until_sure` is settled.
        block: runs that a device trained at once, where the strategy is one that does.
        stopped: the steps at which the runs are read as missed, where `stop_at` made
            them less than `steps`.
        made_for: the target that the runs were made for, where `target` is another.
        target_of: the scheme whose result the target is.
        versions: of the packages that made runs.
        device: what made them; several are listed with semicolons.
        machine: the kind of processor that it was attached to, likewise.
        code: the commit they were made at, where there is one.
    """

    task: str = field(metadata=DECIDES)
    parts: Mapping[str, str] = field(metadata=DECIDES)
    own_schemes: Mapping[str, str] = field(default_factory=dict, metadata=GROWS)
    own_optimizers: Mapping[str, str] = field(default_factory=dict, metadata=GROWS)
    grids: Mapping[str, tuple[float, ...]] = field(default_factory=dict, metadata=GROWS)
    untraced: tuple[str, ...] = field(default=(), metadata=NOTED)
    loss_name: str = field(metadata=DECIDES)
    metric_name: str = field(metadata=DECIDES)
    direction: Direction = field(metadata=DECIDES)
    target: float = field(metadata=DECIDES)
    eval_every: int = field(default=10, metadata=DECIDES)
    batch_size: int = field(default=64, metadata=DECIDES)
    rounds: int = field(default=1, metadata=GROWS)
    settled: bool | None = field(default=None, metadata=NOTED)
    block: int | None = field(default=None, metadata=NOTED)
    stopped: int | None = field(default=None, metadata=NOTED)
    made_for: float | None = field(default=None, metadata=NOTED)
    target_of: str | None = field(default=None, metadata=NOTED)
    versions: Mapping[str, str] = field(default_factory=dict, metadata=NOTED)
    device: str = field(default="an unknown device", metadata=NOTED)
    machine: str | None = field(default=None, metadata=NOTED)
    code: str | None = field(default=None, metadata=NOTED)

    def config(self, optimizer: Given) -> Config:
        """What all runs with an optimizer share in training."""
        shared = {
            name: getattr(self, name) for name in Config._fields if name != "optimizer"
        }
        return Config(**shared, optimizer=optimizer)

    def rates(self, optimizer: str) -> tuple[float, ...]:
        """The grid of learning rates of an optimizer."""
        return self.grids.get(optimizer) or self.learning_rates or ()

    @property
    def contestants(self) -> dict[str, tuple[str, str]]:
        """Name to scheme and optimizer of all that are compared.

        With one optimizer the name is the scheme's, else "SCHEME under OPTIMIZER".
        """
        one = len(self.optimizers) == 1
        return {
            s if one else f"{s} under {o.removesuffix('()')}": (s, o)
            for o in self.optimizers
            for s in self.schemes
        }

    @property
    def cells(self) -> int:
        """Schemes and learning rates of all optimizers: runs of a seed that tunes."""
        rates = sum(len(self.rates(each)) for each in self.optimizers)
        return len(self.schemes) * rates

    def with_grids(self, grids: Mapping[str, tuple[float, ...]]) -> Settings:
        """The settings with a grid for each optimizer, said once if it is one."""
        shared = len(set(grids.values())) == 1
        return dataclasses.replace(
            self,
            learning_rates=next(iter(grids.values())) if shared else None,
            grids={} if shared else dict(grids),
        )

    @property
    def budget(self) -> int:
        """Steps by which a run that is not at the target has missed it."""
        return self.steps if self.stopped is None else self.stopped

    @property
    def all_seeds(self) -> int:
        """Seeds in all, those that tune included."""
        return self.tuning_seeds + self.rounds * self.seeds

    @property
    def of_several_machines(self) -> bool:
        """Whether runs were made by several, so that their seconds do not compare."""
        return any(_BETWEEN in (text or "") for text in (self.device, self.machine))

    @property
    def is_accuracy(self) -> bool:
        """Whether the metric is a fraction of examples, from 0 to 1."""
        return self.metric_name == "accuracy"

    @property
    def worst_metric(self) -> float:
        """The worst value of the metric, which a diverged run counts as."""
        if self.direction == "min":
            return float("inf")
        return 0.0 if self.is_accuracy else float("-inf")

    def deciding(self) -> dict[str, Any]:
        """What decides the numbers of each run, but scheme, learning rate and seed."""
        return {name: getattr(self, name) for name in names("decides")}

    def differences(self, other: Settings) -> Iterator[tuple[str, Any, Any]]:
        """Name and both values where two sweeps were asked for in different ways."""
        for name in names("decides", "reads"):
            if name == "parts":
                continue  # of which `changed` says which differ
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                yield name, mine, theirs

    def changed(self, other: Settings) -> list[str]:
        """The parts of code and data that all runs of two sweeps differ in, by name."""
        every = {**self.parts, **other.parts}
        found = [p for p in every if self.parts.get(p) != other.parts.get(p)]
        if {"model", "loss"} & set(found):
            return [part for part in found if part != "gradient"]  # which is of both
        return found

    def changed_schemes(self, other: Settings) -> list[str]:
        """The schemes of both sweeps that have one name and different code."""
        both = [each for each in self.schemes if each in other.schemes]
        return [
            scheme
            for scheme in both
            if self.own_schemes.get(scheme) != other.own_schemes.get(scheme)
        ]

    def changed_optimizers(self, other: Settings) -> list[str]:
        """The optimizers of both sweeps that have one name and different code."""
        mine, theirs = self.own_optimizers, other.own_optimizers
        return [o for o in self.optimizers if o in theirs and mine.get(o) != theirs[o]]

    def union(self, new: Settings) -> Settings:
        """The settings of two sweeps that agree, as one; `new` is the later."""
        latest = {
            each.name: value
            for each in dataclasses.fields(Settings)
            if each.metadata["mark"] == "noted"
            and (value := getattr(new, each.name)) != each.default
        }
        latest |= {
            "versions": {
                name: _each(" or ", self.versions.get(name), new.versions.get(name))
                for name in {**self.versions, **new.versions}
            },
            "device": _each(_BETWEEN, self.device, new.device),
            "machine": _each(_BETWEEN, self.machine, new.machine) or None,
            "code": _each(_BETWEEN, self.code, new.code) or None,
            "schemes": tuple(dict.fromkeys((*self.schemes, *new.schemes))),
            "own_schemes": {**self.own_schemes, **new.own_schemes},
            "untraced": tuple(dict.fromkeys((*self.untraced, *new.untraced))),
            "optimizers": tuple(dict.fromkeys((*self.optimizers, *new.optimizers))),
            "own_optimizers": {**self.own_optimizers, **new.own_optimizers},
        }
        both = dataclasses.replace(self, **latest | _more_seeds(self, new))
        both = both.with_grids(
            {each: _rates_of_both(each, self, new) for each in both.optimizers}
        )
        return dataclasses.replace(both, settled=_settled(both, new, self))

    def to_json(self) -> dict[str, Any]:
        """As what JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Settings:
        """What `to_json` gave.

        Raises:
            ValueError: a setting is missing, or not known.
        """
        known = [each.name for each in dataclasses.fields(cls)]
        missing = [name for name in known if name not in content]
        strange = [name for name in content if name not in known]
        if missing or strange:
            what = [f"lacks {_some(missing)}"] if missing else []
            what += [f"has the unknown {_some(strange)}"] if strange else []
            raise ValueError(
                f"{' and '.join(what)}, so that it is no sweep of this version; run "
                "the sweep again."
            )
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
        }
        if isinstance(grids := values["grids"], dict):
            values["grids"] = {
                name: tuple(each) if isinstance(each, list) else each
                for name, each in grids.items()
            }
        kinds = get_type_hints(cls)
        for name, value in values.items():
            least = _LEAST.get(name)
            if not _fits(value, kinds[name]) or (least is not None and value < least):
                raise ValueError(
                    f"has {name}={_checks.shortened(str(value))}, which is no value of "
                    "it, so that the file is damaged; run the sweep again."
                )
        return cls(**values)


_LEAST = {
    "steps": 1, "eval_every": 1, "batch_size": 1, "rounds": 1, "seeds": 0,
    "tuning_seeds": 0, "until_sure": 0,
}  # fmt: skip
"""The least value of each setting that counts something."""


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type as an annotation has it; numbers are finite."""
    parts = get_args(kind)
    match get_origin(kind):
        case typing.Union | types.UnionType:
            return any(_fits(value, part) for part in parts)
        case typing.Literal:
            return value in parts
        case builtins.tuple:
            return isinstance(value, tuple) and all(_fits(v, parts[0]) for v in value)
        case collections.abc.Mapping:
            return isinstance(value, dict) and all(
                _fits(pair, part)
                for item in value.items()
                for pair, part in zip(item, parts, strict=True)
            )
    if kind in (int, float):
        allowed = (int,) if kind is int else (int, float)
        return type(value) in allowed and math.isfinite(value)
    return isinstance(value, kind)


def _some(names: list[str]) -> str:
    """The first few of some names."""
    shown = ", ".join(map(_checks.visible, names[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def names(*marks: Mark) -> list[str]:
    """The fields of `Settings` with one of these marks."""
    fields = dataclasses.fields(Settings)
    return [each.name for each in fields if each.metadata["mark"] in marks]


def scheme_named(option: str, text: str, schemes: Iterable[str]) -> str:
    """The scheme that a text means, as in "he_normal" for "he_normal()".

    Args:
        option: that the text is given to.
        text: a scheme's own text, or one that `parse` reads as the scheme.
        schemes: those of the sweep.

    Raises:
        ValueError: there is no such scheme.
    """
    schemes = tuple(schemes)
    if text not in schemes:
        try:
            written = repr(parse(text))
        except (ValueError, TypeError):
            written = text
        if written in schemes:
            return written
        _checks.choice("report", option, text, schemes)
    return text


def _rates_of_both(optimizer: str, *parts: Settings) -> tuple[float, ...]:
    """The rates that two sweeps have for an optimizer."""
    rates = [p.rates(optimizer) for p in parts if optimizer in p.optimizers]
    return tuple(sorted(set().union(*rates)))


def _more_seeds(old: Settings, new: Settings) -> dict[str, Any]:
    """The seeds of two sweeps together; rounds stay where both have equal ones."""
    if old.seeds == new.seeds or old.rounds == new.rounds == 1:
        rounds = max(old.rounds, new.rounds)
        return {"seeds": max(old.seeds, new.seeds), "rounds": rounds}
    most = max(old.all_seeds, new.all_seeds)
    return {"seeds": most - old.tuning_seeds, "rounds": 1}


def _settled(both: Settings, *parts: Settings) -> bool | None:
    """What a part says of the winner, if it says it of all that there now is."""

    def extent(settings: Settings) -> dict[str, Any]:
        every = {name: getattr(settings, name) for name in names("grows")}
        return {**every, "schemes": frozenset(settings.schemes)}

    said = [p.settled for p in parts if extent(p) == extent(both)]
    return next((each for each in said if each is not None), None)


def _each(between: str, *texts: str | None) -> str:
    """Texts that are lists themselves, as one without repetition."""
    every = (part for text in texts if text for part in text.split(between))
    return between.join(dict.fromkeys(every))
