"""Scales that are learned before training: by the curvature, or by the first step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _checks
from jaxinit._types import Array, Key, is_array
from jaxinit.calibrate._sample import Sampler
from jaxinit.calibrate._scheme import Base, Loss, Made, Situation, calibrated
from jaxinit.tree._leaves import leaves_of


class Learned(NamedTuple):
    """How the objective went.

    Attributes:
        objective: at each step, the last included.
        norm: of the gradient, at each step.
    """

    objective: Array
    norm: Array


@calibrated(cites=("dauphin2019",), needs_inputs=False)
def metainit(
    base: Base = "he_normal()",
    steps: int = 500,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
):
    r"""Norms at which a step of gradient descent is least disturbed by curvature.

    The gradient quotient of a loss with gradient $g$ and Hessian $H$,

    $GQ = \frac{1}{n} \sum_i \left| \frac{g_i - (H g)_i}{g_i + \epsilon\,
    \mathrm{sgn}(g_i)} - 1 \right|$,

    is lowered over the norm of each weight of two axes or more, by the sign of its
    derivative with momentum. The data are noise: inputs from $\mathcal{N}(0, 1)$,
    64 at least, integers uniform over their table, and labels uniform over the classes,
    new at each step. A step takes nine tenths of a norm at most, so that no weight
    changes its sign. All steps are one compiled loop.

    Args:
        base: the scheme that draws first; None keeps the parameters as they come.
        steps: how many.
        learning_rate: of the norms, as a step of each.
        momentum: of their steps.
        epsilon: $\epsilon$.

    Returns:
        A `CalibratedScheme`.

    Raises:
        ValueError: a number is out of range; or, where it is used, the model returns no
            scores of two classes or more.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> params = {"w": jnp.ones((8, 16)), "v": jnp.ones((16, 4))}
        >>> apply = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> scheme = jaxinit.calibrate.metainit(steps=20)
        >>> x = jax.ShapeDtypeStruct((64, 8), jnp.float32)
        >>> new = scheme(jax.random.key(0), params, apply, (x,))
        >>> new["w"].shape
        (8, 16)

    References:
        Dauphin and Schoenholz 2019, "MetaInit: Initializing Learning by Learning to
        Initialize".
    """
    _check_steps("metainit", steps)
    _checks.number("metainit", positive=True, learning_rate=learning_rate)
    _checks.number("metainit", positive=True, epsilon=epsilon)
    _checks.number("metainit", minimum=0, momentum=momentum)

    def make(at: Situation) -> Made:
        return _MetaInit(at, steps, learning_rate, momentum, epsilon)

    return make


@calibrated(cites=("zhu2021",), needs_loss=True)
def gradinit(
    base: Base = "he_normal()",
    steps: int = 390,
    step_size: float = 0.1,
    norm: float = 1.0,
    least: float = 0.01,
    learning_rate: float = 0.01,
):
    r"""Scales at which the first step of gradient descent lowers the loss most.

    Each leaf $\theta_k$ has a scale $m_k$, at first 1. With $g$ the gradient of the
    loss $L$ on a batch by the scaled leaves, each step lowers

    $L(m \theta - \eta g)$ if $\lVert g \rVert_2 \le \gamma$, and $\lVert g \rVert_2$
    otherwise,

    over the scales, which stay above a bound. The loss after the step is taken on other
    examples, half of which the gradient has seen. All steps are one compiled loop. They
    are Adam's, with a rate that is a choice of this library.

    Args:
        base: the scheme that draws first; None keeps the parameters as they come.
        steps: how many.
        step_size: $\eta$.
        norm: $\gamma$.
        least: the bound of a scale.
        learning_rate: of the scales.

    Returns:
        A `CalibratedScheme`, which needs a loss.

    Raises:
        ValueError: a number is out of range; or, where it is used, no loss is given.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> params = {"w": jnp.ones((8, 16)), "v": jnp.ones((16, 1))}
        >>> apply = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> x = jax.random.normal(jax.random.key(1), (64, 8))
        >>> loss = lambda out: jnp.square(out[:, 0] - x[:, 0])
        >>> scheme = jaxinit.calibrate.gradinit(steps=20)
        >>> new = scheme(jax.random.key(0), params, apply, (x,), loss)
        >>> new["w"].shape
        (8, 16)

    References:
        Zhu et al. 2021, arXiv:2102.08098, algorithm 1 for gradient descent.
    """
    _check_steps("gradinit", steps)
    _checks.number("gradinit", positive=True, step_size=step_size, norm=norm)
    _checks.number("gradinit", positive=True, learning_rate=learning_rate)
    _checks.number("gradinit", minimum=0, least=least)

    def make(at: Situation) -> Made:
        return _GradInit(at, steps, step_size, norm, least, learning_rate)

    return make


def _check_steps(owner: str, steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"{owner}: steps={steps!r} must be an integer from 1.")


class _Learner:
    """What schemes that learn scales have in common."""

    def __init__(self, owner: str, at: Situation, axes: int) -> None:
        self.owner = owner
        self.apply = at.apply
        leaves, _ = leaves_of(at.params)
        self.moved = [
            k
            for k, leaf in enumerate(leaves)
            if jnp.issubdtype(leaf.value.dtype, jnp.floating)
            and len(leaf.value.shape) >= axes
        ]
        if not any(len(leaves[k].value.shape) > 1 for k in self.moved):
            raise ValueError(
                f"{owner}: the model has no weight of two axes or more; there is "
                "nothing to scale."
            )

    def parts(self, params: Any) -> tuple[list[Array], Callable[[Sequence[Any]], Any]]:
        """The leaves that are scaled, and from their new values to parameters."""
        leaves, rebuild = leaves_of(params)
        every = [leaf.value for leaf in leaves]

        def back(values: Sequence[Any]) -> Any:
            made = list(every)
            for k, value in zip(self.moved, values, strict=True):
                made[k] = value.astype(made[k].dtype)
            return rebuild(made)

        return [every[k] for k in self.moved], back

    def tell(self, measured: Learned) -> None:
        """Warn where the objective has not gone down, or is not finite."""
        objective = np.asarray(measured.objective)
        if not np.isfinite(objective).all():
            at = int(np.argmin(np.isfinite(objective)))
            warnings.warn(
                f"{self.owner}: what is lowered is not finite from step {at} on; the "
                "scales of that step are kept: take a smaller learning_rate, or a base "
                "of smaller kernels.",
                stacklevel=5,
            )


class _MetaInit(_Learner):
    """Norms that lower the gradient quotient."""

    def __init__(
        self, at: Situation, steps: int, rate: float, momentum: float, epsilon: float
    ) -> None:
        super().__init__("metainit", at, axes=2)
        self._sampler = Sampler("metainit", at.apply, at.params, at.inputs, 64)
        self._numbers = rate, momentum, epsilon
        self._steps = steps
        outs = jax.eval_shape(at.apply, at.params, *self._sampler.shapes)
        shapes = [x.shape for x in jax.tree.leaves(outs) if is_array(x)]
        if len(shapes) != 1 or not shapes[0] or shapes[0][-1] < 2:
            raise ValueError(
                f"metainit: the model returns arrays of shapes {shapes}; it needs one, "
                "of scores of two classes or more along the last axis."
            )

    def __call__(
        self, key: Key, params: Any, inputs: Sequence[Any]
    ) -> tuple[Any, Learned]:
        """Learn the norms."""
        rate, momentum, epsilon = self._numbers

        @jax.jit
        def run(key: Key, params: Any, inputs: Sequence[Any]) -> Any:
            weights, back = self.parts(params)

            def quotient(weights: list[Array], key: Key) -> tuple[Array, Array]:
                one, other = jax.random.split(key)
                x = self._sampler(one, inputs)

                def loss(weights: list[Array]) -> Array:
                    (scores,) = jax.tree.leaves(self.apply(back(weights), *x))
                    told = jax.nn.log_softmax(scores.astype(float))
                    shape, classes = scores.shape[:-1], scores.shape[-1]
                    labels = jax.random.randint(other, shape, 0, classes)
                    chosen = jnp.take_along_axis(told, labels[..., None], -1)
                    return -chosen.mean()

                grad = jax.grad(loss)
                g, hg = jax.jvp(grad, (weights,), (grad(weights),))
                total = jnp.zeros(())
                for a, b in zip(g, hg, strict=True):
                    sign = jnp.where(jax.lax.stop_gradient(a) >= 0, 1.0, -1.0)
                    total += jnp.abs((a - b) / (a + epsilon * sign) - 1).sum()
                count = sum(each.size for each in weights)
                squares = sum((jnp.square(each).sum() for each in g), jnp.zeros(()))
                return total / count, jnp.sqrt(squares)

            def step(state: Any, key: Key) -> Any:
                weights, memory = state
                both = jax.value_and_grad(quotient, has_aux=True)
                (value, size), slopes = both(weights, key)
                new, kept = [], []
                for w, slope, m in zip(weights, slopes, memory, strict=True):
                    norm = jnp.linalg.norm(w)
                    m = momentum * m - rate * jnp.sign(jnp.vdot(w, slope))
                    good = jnp.isfinite(value) & (norm > 0)
                    by = jnp.maximum(1 + m / jnp.where(norm > 0, norm, 1), 0.1)
                    new.append(jnp.where(good, by * w, w))
                    kept.append(m)
                return (new, kept), (value, size)

            wide = [w.astype(jnp.promote_types(w.dtype, float)) for w in weights]
            memory = [jnp.zeros(()) for _ in wide]
            keys = jax.random.split(key, self._steps)
            (wide, _), seen = jax.lax.scan(step, (wide, memory), keys)
            return back(wide), Learned(*seen)

        return run(key, params, tuple(inputs))


class _GradInit(_Learner):
    """Scales that lower the loss after a step."""

    def __init__(
        self,
        at: Situation,
        steps: int,
        step_size: float,
        norm: float,
        least: float,
        rate: float,
    ) -> None:
        super().__init__("gradinit", at, axes=0)
        assert at.loss is not None
        self._loss: Loss = at.loss
        self._numbers = step_size, norm, least, rate
        self._steps = steps

    def __call__(
        self, key: Key, params: Any, inputs: Sequence[Any]
    ) -> tuple[Any, Learned]:
        """Learn the scales."""
        eta, bound, least, rate = self._numbers

        @jax.jit
        def run(key: Key, params: Any, inputs: Sequence[Any]) -> Any:
            leaves, back = self.parts(params)

            def losses(leaves: list[Array], share: Array) -> Array:
                each = self._loss(self.apply(back(leaves), *inputs)).astype(float)
                rows = each.reshape(len(each), -1).mean(1) if each.ndim else each
                if not rows.ndim:
                    return rows
                return (rows * share).sum() / share.sum()

            def scaled(scales: Array) -> list[Array]:
                return [
                    m.astype(x.dtype) * x for m, x in zip(scales, leaves, strict=True)
                ]

            def of(scales: Array, shares: Any) -> Any:
                at = scaled(scales)
                g = jax.grad(losses)(at, shares[0])
                squares = sum((jnp.square(x).sum() for x in g), jnp.zeros(()))
                size = jnp.sqrt(jnp.where(squares > 0, squares, 1e-30))
                after = [x - eta * y for x, y in zip(at, g, strict=True)]
                value = losses(after, shares[1])
                return jnp.where(size > bound, size, value), (value, size)

            count = max(len(x) for x in jax.tree.leaves(inputs) if x.ndim)

            def step(state: Any, at: Any) -> Any:
                scales, first, second = state
                t, key = at
                order = jax.random.permutation(key, count) / count
                # Of each gradient's half of the batch the next loss sees a half.
                one = (order < 0.5).astype(float)
                two = ((order >= 0.25) & (order < 0.75)).astype(float)
                slope, told = jax.grad(of, has_aux=True)(scales, (one, two))
                slope = jnp.where(jnp.isfinite(slope), slope, 0)
                first = 0.9 * first + 0.1 * slope
                second = 0.999 * second + 0.001 * jnp.square(slope)
                mean, square = first / (1 - 0.9**t), second / (1 - 0.999**t)
                scales = scales - rate * mean / (jnp.sqrt(square) + 1e-8)
                return (jnp.maximum(scales, least), first, second), told

            zeros = jnp.zeros(len(leaves))
            times = jnp.arange(1, self._steps + 1).astype(float)
            each = times, jax.random.split(key, self._steps)
            (scales, _, _), seen = jax.lax.scan(step, (zeros + 1, zeros, zeros), each)
            return back(scaled(scales)), Learned(*seen)

        return run(key, params, tuple(inputs))
