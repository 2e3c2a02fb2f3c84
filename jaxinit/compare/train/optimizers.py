"""The optimizers: those of Optax as values with a text, a table of them.

Besides its own parameters each takes those of `optimizer.Common`: a schedule with its
warm-up, clipping, weight decay and a moving average of the parameters. Their texts are
what the command line, result files and reports know them by.
"""

from __future__ import annotations

import ast
import functools
import inspect
from typing import Any, TypeAlias, Unpack

import optax
import optax.contrib

from jaxinit import _checks, _text
from jaxinit.compare.train.optimizer import (
    LION_RATES,
    REGISTRY,
    SGD_RATES,
    Common,
    Optimizer,
    Own,
    optimizer,
)

__all__ = [
    "Optimizer",
    "adafactor",
    "adam",
    "adamw",
    "lamb",
    "lion",
    "momentum",
    "muon",
    "nadam",
    "nesterov",
    "parse",
    "rmsprop",
    "sgd",
]

Given: TypeAlias = Optimizer | str | Own
"""An optimizer, its text, or a function from a learning rate, which may be traced, to
an `optax.GradientTransformation`."""


@optimizer(optax.sgd, SGD_RATES, normalizes=False)
def sgd(**keywords: Unpack[Common]) -> None:
    r"""Plain gradient descent, $\theta \leftarrow \theta - \eta g$.

    Args:
        **keywords: as for every optimizer.

    Returns:
        The optimizer.

    Example:
        >>> sgd(schedule="linear", clip=1)
        sgd(schedule='linear', clip=1.0)
    """


@optimizer(optax.sgd, SGD_RATES, normalizes=False)
def momentum(momentum: float = 0.9, **keywords: Unpack[Common]) -> None:
    r"""Heavy ball, $m \leftarrow \mu m + g$, $\theta \leftarrow \theta - \eta m$.

    Args:
        momentum: $\mu$, in [0, 1).
        **keywords: as for every optimizer.

    Returns:
        The optimizer.

    Example:
        >>> momentum(weight_decay=5e-4)(0.1).init([]) is not None
        True

    References:
        Polyak 1964, USSR Comput. Math. Math. Phys. 4(5):1.
    """


@optimizer(functools.partial(optax.sgd, nesterov=True), SGD_RATES, normalizes=False)
def nesterov(momentum: float = 0.9, **keywords: Unpack[Common]) -> None:
    r"""Nesterov's momentum, $m \leftarrow \mu m + g$, with the step $g + \mu m$.

    Args:
        momentum: $\mu$, in [0, 1).
        **keywords: as for every optimizer.

    Returns:
        The optimizer.

    Example:
        >>> nesterov()
        nesterov()

    References:
        Sutskever, Martens, Dahl and Hinton 2013, ICML (momentum in this form).
    """


@optimizer(optax.rmsprop)
def rmsprop(
    decay: float = 0.9,
    eps: float = 1e-8,
    momentum: float | None = None,
    **keywords: Unpack[Common],
) -> None:
    r"""RMSProp, the gradient over $\sqrt{v + \epsilon}$, $v$ an average of its square.

    Args:
        decay: of the average, in [0, 1).
        eps: $\epsilon$, within the root, as Optax has it.
        momentum: of the updates, in [0, 1); None has none.
        **keywords: as for every optimizer.

    Returns:
        The optimizer.

    Example:
        >>> rmsprop(decay=0.99)
        rmsprop(decay=0.99)

    References:
        Tieleman and Hinton 2012, Coursera, lecture 6.5.
    """


@optimizer(optax.adam)
def adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, **keywords: Unpack[Common]
) -> None:
    r"""Adam, the step $\hat m / (\sqrt{\hat v} + \epsilon)$.

    Args:
        b1: decay of the average $m$ of gradients, in [0, 1).
        b2: decay of the average $v$ of their squares, in [0, 1).
        eps: $\epsilon$.
        **keywords: as for every optimizer.

    Returns:
        The optimizer.

    Example:
        >>> adam(b2=0.95, schedule="cosine", warmup=0.1)
        adam(b2=0.95, schedule='cosine', warmup=0.1)

    References:
        Kingma and Ba 2015, arXiv:1412.6980.
    """


