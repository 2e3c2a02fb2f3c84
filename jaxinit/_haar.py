"""Haar-distributed orthogonal and unitary matrices from matrix products alone."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import block_diag
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

# Accelerators multiply float32 at reduced precision unless told not to.
matmul = partial(jnp.matmul, precision=lax.Precision.HIGHEST)


@partial(jax.jit, static_argnames=("n", "m", "batch", "dtype", "sharding"))
def haar(
    key: Array,
    n: int | tuple[int, ...],
    m: int,
    batch: tuple[int, ...] = (),
    dtype: DTypeLike = jnp.float32,
    sharding: NamedSharding | PartitionSpec | None = None,
) -> Array:
    r"""Draw Haar-distributed (semi-)orthogonal or unitary matrices.

    Stewart's method. Let :math:`x_j` be a Gaussian vector that is zero above its
    entry :math:`j`, and :math:`H_j` the Householder reflection that maps it onto
    :math:`-\varphi_j \|x_j\| e_j`, where :math:`\varphi_j` is the sign (the phase) of
    that entry. Then

    .. math:: Q = H_1 H_2 \cdots H_m \, \mathrm{diag}(-\varphi_1, \dots, -\varphi_m)

    has :math:`x_1 / \|x_1\|` as its first column, uniform on the sphere; given that
    column, the rest is such a matrix again, one dimension smaller, in its orthogonal
    complement: the first m columns of a Haar matrix. Without the signs it is not.

    A panel of b reflections :math:`I - 2 v v^H / v^H v` is multiplied as one,
    :math:`I - V T V^H`. By the unitarity of that matrix
    :math:`T^{-1} + T^{-H} = V^H V`, and T is upper triangular, so

    .. math:: T^{-1} = \mathrm{striu}(V^H V) + \tfrac12 \mathrm{diag}(V^H V).

    The panels are applied from the last to the first, each to the trailing block
    alone. No LAPACK routine is called, so the function can be batched, and is
    sharded by its products. It is compiled once for each shape, dtype and sharding.

    Args:
        key: A random key.
        n: Number of rows; several numbers for rows that lie along several axes.
        m: Number of columns.
        batch: Shape of a stack of independent matrices.
        dtype: float32, float64, complex64 or complex128.
        sharding: How the result shall lie on a mesh, a partition of all its axes (a
            bare PartitionSpec refers to the mesh in context). Each device then
            computes its own block, of all but the same values, and holds beside it
            one panel of at most max(128, min(n, m) / 8) reflectors; rows that are
            sharded (columns where n < m) cost a few sums over devices a panel,
            columns cost none.

    Returns:
        Array of shape (\*batch, \*n, m): orthonormal columns if there are at least m
        rows, orthonormal rows otherwise.

    Example:
        >>> q = haar(jax.random.key(0), 4, 3)
        >>> bool(jnp.allclose(q.T @ q, jnp.eye(3), atol=1e-6))
        True

    References:
        Stewart, "The efficient generation of random orthogonal matrices with an
        application to condition estimators", SIAM J. Numer. Anal. 17 (1980).
        Schreiber and Van Loan, "A storage-efficient WY representation for products of
        Householder transformations", SIAM J. Sci. Stat. Comput. 10 (1989).
    """
    rows = (n,) if isinstance(n, int) else tuple(n)
    shape = (*batch, *rows, m)
    if 0 in shape:
        return jnp.zeros(shape, dtype)
    spec = sharding.spec if isinstance(sharding, NamedSharding) else sharding
    axes = (*(spec or ()), *(None,) * len(shape))[: len(shape)]
    keys = jax.random.split(key, batch) if batch else key

    def draw(keys: Array) -> Array:
        one = partial(_draw, rows=rows, m=m, dtype=dtype, axes=axes[len(batch) :])
        for _ in batch:
            one = jax.vmap(one)
        return one(keys)

    if sharding is None:
        return draw(keys)
    return jax.shard_map(
        draw,
        mesh=sharding.mesh if isinstance(sharding, NamedSharding) else None,
        in_specs=PartitionSpec(*axes[: len(batch)]),
        out_specs=PartitionSpec(*axes),
        check_vma=False,
    )(keys)


def _draw(
    key: Array, rows: tuple[int, ...], m: int, dtype: DTypeLike, axes: tuple
) -> Array:
    """Draw one matrix, or this device's block of it if `axes` shard it."""
    n = math.prod(rows)
    if not any(axes):
        q = _matrix(key, n, m, dtype) if n >= m else _matrix(key, m, n, dtype).T
        return q.reshape(*rows, m)
    row, column = _part(rows, axes[:-1]), _part((m,), axes[-1:])
    if n >= m:
        q = _block(key, n, m, dtype, row, column)
    else:
        q = _block(key, m, n, dtype, column, row).T
    return q.reshape(*row.shape, *column.shape)


