"""Each feature of each layer centred and of unit variance, on a batch of data."""

from __future__ import annotations

from jaxinit.calibrate._balance import Balance
from jaxinit.calibrate._scheme import Base, Made, Situation, calibrated
from jaxinit.calibrate._units import Targets
from jaxinit.trace import program


@calibrated(cites=("salimans2016",))
def weight_norm(base: Base = "normal(0.05)"):
    r"""The initialization from data of weight normalization.

    With $t = v \cdot x / \lVert v \rVert$ over a batch, each feature gets

    $g = 1 / \sigma[t], \quad b = -\mu[t] / \sigma[t]$,

    so that its pre-activation $g t + b$ has mean zero and unit variance. It serves
    models with plain kernels, $w = g v / \lVert v \rVert$: column by column a kernel is
    scaled, and the bias behind it set, in one pass and in order of execution. A kernel
    without a bias is scaled alone. Kernels that are used more than once, that do not
    keep their features along axes of their own, or that the model itself divides by
    their norm, stay as they are and are named.

    Args:
        base: the scheme that draws the directions $v$; None keeps the parameters.

    Returns:
        A `CalibratedScheme`.

    Raises:
        TypeError: `base` is no scheme, or has learning rates of its own (`mup`).

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> params = {"w": jnp.ones((8, 4)), "b": jnp.zeros(4)}
        >>> apply = lambda p, x: x @ p["w"] + p["b"]
        >>> x = 3 + jax.random.normal(jax.random.key(1), (64, 8))
        >>> scheme = jaxinit.calibrate.weight_norm()
        >>> out = apply(scheme(jax.random.key(0), params, apply, (x,)), x)
        >>> jnp.abs(out.mean(0)).max() < 1e-5, jnp.abs(out.std(0) - 1).max() < 1e-5
        (Array(True, dtype=bool), Array(True, dtype=bool))

    References:
        Salimans and Kingma 2016, arXiv:1602.07868, equation 6.
    """

    def make(at: Situation) -> Made:
        traced = program(at.apply, at.params, *at.inputs)
        return Balance(
            "weight_norm", traced, at.params, Targets(), center=True, by_feature=True
        )

    return make