def _decayed(make: Any, rate: Any, decay: float, mask: Any, **own: Any) -> Any:
    """What takes weight decay and mask under Optax's usual names."""
    return make(rate, weight_decay=decay, mask=mask, **own)


@optimizer(functools.partial(_decayed, optax.adamw), weight_decay=1e-4)
def adamw(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, **keywords: Unpack[Common]
) -> None:
    r"""Adam with weight decay apart, the step of `adam` plus $\lambda \theta$.

    Of Optax's `adamw` it differs in one default: what decays are the kernels.

    Args:
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of their squares, in [0, 1).
        eps: $\epsilon$ of `adam`.
        **keywords: as for every optimizer; `weight_decay` is 1e-4 if not given.

    Returns:
        The optimizer.

    Example:
        >>> adamw(weight_decay=0.1, schedule="cosine", warmup=0.1, clip=1.0)
        adamw(schedule='cosine', warmup=0.1, clip=1.0, weight_decay=0.1)

    References:
        Loshchilov and Hutter 2019, arXiv:1711.05101.
    """


@optimizer(optax.nadam)
def nadam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, **keywords: Unpack[Common]
) -> None:
    """Adam with Nesterov's momentum.

    Args:
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of their squares, in [0, 1).
        eps: as for `adam`.
        **keywords: as for every optimizer.

    Returns:
        The optimizer.

    Example:
        >>> nadam()
        nadam()

    References:
        Dozat 2016, ICLR workshop.
    """


@optimizer(functools.partial(_decayed, optax.lion), LION_RATES, weight_decay=1e-3)
def lion(b1: float = 0.9, b2: float = 0.99, **keywords: Unpack[Common]) -> None:
    r"""Lion, the sign of $\beta_1 m + (1 - \beta_1) g$, and weight decay apart.

    Args:
        b1: $\beta_1$, in [0, 1).
        b2: decay of the average $m$ of gradients, in [0, 1).
        **keywords: as for every optimizer; `weight_decay` is 1e-3 if not given.

    Returns:
        The optimizer.

    Example:
        >>> lion(weight_decay=0.1)
        lion(weight_decay=0.1)

    References:
        Chen et al. 2023, arXiv:2302.06675.
    """


def _adafactor(rate: Any, decay: float, mask: Any, **own: Any) -> Any:
    return optax.adafactor(
        rate, weight_decay_rate=decay or None, weight_decay_mask=mask, **own
    )


@optimizer(_adafactor, SGD_RATES, weight_decay=0.0)
def adafactor(
    decay_rate: float = 0.8,
    momentum: float | None = None,
    min_dim_size_to_factor: int = 128,
    **keywords: Unpack[Common],
) -> None:
    """Adafactor: second moments by rows and columns, steps relative to the parameters.

    A parameter of zeros moves by a thousandth of the learning rate. Weight decay is
    added after the learning rate, as Optax has it, and not multiplied with it.

    Args:
        decay_rate: power with which the average of squares comes to forget.
        momentum: of the updates, in [0, 1); None has none.
        min_dim_size_to_factor: axes of a kernel that are shorter are not factored.
        **keywords: as for every optimizer.

    Returns:
        The optimizer.

    Example:
        >>> adafactor(momentum=0.9)
        adafactor(momentum=0.9)

    References:
        Shazeer and Stern 2018, arXiv:1804.04235.
    """