class _Part(NamedTuple):
    """The rows or columns that this device holds, under `shard_map`.

    Attributes:
        places: which ones, shape (how many,).
        shape: how many along each of their axes.
        devices: the mesh axes over which the others lie.
    """

    places: Array
    shape: tuple[int, ...]
    devices: tuple[str, ...]


def _part(sizes: tuple[int, ...], axes: tuple) -> _Part:
    places, shape, devices = jnp.zeros(1, int), (), ()
    for size, axis in zip(sizes, axes, strict=True):
        names = () if axis is None else (axis,) if isinstance(axis, str) else axis
        count = size // math.prod(map(lax.axis_size, names))
        start = count * lax.axis_index(names) if names else 0
        places = places[:, None] * size + start + jnp.arange(count)[None]
        places = places.ravel()
        shape, devices = (*shape, count), (*devices, *names)
    return _Part(places, shape, devices)


def _matrix(key: Array, n: int, m: int, dtype: DTypeLike) -> Array:
    """Draw the whole matrix, with no work on what the reflections leave alone."""
    width, columns = _panels(m)
    rows = [max(column, 0) for column in columns]
    # One draw and one inversion for all panels: they compile once.
    x = _gaussians(
        key,
        jnp.concatenate([k * n + jnp.arange(row, n) for k, row in enumerate(rows)]),
        width,
        dtype,
    )
    ends = [sum(n - row for row in rows[: k + 1]) for k in range(len(rows))]
    panels = [
        _reflectors(x[end - (n - row) : end], n, jnp.arange(row, n), column)
        for end, row, column in zip(ends, rows, columns, strict=True)
    ]
    gram = jnp.stack([matmul(v.conj().T, v) for v, _, _ in panels])
    inverses = _inverse(
        _with_diagonal(gram, jnp.stack([half for _, _, half in panels]))
    )

    q = jnp.zeros((n - m, 0), dtype)
    for (v, sign, _), t, column in reversed(
        list(zip(panels, inverses, columns, strict=True))
    ):
        skip = max(-column, 0)
        v, sign, t = v[:, skip:], sign[skip:], t[skip:, skip:]
        w = width - skip
        vq = jnp.concatenate([v[:w].conj().T, matmul(v[w:].conj().T, q)], axis=1)
        signs = jnp.pad(sign, (0, q.shape[1]), constant_values=1)
        grown = block_diag(jnp.eye(w, dtype=dtype), q)
        q = (grown - matmul(v, matmul(t, vq))) * signs[None]
    return q


def _block(
    key: Array, n: int, m: int, dtype: DTypeLike, rows: _Part, columns: _Part
) -> Array:
    """Draw this device's block of the matrix, under `shard_map`."""

    def total(x: Array) -> Array:
        return lax.psum(x, rows.devices) if rows.devices else x

    r, c = rows.places, columns.places
    width, starts = _panels(m)

    def apply_panel(step: Array, q: Array) -> Array:
        # A loop, for one panel's memory and compile time. Every panel meets the
        # whole block: a trailing part would leave the devices unequal work.
        k = len(starts) - 1 - step
        start = m - (step + 1) * width
        x = _gaussians(key, k * n + r, width, dtype)
        v, signs, halves = _reflectors(x, n, r, start, total)
        gram = total(matmul(v.conj().T, v))
        t = _inverse(_with_diagonal(gram, halves))
        inside = (c >= start) & (c < start + width)
        sign = jnp.where(inside, signs[jnp.clip(c - start, 0, width - 1)], 0)
        q = q + jnp.where(r[:, None] == c[None], sign[None], 0)
        return q - matmul(v, matmul(t, total(matmul(v.conj().T, q))))

    return lax.fori_loop(
        0, len(starts), apply_panel, jnp.zeros((len(r), len(c)), dtype)
    )


