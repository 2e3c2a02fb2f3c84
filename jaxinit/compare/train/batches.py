"""Which examples each step of a run has, from the run's key and the step alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxinit._threefry import fused
from jaxinit._types import Array, Key


def shuffled(key: Key, count: int) -> Array:
    """0, 1, ..., count - 1 in random order, (count,) int32.

    Each number is put below random bits of its own, and all are sorted: a plain sort of
    words is many times as fast on a CPU as one that carries a second array along, as
    `jax.random.permutation` does. Equal bits are left in order, so that arrays for
    which a pair of them is to be expected are sorted twice, with new bits.
    """
    low = max(1, (count - 1).bit_length())
    order = jnp.arange(count, dtype=jnp.uint32)
    once = count**2 <= 2 ** (33 - low)
    for round_key in [key] if once else jax.random.split(key):
        bits = jax.random.bits(fused(round_key), (count,)) >> low << low
        # The place in the order so far, and not the number, breaks ties.
        place = jnp.sort(bits | jnp.arange(count, dtype=jnp.uint32)) & (2**low - 1)
        order = order[place]
    return order.astype(jnp.int32)


def shuffled_batches(
    key: Key, step: Any, steps: int, batch_size: int, examples: int
) -> tuple[Array, Array]:
    """Example indices (steps, batch_size) and dropout keys (steps,) of the next steps.

    Each epoch is a fresh permutation from the run's key, its last partial batch left
    out; a run's data order depends on its key and step alone.

    Args:
        key: the run's.
        step: steps done.
        steps: how many come next.
        batch_size: examples in a step.
        examples: in an epoch.
    """
    per_epoch = examples // batch_size
    order_key, dropout_key = jax.random.split(key)
    steps_done = step + jnp.arange(steps)
    first = step // per_epoch
    epochs = first + jnp.arange((steps + per_epoch - 2) // per_epoch + 1)
    permutations = jax.vmap(
        lambda epoch: shuffled(jax.random.fold_in(order_key, epoch), examples)
    )(epochs)
    batches = permutations[:, : per_epoch * batch_size].reshape(-1, batch_size)
    order = batches[steps_done - first * per_epoch]
    return order, _keys(dropout_key, steps_done)


def batches_in_order(
    key: Key, step: Any, steps: int, batch_size: int, examples: int
) -> tuple[Array, Array]:
    """The same of a segment's batches laid end to end, which all runs share."""
    del examples  # laid end to end, as many as there are
    dropout_key = jax.random.split(key)[1]
    order = jnp.arange(steps * batch_size).reshape(steps, -1)
    return order, _keys(dropout_key, step + jnp.arange(steps))


def _keys(key: Key, steps: Array) -> Array:
    return jax.vmap(lambda step: jax.random.fold_in(key, step))(steps)
