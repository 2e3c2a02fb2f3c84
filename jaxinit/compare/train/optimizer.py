"""The one mechanism of optimizers: values with a text, around what Optax has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypedDict

import jax
import jax.numpy as jnp
import optax

from jaxinit import _checks
from jaxinit._value import Builder, Value
from jaxinit.compare.task.values import name_of

P = ParamSpec("P")

Rate: TypeAlias = Any
"""A learning rate, which may be traced, or a schedule of Optax."""

Own: TypeAlias = Callable[[Any], optax.GradientTransformation]
"""A function of the user's from a learning rate, which may be traced."""

SGD_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
ADAM_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
LION_RATES = (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01)

OWN = "its own optimizer"
"""What stands for the optimizer that a training of one's own has within."""


def of_training(learning_rate: Any) -> Any:
    """What stands in its place; it is not called."""
    raise AssertionError(f"{OWN} is within its step")


REGISTRY: dict[str, Callable[..., Optimizer]] = {}
"""The optimizers by name."""


class Common(TypedDict, total=False):
    """What every optimizer takes besides its own parameters."""

    schedule: str
    warmup: float
    cooldown: float
    clip: float | None
    weight_decay: float
    decays: str
    ema: float | None


DEFAULTS: Mapping[str, Any] = {
    "schedule": "constant",
    "warmup": 0.0,
    "cooldown": 0.2,
    "clip": None,
    "weight_decay": 0.0,
    "decays": "kernels",
    "ema": None,
}

MEANINGS: Mapping[str, str] = {
    "schedule": "how the learning rate goes on after the warm-up, 'constant', 'cosine' "
    "or 'linear' to zero at the end of the run, or 'wsd', which is constant but for a "
    "linear cool-down to zero.",
    "warmup": "how long the rate rises linearly from zero: below 1 a fraction of the "
    "run's steps, else a number of steps.",
    "cooldown": "how long the end of 'wsd' is, given likewise.",
    "clip": "greatest global norm of the gradient, before all else; None clips not.",
    "weight_decay": "factor of the parameters that is added to the update, the "
    "learning rate included, where Optax's optimizer has a weight decay of its own, "
    "and else to the gradient, as in PyTorch.",
    "decays": "what decays, the 'kernels' (leaves of two axes or more) or 'all'.",
    "ema": "decay of an exponential moving average of the parameters, without bias "
    "towards the first; the averaged ones are evaluated, and those that are trained "
    "stay as they are. None averages not.",
}

SCHEDULES: Mapping[str, Callable[[Any, int, int], list[tuple[int, Any]]]] = {
    "constant": lambda rate, steps, cooldown: [(steps, optax.constant_schedule(rate))],
    "cosine": lambda rate, steps, cooldown: [
        (steps, optax.cosine_decay_schedule(rate, steps))
    ],
    "linear": lambda rate, steps, cooldown: [
        (steps, optax.linear_schedule(rate, 0.0, steps))
    ],
    "wsd": lambda rate, steps, cooldown: [
        (steps - cooldown, optax.constant_schedule(rate)),
        (cooldown, optax.linear_schedule(rate, 0.0, cooldown)),
    ],
}
"""By name from the rate, the steps after the warm-up and those of the cool-down to
pieces: how long each is, and its schedule."""


