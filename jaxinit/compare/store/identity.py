"""What decides the numbers of a sweep's runs, and the names of runs made of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxinit.compare.store import provenance
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.task.check import form, program_of
from jaxinit.compare.task.programs import Fingerprint, fingerprint
from jaxinit.compare.task.task import Task
from jaxinit.compare.task.values import Digests
from jaxinit.compare.train.initial import Draws, Scheme
from jaxinit.compare.train.optimizer import OWN, Optimizer, Own, in_training, text_of
from jaxinit.compare.train.trainer import Config, in_precision


class Identity(NamedTuple):
    """The code and data that decide the numbers of a sweep's runs.

    Attributes:
        parts: the digests of "data", "model", "loss", "metric" and "gradient", and the
            version of "jaxinit".
        own_schemes: the digest of each scheme that is the user's own. Those of jaxinit
            are known by their text and its version.
        own_optimizers: the digest of each optimizer.
        untraced: what no program tells, in words.
    """

    parts: dict[str, str]
    own_schemes: dict[str, str]
    own_optimizers: dict[str, str]
    untraced: tuple[str, ...]


def identity(
    task: Task,
    config: Config,
    schemes: Mapping[str, Scheme],
    optimizers: Mapping[str, Optimizer | Own],
) -> Identity:
    """The code and data that decide the numbers of a sweep's runs; none is run.

    Args:
        task: what is learned.
        config: what all runs share; its optimizer is none of it.
        schemes: text to scheme.
        optimizers: text to optimizer.

    Raises:
        ValueError: the task cannot be trained so, or a scheme does not fit it.
    """
    low = config.dtype != "float32"
    apply = in_precision(task.model.apply, config) if low else None
    traced = task.traced(config.batch_size, apply)
    parts = {"data": task.data(), **traced.parts}
    steps = {
        name: _optimizer(each, config.steps, traced.params)
        for name, each in optimizers.items()
        if name != OWN  # which is part of the training's step
    }
    own = {name: scheme for name, scheme in schemes.items() if _is_own(scheme)}
    draws = Draws(task, config, own) if own else None
    drawn = {name: _drawn(name, each, draws) for name, each in own.items()}
    untraced = [*parts["data"].untraced]
    for part in ("model", "loss", "metric"):
        untraced += [f"{what} in the {part}" for what in parts[part].untraced]
    for name, each in drawn.items():
        untraced += [f"{what} in the scheme {name}" for what in each.untraced]
    for name, each in steps.items():
        untraced += [f"{what} in the optimizer {name}" for what in each.untraced]
    return Identity(
        {
            **{part: each.digest for part, each in parts.items()},
            "jaxinit": provenance.versions()["jaxinit"],
        },
        {name: each.digest for name, each in drawn.items()},
        {name: each.digest for name, each in steps.items()},
        tuple(dict.fromkeys(untraced)),
    )


def run_id(
    settings: Settings, scheme: str, optimizer: str, learning_rate: float, seed: int
) -> str:
    """The name of a run: the same in every sweep, and whatever else is run there.

    Args:
        settings: of the sweep; what they mark as deciding is in the name, and so are
            the digests of a scheme of the user's own and of the optimizer.
        scheme: its text.
        optimizer: its text.
        learning_rate: of the run.
        seed: of the run.

    Returns:
        16 hexadecimal digits.
    """
    content = {
        **settings.deciding(),
        "scheme": [scheme, settings.own_schemes.get(scheme)],
        "optimizer": [optimizer, settings.own_optimizers.get(optimizer)],
        "learning_rate": learning_rate,
        "seed": seed,
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_own(scheme: Scheme) -> bool:
    """Whether a scheme, or a function that it is made with, is no package's."""
    digests = Digests()
    digests.of(scheme)
    return digests.own


def _drawn(name: str, scheme: Scheme, draws: Any) -> Fingerprint:
    """The fingerprint of what a scheme draws; of its code where that has no program."""
    try:
        program = draws.program(name)
    except Exception:  # a fault of the scheme's is raised where it draws
        return Fingerprint(Digests().of(scheme).hex(), ("what is drawn",))
    return fingerprint(program)


def _optimizer(how: Optimizer | Own, steps: int, params: Any) -> Fingerprint:
    """The fingerprint of an optimizer: how it begins, and what a step does.

    Raises:
        ValueError: it does not train these parameters.
    """
    rate = jax.ShapeDtypeStruct((), jnp.float32)

    def start(rate: Any, params: Any) -> Any:
        return in_training(how, rate, None, steps).init(params)

    def update(rate: Any, *given: Any) -> Any:
        return in_training(how, rate, None, steps).update(*given)

    try:
        begun, state = program_of(start, rate, params)
        step, (updates, after) = program_of(update, rate, params, state, params)
    except Exception as error:
        said = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"compare: the optimizer {text_of(how)} does not train the parameters of "
            f"this task ({type(error).__name__}: {said})."
        ) from error
    for what, old, new in (("updates", params, updates), ("a state", state, after)):
        if form(old) != form(new):
            raise ValueError(
                f"compare: the optimizer {text_of(how)} gives {what} of another form "
                "than it takes; its update must keep structure, shapes and dtypes."
            )
    return fingerprint(begun, step)
