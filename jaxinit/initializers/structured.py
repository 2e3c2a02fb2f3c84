"""Kernels with a structure: identities, Hadamard matrices, sparse and mirrored ones."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxinit import _checks
from jaxinit._initializer import Initializer, alias, base_draw, initializer
from jaxinit._types import Array, Draw, DType, Key, Numeric


@initializer(random=False, cites=("le2015",))
def identity(gain: Numeric = 1.0, dtype: DType = None) -> Draw:
    r"""The identity matrix times a gain.

    $W_{ij} = \text{gain}\,\delta_{ij}$, partial where the matrix is not square, and the
    same for every leading axis. With a ReLU and zero biases it makes a
    recurrent network that remembers from step 0 on (IRNN).

    Args:
        gain: multiplier, dimensionless.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of shapes (..., in, out).

    Raises:
        ValueError: a rank below two.

    Example:
        >>> identity(2.0)(None, (2, 3))
        Array([[2., 0., 0.],
               [0., 2., 0.]], dtype=float32)

    References:
        Le, Jaitly and Hinton 2015, arXiv:1504.00941, section 3.
    """
    _checks.number("identity", gain=gain)

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.rank("identity", shape, minimum=2)
        return jnp.broadcast_to(
            jnp.asarray(gain, dtype) * jnp.eye(*shape[-2:], dtype=dtype), shape
        )

    return draw


irnn = alias("irnn", identity)


@initializer(random=False, cites=("zagoruyko2017",))
def dirac(groups: int = 1, gain: Numeric = 1.0, dtype: DType = None) -> Draw:
    r"""A convolution that hands its input on unchanged.

    1 at the tap $\lfloor (k - 1) / 2 \rfloor$ of every spatial axis, between input i
    and output i of each group, 0 elsewhere: with stride 1 and SAME padding the identity
    on the first min(in, out) channels, for odd and for even kernels.

    Args:
        groups: feature groups of the convolution; each is an identity.
        gain: multiplier, dimensionless.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of kernels (*spatial, in / groups, out).

    Raises:
        ValueError: a rank below three, or groups that do not divide the outputs.

    Example:
        >>> import jax.numpy as jnp
        >>> w = dirac()(None, (3, 3, 2, 2))
        >>> bool((w[1, 1] == jnp.eye(2)).all()), float(w.sum())
        (True, 2.0)

    References:
        Zagoruyko and Komodakis 2017, arXiv:1706.00388. The tap is the one of SAME
        padding in JAX; torch's, k // 2, differs for even kernels.
    """
    _checks.integer("dirac", groups=groups)
    _checks.number("dirac", gain=gain)

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.rank("dirac", shape, minimum=3)
        eye = jnp.asarray(gain, dtype) * grouped_eye("dirac", shape, groups, dtype)
        return jnp.zeros(shape, dtype).at[same_tap(shape)].set(eye)

    return draw


@initializer(random=False, cites=("zhao2022",))
def hadamard_identity(dtype: DType = None) -> Draw:
    r"""ZerO: identity and Hadamard matrices alone, without any randomness.

    Of a matrix (in, out): the identity, partial if out <= in; else
    $c\,H[:\text{in}, :\text{out}]$ with the Hadamard matrix H of order $2^m$,
    $m = \lceil \log_2 \text{out} \rceil$ and $c = 2^{-(m - 1)/2}$. Of a convolution
    kernel, that matrix at the centre tap.

    Args:
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of kernels (*spatial, in, out); zeros suit the last layer of a
        residual branch.

    Raises:
        ValueError: a rank below two.

    Example:
        >>> hadamard_identity()(None, (1, 2))
        Array([[1., 1.]], dtype=float32)

    References:
        Zhao, Schafer and Anandkumar 2022, arXiv:2110.12661, algorithms 1 and 2. The
        constant c is the paper's, which gives the rows of a wide matrix the norm
        $\sqrt{2}$ where `out` is a power of 2; the authors' code has $2^{-m/2}$,
        smaller by $1/\sqrt{2}$, and rows of norm 1.
    """

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.rank("hadamard_identity", shape, minimum=2)
        rows, columns = shape[-2:]
        if columns <= rows:
            matrix = jnp.eye(rows, columns, dtype=dtype)
        else:
            m = (columns - 1).bit_length()
            common = jnp.arange(rows)[:, None] & jnp.arange(columns)[None]
            odd = lax.population_count(common) % 2 == 1
            matrix = jnp.where(odd, -1, 1).astype(dtype) * 2 ** (-(m - 1) / 2)
        return jnp.zeros(shape, dtype).at[same_tap(shape)].set(matrix)

    return draw


@initializer(random=False, cites=("pan2025",))
def idinit(tau: Numeric = 1.0, dtype: DType = None) -> Draw:
    r"""IDInit: the identity, repeated until it fills a rectangular matrix.

    $W_{ij} = \tau$ where $i \equiv j$ modulo the smaller of the two sides, 0 elsewhere;
    a convolution kernel (*spatial, in, out) is such a matrix with rows (*spatial, in).

    Args:
        tau: value of the ones, dimensionless; the paper's $\epsilon$ = 1e-6 for the
            last layer of a residual branch, its zero-preserving form (IDIZ).
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer.

    Raises:
        ValueError: a rank below two.

    Example:
        >>> idinit()(None, (2, 3))
        Array([[1., 0., 1.],
               [0., 1., 0.]], dtype=float32)

    References:
        Pan et al. 2025, arXiv:2503.04626, section 3.
    """
    _checks.number("idinit", tau=tau)

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.rank("idinit", shape, minimum=2)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        i, j = jnp.arange(rows)[:, None], jnp.arange(columns)[None]
        same = i % min(rows, columns) == j % min(rows, columns)
        return jnp.where(same, jnp.asarray(tau, dtype), 0).reshape(shape)

    return draw


@initializer(cites=("martens2010", "paszke2019"))
def sparse(
    nonzeros: int | None = None,
    sparsity: float | None = None,
    stddev: Numeric = 1.0,
    dtype: DType = None,
) -> Draw:
    r"""A few normal connections into every unit, zeros elsewhere.

    Each output has k connections at random among its n inputs, exactly, with weights
    $N(0, \text{stddev}^2)$: k `nonzeros`, or $n - \lceil \text{sparsity}\, n \rceil$.

    Args:
        nonzeros: k, at most the number of inputs; 15 if neither is given.
        sparsity: fraction of zeros in [0, 1] instead.
        stddev: standard deviation of the connections.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of kernels (*spatial, in, out), n = spatial times in.

    Raises:
        ValueError: both or impossible numbers, more nonzeros than inputs, or a rank
            below two.

    Example:
        >>> import jax
        >>> w = sparse(3)(jax.random.key(0), (100, 5))
        >>> (w != 0).sum(axis=0).tolist()
        [3, 3, 3, 3, 3]

    References:
        Martens 2010, Deep learning via Hessian-free optimization, section 5. The
        fraction is torch's `sparse_`, whose kernels are (out, in) and whose zeros are
        counted for an input; here they are counted for an output.
    """
    if nonzeros is not None and sparsity is not None:
        raise ValueError(
            f"sparse: nonzeros={nonzeros!r} and sparsity={sparsity!r} are both given; "
            "give one of them."
        )
    if nonzeros is not None:
        _checks.integer("sparse", nonzeros=nonzeros)
    if sparsity is not None and not isinstance(sparsity, (int, float)):
        raise TypeError(
            f"sparse: sparsity={sparsity!r} must be a number that is known when the "
            "program is traced."
        )
    if sparsity is not None and not 0 <= sparsity <= 1:
        raise ValueError(f"sparse: sparsity={sparsity!r} must lie in [0, 1].")
    _checks.number("sparse", minimum=0, stddev=stddev)

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.rank("sparse", shape, minimum=2)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        kept = 15 if nonzeros is None else nonzeros
        if sparsity is not None:
            kept = rows - math.ceil(sparsity * rows)
        if kept > rows:
            raise ValueError(
                f"sparse: nonzeros={kept} exceeds the {rows} inputs of a kernel of "
                f"shape {shape}."
            )
        place_key, value_key = jax.random.split(key)
        lots = jax.random.uniform(place_key, (columns, rows))
        places = lax.top_k(lots, kept)[1].T
        values = jax.random.normal(value_key, (kept, columns), dtype)
        kernel = jnp.zeros((rows, columns), dtype)
        kernel = kernel.at[places, jnp.arange(columns)[None]].set(
            jnp.asarray(stddev, dtype) * values, unique_indices=True
        )
        return kernel.reshape(shape)

    return draw


@initializer(cites=("balduzzi2017", "burkholz2019"))
def looks_linear(
    scheme: Initializer,
    part: Literal["hidden", "first", "last"] = "hidden",
    dtype: DType = None,
) -> Draw:
    r"""A ReLU network that is linear at initialization, by mirrored weights.

    With U drawn by another scheme at half the sides, $W = [U, -U]$ for the first layer,
    $[[U, -U], [-U, U]]$ for hidden ones and $[U; -U]$ for the last. Since
    $\mathrm{relu}(a) - \mathrm{relu}(-a) = a$, the network computes the product of its
    U: an isometry at any depth if they are orthogonal.

    Args:
        scheme: the scheme of U.
        part: where the layer stands.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of kernels (..., in, out).

    Raises:
        TypeError: `scheme` is no initializer. ValueError: an odd side where it must be
            halved, or a rank below two.

    Example:
        >>> import jax, jaxinit
        >>> w = looks_linear(jaxinit.orthogonal())(jax.random.key(0), (8, 8))
        >>> bool((w[:4, :4] == -w[4:, :4]).all())
        True

    References:
        Balduzzi et al. 2017, arXiv:1702.08591, section 4; Burkholz and Dubatovka 2019,
        arXiv:1806.06362.
    """
    base = base_draw(scheme)
    _checks.choice("looks_linear", "part", part, ("hidden", "first", "last"))

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.rank("looks_linear", shape, minimum=2)
        *lead, rows, columns = shape
        mirror_rows, mirror_columns = part != "first", part != "last"
        if rows % (1 + mirror_rows) or columns % (1 + mirror_columns):
            raise ValueError(
                f"looks_linear: the sides of shape {shape} that part={part!r} mirrors "
                "must be even."
            )
        half = (*lead, rows // (1 + mirror_rows), columns // (1 + mirror_columns))
        w = base(key, half, dtype)
        if mirror_columns:
            w = jnp.concatenate([w, -w], axis=-1)
        return jnp.concatenate([w, -w], axis=-2) if mirror_rows else w

    return draw


def same_tap(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The tap of a kernel (*spatial, in, out) that SAME padding puts on the pixel."""
    return tuple((size - 1) // 2 for size in shape[:-2])


def grouped_eye(owner: str, shape: tuple[int, ...], groups: int, dtype: DType) -> Array:
    """Identity between the inputs and outputs of each group, (in / groups, out)."""
    inputs, outputs = shape[-2:]
    if outputs % groups:
        raise ValueError(
            f"{owner}: groups={groups} does not divide the {outputs} outputs of shape "
            f"{shape}."
        )
    return jnp.tile(jnp.eye(inputs, outputs // groups, dtype=dtype), (1, groups))