def _panels(m: int) -> tuple[int, list[int]]:
    """Choose the panels' width and first columns; the first may start before 0."""
    # Measured: few wide panels compile fast, narrow ones waste less on V^H V and T.
    count = max(min(4, -(-m // 128)), min(8, -(-m // 256)))
    width = -(-m // count)
    even = 2 ** max(0, (width - 1).bit_length() - 5)  # `_inverse` halves down to 32
    width = -(-width // even) * even
    count = -(-m // width)
    return width, [m - (count - k) * width for k in range(count)]


def _gaussians(key: Array, rows: Array, width: int, dtype: DTypeLike) -> Array:
    """Draw rows from a key each: they do not depend on which rows are drawn beside."""

    def draw(row: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, row), (width,), dtype)

    return jax.vmap(draw)(rows)


def _reflectors(x, n, rows, column, total=lambda x: x):
    """Turn Gaussian columns into reflectors.

    Args:
        x: Some rows of the panel whose first column is `column`.
        n: Height of the matrix.
        rows: Which rows they are.
        column: The first column; columns before 0 get no reflection.
        total: Sum over the devices that hold the other rows.

    Returns:
        The vectors v, the signs of the matrix's columns, and half the v^H v.
    """
    r = rows[:, None]
    c = column + jnp.arange(x.shape[1])[None]
    length = jnp.where(c >= 0, n - c, 0).astype(x.real.dtype)
    x = jnp.where((r >= c) & (c >= 0), x, 0)
    # The reflection is as orthogonal as v^H v is exact. A sum of n squares grows to
    # n and rounds at that size; a sum of their deviations from 1 stays near sqrt(n).
    centre = (length >= 64).astype(length.dtype)
    deviation = jnp.where((r >= c) & (c >= 0), (x * x.conj()).real - centre, 0)
    norm = jnp.sqrt(centre * length + total(jnp.sum(deviation, axis=0, keepdims=True)))
    pivot = total(jnp.sum(jnp.where(r == c, x, 0), axis=0, keepdims=True))
    size = jnp.sqrt((pivot * pivot.conj()).real)
    half = norm * (norm + size)
    half = jnp.where(half > 0, half, 1).astype(x.dtype)
    phase = jnp.where(size > 0, _over(pivot, jnp.where(size > 0, size, 1)), 1)
    v = jnp.where(r == c, x + phase * norm.astype(x.dtype), x)
    return v, -phase[0], half[0]


def _over(x: Array, divisor: Array) -> Array:
    """Real or complex x by a real divisor, part by part."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return lax.complex(x.real / divisor, x.imag / divisor)
    return x / divisor


def _with_diagonal(matrix: Array, diagonal: Array) -> Array:
    on_it = jnp.broadcast_to(jnp.eye(diagonal.shape[-1], dtype=bool), matrix.shape)
    return jnp.where(on_it, diagonal[..., None, :], matrix)


def _inverse(s: Array) -> Array:
    """Invert the upper triangle of `s` (..., b, b) by products alone.

    The inverse of [[A, B], [0, C]] is [[A', -A' B C'], [0, C']].
    """
    b = s.shape[-1]
    if b > 32:
        h = b // 2
        a, c = _inverse(jnp.stack([s[..., :h, :h], s[..., h:, h:]]))
        corner = -matmul(matmul(a, s[..., :h, h:]), c)
        upper = jnp.concatenate([a, corner], axis=-1)
        lower = jnp.concatenate([jnp.zeros_like(c), c], axis=-1)
        return jnp.concatenate([upper, lower], axis=-2)
    # The same from the other end: all diagonal blocks of a size in one product.
    i = jnp.arange(b)

    def everywhere(mask: Array) -> Array:
        return jnp.broadcast_to(mask, s.shape)

    def corners(level: Array | int) -> Array:
        row, column = i[:, None] >> level, i[None] >> level
        return everywhere((row + 1 == column) & (column % 2 == 1))

    def double(level: Array | int, t: Array) -> Array:
        return t - matmul(matmul(t, jnp.where(corners(level), s, 0)), t)

    d = 1 / jnp.diagonal(s, axis1=-2, axis2=-1)[..., None, :]
    diagonal = everywhere(i[:, None] == i[None])
    t = jnp.where(corners(0), -d.mT * s * d, jnp.where(diagonal, d, 0))
    levels = max(1, (b - 1).bit_length())
    if levels > 3:  # a loop compiles once
        return lax.fori_loop(1, levels, double, t)
    for level in range(1, levels):
        t = double(level, t)
    return t
