"""State-space models and linear recurrent units: spectra, step sizes, inputs."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _checks
from jaxinit._initializer import initializer
from jaxinit._samplers import rounded
from jaxinit._types import Array, Draw, DType, Key, Numeric


@initializer(random=False, cites=("gu2020hippo", "gu2022s4"))
def hippo_legs(dtype: DType = None) -> Draw:
    r"""HiPPO-LegS: the transition that compresses a whole history.

    $A_{nk} = -\sqrt{(2n + 1)(2k + 1)}$ for n > k, $-(n + 1)$ for n = k, 0 for n < k, in
    $x' = A x + B u$ with x a column; leading axes repeat it. B is `hippo_legs_input`.

    Args:
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of shapes (..., n, n).

    Raises:
        ValueError: a matrix that is not square.

    Example:
        >>> hippo_legs()(None, (2, 2))
        Array([[-1.       , -0.       ],
               [-1.7320508, -2.       ]], dtype=float32)

    References:
        Gu, Dao, Ermon, Rudra and Re 2020, arXiv:2008.07669, theorem 2; Gu, Goel and Re
        2022, arXiv:2111.00396, equation 2.
    """

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ValueError(
                f"hippo_legs: shape {shape} is no stack of square matrices (..., n, n)."
            )
        n = np.arange(shape[-1])
        root = np.sqrt(2 * n + 1)
        matrix = np.tril(np.outer(root, root), -1) + np.diag(n + 1.0)
        return jnp.broadcast_to(jnp.asarray(-matrix, dtype), shape)

    return draw


@initializer(random=False, cites=("gu2020hippo",))
def hippo_legs_input(dtype: DType = None) -> Draw:
    r"""The input weights of HiPPO-LegS: $B_n = \sqrt{2n + 1}$ along the last axis.

    Args:
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of shapes (..., n).

    Raises:
        ValueError: a shape without axes.

    Example:
        >>> hippo_legs_input()(None, (3,))
        Array([1.       , 1.7320508, 2.236068 ], dtype=float32)

    References:
        Gu, Dao, Ermon, Rudra and Re 2020, arXiv:2008.07669, theorem 2.
    """

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        return _along_last(
            "hippo_legs_input", shape, dtype, lambda n: np.sqrt(2 * n + 1)
        )

    return draw


@initializer(random=False, cites=("gu2022s4d",))
def s4d_lin(
    part: Literal["value", "log_decay", "frequency"] = "value", dtype: DType = None
) -> Draw:
    r"""S4D-Lin: a diagonal state space of evenly spaced frequencies.

    $\lambda_n = -\tfrac12 + i \pi n$ along the last axis; or its parts as parameters,
    $\log(-\mathrm{Re}\,\lambda_n) = -\log 2$ and $\mathrm{Im}\,\lambda_n = \pi n$.

    Args:
        part: "value", complex; "log_decay" or "frequency", real.
        dtype: dtype of the array, complex for "value"; JAX's default float if None.

    Returns:
        An initializer of shapes (..., n).

    Raises:
        TypeError: a real dtype for "value". ValueError: an unknown part.

    Example:
        >>> s4d_lin()(None, (2,), "complex64")
        Array([-0.5+0.j       , -0.5+3.1415927j], dtype=complex64)

    References:
        Gu, Gupta, Goel and Re 2022, arXiv:2206.11893, equation 9.
    """
    values = {
        "value": lambda n: -0.5 + 1j * np.pi * n,
        "log_decay": lambda n: np.full(n.shape, math.log(0.5)),
        "frequency": lambda n: np.pi * n,
    }
    _checks.choice("s4d_lin", "part", part, values)

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        if part == "value" and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"s4d_lin: dtype {jnp.dtype(dtype).name} cannot hold the complex "
                "eigenvalues; pass dtype=complex64, or ask for a real part."
            )
        return _along_last("s4d_lin", shape, dtype, values[part])

    return draw


@initializer(cites=("gu2022s4", "gu2023mamba"))
def log_step(
    minimum: Numeric = 1e-3, maximum: Numeric = 1e-1, dtype: DType = None
) -> Draw:
    r"""Logarithms of step sizes, spread evenly: $\log \Delta \sim U[\log a, \log b)$.

    Args:
        minimum: a, the least step, in units of time.
        maximum: b, the greatest.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer.

    Raises:
        ValueError: the steps are not positive, or not in order.

    Example:
        >>> import jax
        >>> steps = jax.numpy.exp(log_step()(jax.random.key(0), (2**16,)))
        >>> round(float(jax.numpy.median(steps)), 3)
        0.01

    References:
        Gu, Goel and Re 2022, arXiv:2111.00396, appendix; Gu and Dao 2023,
        arXiv:2312.00752, section 3.6.
    """
    _checks.number("log_step", positive=True, least=minimum, greatest=maximum)
    _checks.interval("log_step", minimum, maximum, ("minimum", "maximum"))

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.real_dtype("log_step", dtype)
        low, high = (jnp.log(jnp.asarray(x, dtype)) for x in (minimum, maximum))
        return jax.random.uniform(key, shape, dtype, low, high)

    return draw


@initializer(cites=("orvieto2023",))
def lru_nu_log(r_min: Numeric = 0.0, r_max: Numeric = 1.0, dtype: DType = None) -> Draw:
    r"""Moduli of an LRU's eigenvalues, uniform on a ring of the unit disk.

    $\nu = \log(-\tfrac12 \log(u (r_1^2 - r_0^2) + r_0^2))$, $u \sim U[0, 1)$, so that
    $|\lambda| = e^{-e^\nu}$ has area-uniform moduli between $r_0$ and $r_1$.

    Args:
        r_min: $r_0$, the least modulus, at least 0.
        r_max: $r_1$, the greatest, at most 1.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer.

    Raises:
        ValueError: moduli out of order or outside [0, 1].

    Example:
        >>> import jax
        >>> nu = lru_nu_log(0.5, 0.9)(jax.random.key(0), (2**16,))
        >>> modulus = jax.numpy.exp(-jax.numpy.exp(nu))
        >>> round(float(modulus.min()), 2), round(float(modulus.max()), 2)
        (0.5, 0.9)

    References:
        Orvieto et al. 2023, arXiv:2303.06349, lemma 3.2.
    """
    _check_ring("lru_nu_log", r_min, r_max)

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.real_dtype("lru_nu_log", dtype)
        return jnp.log(-jnp.log(_squared_modulus(key, shape, dtype, r_min, r_max)) / 2)

    return draw


@initializer(cites=("orvieto2023",))
def lru_theta_log(max_phase: Numeric = 2 * math.pi, dtype: DType = None) -> Draw:
    r"""Phases of an LRU's eigenvalues: $\log(\theta_1 u)$, $u \sim U(0, 1)$.

    Args:
        max_phase: $\theta_1$, the greatest phase, in radians.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer.

    Raises:
        ValueError: a phase that is not positive.

    Example:
        >>> import jax
        >>> theta = jax.numpy.exp(lru_theta_log()(jax.random.key(0), (2**16,)))
        >>> round(float(theta.mean()), 2)
        3.14

    References:
        Orvieto et al. 2023, arXiv:2303.06349, section 3.4.
    """
    _checks.number("lru_theta_log", positive=True, max_phase=max_phase)

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.real_dtype("lru_theta_log", dtype)
        u = jax.random.uniform(key, shape, dtype, jnp.finfo(dtype).eps)
        return jnp.log(jnp.asarray(max_phase, dtype) * u)

    return draw


@initializer(cites=("orvieto2023",))
def lru_gamma_log(
    r_min: Numeric = 0.0, r_max: Numeric = 1.0, dtype: DType = None
) -> Draw:
    r"""Normalisation of an LRU's input: $\log \sqrt{1 - |\lambda|^2}$.

    With the key and the radii of `lru_nu_log` it belongs to those eigenvalues.

    Args:
        r_min: the least modulus, at least 0.
        r_max: the greatest, at most 1.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer.

    Raises:
        ValueError: moduli out of order or outside [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> key = jax.random.key(0)
        >>> modulus = jnp.exp(-jnp.exp(lru_nu_log(0.5, 0.9)(key, (4,))))
        >>> gamma = jnp.exp(lru_gamma_log(0.5, 0.9)(key, (4,)))
        >>> bool(jnp.allclose(modulus**2 + gamma**2, 1))
        True

    References:
        Orvieto et al. 2023, arXiv:2303.06349, equation 7.
    """
    _check_ring("lru_gamma_log", r_min, r_max)

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.real_dtype("lru_gamma_log", dtype)
        return jnp.log1p(-_squared_modulus(key, shape, dtype, r_min, r_max)) / 2

    return draw


def _squared_modulus(
    key: Key, shape: tuple[int, ...], dtype: DType, r_min: Numeric, r_max: Numeric
) -> Array:
    # Away from 0, whose logarithm is infinite.
    tiny = jnp.finfo(dtype).eps
    u = jax.random.uniform(key, shape, dtype, tiny)
    low = jnp.asarray(r_min, dtype) ** 2
    square = rounded(u * (jnp.asarray(r_max, dtype) ** 2 - low)) + low
    # The sum may round up to 1, where both logarithms are infinite.
    return jnp.minimum(square, 1 - jnp.finfo(dtype).epsneg)


def _check_ring(owner: str, r_min: Numeric, r_max: Numeric) -> None:
    _checks.number(owner, minimum=0, r_min=r_min, r_max=r_max)
    _checks.interval(owner, r_min, r_max, ("r_min", "r_max"))
    if not _checks.is_traced(r_max) and r_max > 1:
        raise ValueError(
            f"{owner}: r_max={r_max!r} must be at most 1, for the state to be stable."
        )


def _along_last(owner: str, shape: tuple[int, ...], dtype: DType, values) -> Array:
    """A function of the index along the last axis, the same for all others."""
    if not shape:
        raise ValueError(f"{owner}: shape () has no axis; (..., n) is needed.")
    return jnp.broadcast_to(jnp.asarray(values(np.arange(shape[-1])), dtype), shape)