class Optimizer(Value):
    """An optimizer: a frozen, hashable value that prints as it is read.

    Called with a learning rate, which may be traced, and the steps of the run, it gives
    the `optax.GradientTransformation`.

    Attributes:
        name: its name.
        arguments: a read-only mapping from parameter names to values.
    """

    __slots__ = ()

    _builder: _OptimizerBuilder

    @property
    def rates(self) -> tuple[float, ...]:
        """The grid of learning rates by default."""
        return self._builder.rates

    @property
    def normalizes(self) -> bool:
        """Whether the size of an update does not follow that of the gradient."""
        return self._builder.normalizes

    def __call__(
        self, learning_rate: Any, steps: int | None = None
    ) -> optax.GradientTransformation:
        """The transformation of Optax.

        Args:
            learning_rate: scalar, the greatest that a schedule has; may be traced.
            steps: of the whole run; needed where the rate has a schedule.

        Returns:
            From gradients to updates. The moving average of `ema` is none of it, for
            it is of parameters that have been updated.

        Raises:
            ValueError: the schedule is longer than the run, or steps are missing.
        """
        given = self.arguments
        rate = self._schedule(learning_rate, steps)
        own = {k: v for k, v in given.items() if k not in DEFAULTS}
        mask = None if given["decays"] == "all" else kernels
        decay: Any = given["weight_decay"]
        if self._builder.has_decay:
            found = self._builder.optax_of(rate, decay, mask, **own)
            decay = 0.0
        else:
            found = self._builder.optax_of(rate, **own)
        parts = []
        if given["clip"] is not None:
            parts.append(optax.clip_by_global_norm(given["clip"]))
        if decay:
            parts.append(optax.add_decayed_weights(decay, mask))
        return optax.chain(*parts, found) if parts else found

    def _schedule(self, rate: Any, steps: int | None) -> Rate:
        """The rate, or its schedule where it changes."""
        given = self.arguments
        if given["schedule"] == "constant" and not given["warmup"]:
            return rate
        if steps is None:
            raise ValueError(
                f"{self!r}: a schedule needs to know how long it is; give steps=."
            )
        warmup = _steps_of(given["warmup"], steps)
        cooldown = 0
        if given["schedule"] == "wsd":
            cooldown = max(1, _steps_of(given["cooldown"], steps))
        if warmup + cooldown >= steps:
            what = f"and a cool-down of {cooldown} " if cooldown else ""
            raise ValueError(
                f"{self!r}: a warm-up of {warmup} steps {what}leaves nothing of a run "
                f"of {steps} steps; take a shorter one, or more steps."
            )
        pieces = SCHEDULES[given["schedule"]](rate, steps - warmup, cooldown)
        if warmup:
            pieces = [(warmup, optax.linear_schedule(0.0, rate, warmup)), *pieces]
        ends = [0]
        for length, _ in pieces:
            ends.append(ends[-1] + length)
        if len(pieces) == 1:
            return pieces[0][1]
        return optax.join_schedules([each for _, each in pieces], ends[1:-1])

    @staticmethod
    def _restored(made_by: str | Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """A value from its pickle."""
        public = REGISTRY[made_by] if isinstance(made_by, str) else made_by
        return public(**arguments)


def kernels(params: Any) -> Any:
    """Which leaves decay: those of two axes or more, as a tree of booleans."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)


def _steps_of(length: float, steps: int) -> int:
    """A length in steps, of a fraction of the run or of a number of steps."""
    return round(length * steps) if length < 1 else int(length)


class _OptimizerBuilder(Builder):
    """What is known of one optimizer.

    Attributes:
        optax_of: from the rate and its own parameters to the transformation; one that
            has a weight decay of its own takes that and its mask after the rate.
        rates: the grid by default.
        normalizes: as the attribute of `Optimizer`.
        has_decay: whether Optax's optimizer has a weight decay of its own.
    """

    def __init__(
        self,
        build: Callable[..., Any],
        optax_of: Callable[..., optax.GradientTransformation],
        rates: tuple[float, ...],
        normalizes: bool,
        weight_decay: float | None,
    ) -> None:
        self.optax_of, self.rates, self.normalizes = optax_of, rates, normalizes
        self.has_decay = weight_decay is not None
        defaults = {**DEFAULTS, "weight_decay": weight_decay or 0.0}
        super().__init__(build, defaults=defaults, meanings=MEANINGS)

    def make(self, arguments: dict[str, Any]) -> Optimizer:
        """The value, whose parameters are in range."""
        name = self.name
        _checks.choice(name, "schedule", arguments["schedule"], SCHEDULES)
        _checks.choice(name, "decays", arguments["decays"], ("kernels", "all"))
        _checks.number(name, positive=True, clip=arguments["clip"])
        least = ("warmup", "cooldown", "weight_decay")
        _checks.number(name, minimum=0.0, **{each: arguments[each] for each in least})
        for each in ("warmup", "cooldown"):
            length = arguments[each]
            if length >= 1 and length != int(length):
                raise ValueError(
                    f"{name}: {each}={length:g} must be a fraction of the run below 1, "
                    "or a whole number of steps."
                )
        for each, value in arguments.items():
            averages = each in ("b1", "b2", "beta", "momentum", "decay", "ema")
            if averages and value is not None and not 0 <= value < 1:
                raise ValueError(f"{name}: {each}={value:g} must lie in [0, 1).")
            if each == "eps":
                _checks.number(name, minimum=0.0, eps=value)
        return Optimizer(self, arguments)

    def enter(self, public: Any) -> None:
        """Enter it among the optimizers."""
        REGISTRY[self.name] = public


def optimizer(
    optax_of: Callable[..., optax.GradientTransformation],
    rates: tuple[float, ...] = ADAM_RATES,
    normalizes: bool = True,
    weight_decay: float | None = None,
) -> Callable[[Callable[P, None]], Callable[P, Optimizer]]:
    """Turn a signature and its docstring into an optimizer's builder.

    Args:
        optax_of: what makes the transformation, from the rate and the parameters of
            the signature that are not common to all.
        rates: the grid of learning rates by default.
        normalizes: as the attribute of `Optimizer`.
        weight_decay: the default, where Optax's optimizer has a weight decay of its
            own; it is then given with its mask after the rate.
    """

    def published(build: Callable[..., Any]) -> Any:
        return _OptimizerBuilder(
            build, optax_of, rates, normalizes, weight_decay
        ).published()

    return published


class Average(NamedTuple):
    """The state of a moving average of parameters.

    Attributes:
        state: of `optax.ema`.
    """

    state: optax.EmaState


def in_training(
    how: Optimizer | Own, learning_rate: Any, scales: Any, steps: int
) -> optax.GradientTransformation:
    """An optimizer as a run has it, with what comes after its updates.

    Args:
        how: the optimizer, or a function of the user's.
        learning_rate: of the run.
        scales: what updates are multiplied with, weight decay included, a tree like
            the parameters, as by a learning rate for each of them; None for ones.
        steps: of the run.

    Returns:
        From gradients to the updates that are added to the parameters.
    """
    own = isinstance(how, Optimizer)
    parts = [how(learning_rate, steps) if own else how(learning_rate)]
    if scales is not None:

        def scaled(updates: Any, params: Any) -> Any:
            return jax.tree.map(jnp.multiply, updates, scales)

        parts.append(optax.stateless(scaled))
    if own and how.arguments["ema"] is not None:
        parts.append(_average(how.arguments["ema"]))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def _average(decay: float) -> optax.GradientTransformation:
    """What leaves updates alone, and averages the parameters that they lead to."""
    ema = optax.ema(decay, debias=False)

    def start(params: Any) -> Any:
        begun: Any = ema.init(params)
        return Average(begun)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        average: Any = ema.update(optax.apply_updates(params, updates), state.state)[1]
        return updates, Average(average)

    return optax.GradientTransformation(start, update)


def evaluated(how: Optimizer | Own, params: Any, state: Any) -> Any:
    """The parameters that are evaluated: averaged ones where the optimizer averages.

    Args:
        how: the optimizer.
        params: the trained parameters.
        state: of what `in_training` gives.
    """
    if not isinstance(how, Optimizer) or how.arguments["ema"] is None:
        return params
    average, decay = state[-1].state, how.arguments["ema"]
    began = average.count > 0
    count = jnp.where(began, average.count, 1)
    return jax.tree.map(
        lambda mean, now: jnp.where(began, mean, now),
        optax.tree.bias_correction(average.ema, decay, count),
        params,
    )


def text_of(how: Optimizer | Own) -> str:
    """An optimizer's text; of a function its name."""
    return repr(how) if isinstance(how, Optimizer) else name_of(how)


def check(owner: str, how: Optimizer | Own, steps: int, params: Any = None) -> None:
    """Raise unless an optimizer gives a transformation for a run of so many steps.

    Args:
        owner: for what errors say.
        how: the optimizer.
        steps: of the run.
        params: parameters, or their shapes and dtypes, that it is to train.

    Raises:
        ValueError: its schedule does not fit, or it fails on such parameters.
        TypeError: it gives no transformation.
    """
    if isinstance(how, Optimizer):
        how(0.1, steps)
        return
    try:
        found = how(jnp.float32(0.1))
    except Exception as error:
        raise ValueError(
            f"{owner}: the optimizer {text_of(how)} fails at the learning rate 0.1 "
            f"({type(error).__name__}: {_first_line(error)}); it must be a function "
            "of a learning rate, which may be traced."
        ) from error
    if not (hasattr(found, "init") and hasattr(found, "update")):
        raise TypeError(
            f"{owner}: the optimizer {text_of(how)} gives a {type(found).__name__}; it "
            "must be a function of a learning rate that returns an "
            "optax.GradientTransformation."
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