@optimizer(functools.partial(_decayed, optax.lamb), SGD_RATES, weight_decay=0.0)
def lamb(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6, **keywords: Unpack[Common]
) -> None:
    """LAMB: steps of Adam scaled to the norm of each parameter.

    Args:
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of their squares, in [0, 1).
        eps: as for `adam`.
        **keywords: as for every optimizer.

    Returns:
        The optimizer.

    Example:
        >>> lamb()
        lamb()

    References:
        You et al. 2020, arXiv:1904.00962.
    """


def _muon(rate: Any, decay: float, mask: Any, **own: Any) -> Any:
    # Its own parameters are all matrices, so that they decay with either mask.
    return optax.contrib.muon(rate, weight_decay=decay, **own)


@optimizer(_muon, SGD_RATES, weight_decay=0.0)
def muon(
    beta: float = 0.95,
    ns_steps: int = 5,
    nesterov: bool = True,
    consistent_rms: float | None = None,
    **keywords: Unpack[Common],
) -> None:
    r"""Muon: momentum made orthogonal for every leaf of two axes, Adam for all others.

    Args:
        beta: decay of the momentum, in [0, 1).
        ns_steps: Newton-Schulz iterations.
        nesterov: whether the momentum is Nesterov's.
        consistent_rms: factor of $\sqrt{\max(\text{fan in}, \text{fan out})}$ in
            the step, 0.2 for steps as large as Adam's; None for
            $\sqrt{\max(1, \text{fan out} / \text{fan in})}$.
        **keywords: as for every optimizer; what decays are the leaves of two axes.

    Returns:
        The optimizer.

    Example:
        >>> muon(consistent_rms=0.2)
        muon(consistent_rms=0.2)

    References:
        Jordan et al. 2024, github.com/KellerJordan/Muon; Liu et al. 2025,
        arXiv:2502.16982 (`consistent_rms`).
    """


def parse(text: str) -> Optimizer:
    """The optimizer that a text such as `adamw(weight_decay=0.1)` names.

    Args:
        text: a name, or a call of a name with literal arguments; nothing is evaluated.

    Returns:
        The optimizer; `parse(repr(optimizer)) == optimizer`.

    Raises:
        ValueError: the text has another form, names an unknown optimizer, or gives a
            value out of range.
        TypeError: it is no text, or the optimizer has no such parameter.

    Example:
        >>> parse("adamw(weight_decay=0.1, clip=1)")
        adamw(clip=1.0, weight_decay=0.1)
    """
    if not isinstance(text, str):
        raise TypeError(
            f"an optimizer's text of type {type(text).__name__} must be a str, such as "
            "'adam(b2=0.95)'."
        )
    try:
        call = _text.taken_apart(_text.parsed(text), text)
        args = [ast.literal_eval(each) for each in call.args]
        kwargs = {name: ast.literal_eval(each) for name, each in call.kwargs.items()}
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(
            f"{_checks.shortened(text)} is no optimizer; use a name or a call with "
            "each argument once, such as 'adamw(weight_decay=0.1, clip=1.0)'."
        ) from None
    if call.name not in REGISTRY:
        raise ValueError(
            f"optimizer={_checks.shortened(text)} is unknown; use one of "
            f"{', '.join(REGISTRY)}, or a function from a learning rate to an "
            "optax.GradientTransformation."
        )
    return REGISTRY[call.name](*args, **kwargs)


def as_optimizer(given: Given) -> Optimizer | Own:
    """What is given as an optimizer.

    Raises:
        ValueError: a text is none of an optimizer.
        TypeError: it is something else.
    """
    if isinstance(given, str):
        return parse(given)
    if isinstance(given, Optimizer):
        return given
    name = getattr(given, "__name__", "")
    if REGISTRY.get(name) is given:
        return REGISTRY[name]()  # the builder itself, as in optimizers=[adam]
    if not callable(given) or inspect.isclass(given):
        raise TypeError(
            f"compare: optimizer {_checks.shortened(repr(given))} must be one of "
            "jaxinit.compare.optimizers, its text, or a function from a learning rate "
            "to an optax.GradientTransformation."
        )
    return given
