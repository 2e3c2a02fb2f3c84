"""JAX's own random bits in one pass: Threefry-2x32 as elementwise operations.

On a CPU JAX runs the rounds of Threefry in a loop over whole arrays, which takes three
times the memory of a float32 draw and several times its time. Written out, the rounds
fuse with whatever makes numbers of the bits: nothing is held but the result.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._types import Array, Key

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)
WORD = 2**32


def fused(key: Key) -> Key:
    """A key of the same bits as `key` for every sampler of `jax.random`, drawn fused.

    Keys of another generator, and of the older Threefry that does not partition, come
    back as they are.
    """
    if not jax.config.jax_threefry_partitionable:  # type: ignore[attr-defined]
        return key
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_generator())


def counters(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """High and low words of each element's place in the flattened array."""
    high = low = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :])
        index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        step = index * np.uint32(stride % WORD)
        low = low + step
        if math.prod(shape) > WORD:
            high = high + _high_product(index, stride % WORD)
            high = high + index * np.uint32(stride // WORD)
            high = high + (low < step).astype(jnp.uint32)
    return high, low


def _high_product(x: Array, factor: int) -> Array:
    """The high word of the product of two words, by halves."""
    half, mask = np.uint32(16), np.uint32(0xFFFF)
    top, bottom = np.uint32(factor >> 16), np.uint32(factor & 0xFFFF)
    inner = (x >> half) * bottom + (((x & mask) * bottom) >> half)
    outer = (x & mask) * top + (inner & mask)
    return (x >> half) * top + (inner >> half) + (outer >> half)


def threefry(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Twenty rounds of Threefry-2x32 of a pair of words under a key of two words.

    References:
        Salmon, Moraes, Dror and Shaw 2011, Parallel random numbers: as easy as 1, 2, 3.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
    x, y = high + keys[0], low + keys[1]
    for step in range(5):
        for rotation in ROTATIONS[step % 2]:
            x = x + y
            y = (y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))
            y = y ^ x
        x = x + keys[(step + 1) % 3]
        y = y + keys[(step + 2) % 3] + np.uint32(step + 1)
    return x, y


def random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    """Unsigned integers of 8, 16, 32 or 64 random bits, those of JAX's generator."""
    high, low = threefry(key, *counters(shape))
    if bit_width == 64:
        return high.astype(jnp.uint64) << np.uint64(32) | low.astype(jnp.uint64)
    return (high ^ low).astype(f"uint{bit_width}")


@functools.cache
def _generator() -> Any:
    """JAX's generator with these bits; all else of it is JAX's own."""
    from jax.extend import random  # not at once, for it brings Pallas along

    jax_own: Any = random.threefry_prng_impl
    return random.define_prng_impl(
        key_shape=jax_own.key_shape,
        seed=jax_own.seed,
        split=jax_own.split,
        fold_in=jax_own.fold_in,
        random_bits=random_bits,
        name="jaxinit_threefry2x32",
        tag="jif",
    )
