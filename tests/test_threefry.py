"""JAX's bits drawn in one pass: the same values, and no memory but the result's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import FIXED, VARIANCE

import jaxinit as ji
from jaxinit._threefry import counters, fused


@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("shape", [(), (1,), (7, 33), (2, 3, 5)])
def test_same_bits_as_jax(width, shape, key):
    with jax.enable_x64(width == 64):
        dtype = f"uint{width}"
        expected = jax.random.bits(key, shape, dtype)
        np.testing.assert_array_equal(
            expected, jax.random.bits(fused(key), shape, dtype)
        )


def test_same_samples_splits_and_folds(key):
    ours = fused(jax.random.key_data(key))  # a raw key will do
    assert fused(ours) is ours
    for derive in (
        lambda k: jax.random.split(k)[1],
        lambda k: jax.random.fold_in(k, 3),
    ):
        np.testing.assert_array_equal(
            jax.random.key_data(derive(key)), jax.random.key_data(derive(ours))
        )
    keys = jax.random.split(key, 4)
    np.testing.assert_array_equal(
        jax.vmap(lambda k: jax.random.gumbel(k, (5,)))(keys),
        jax.vmap(lambda k: jax.random.gumbel(fused(k), (5,)))(keys),
    )


def test_places_beyond_32_bits():
    shape = (7, 96, 12289, 1000003)
    corner = np.s_[6, 95, -2:, -3:]
    high, low = jax.jit(lambda: [word[corner] for word in counters(shape)])()
    for i in range(2):
        for j in range(3):
            place = np.ravel_multi_index((6, 95, 12287 + i, 1000000 + j), shape)
            assert divmod(int(place), 2**32) == (int(high[i, j]), int(low[i, j]))


def test_other_generators_are_left_alone():
    rbg = jax.random.key(0, impl="rbg")
    assert fused(rbg) is rbg
    with jax.threefry_partitionable(False):
        key = jax.random.key(0)
        assert fused(key) is key
        np.testing.assert_array_equal(
            ji.normal(1.0)(key, (6,)), jax.nn.initializers.normal(1.0)(key, (6,))
        )


def memory(init, shape, dtype, key):
    """Bytes of all that a draw holds at once, over those of the array."""
    draw = jax.jit(lambda k: init(k, shape, dtype)).lower(key).compile()
    used = draw.memory_analysis()
    return 1 + used.temp_size_in_bytes / used.output_size_in_bytes


@pytest.mark.parametrize("case", [*FIXED, *VARIANCE], ids=repr)
def test_a_draw_holds_little_more_than_its_array(case, key):
    for dtype in (jnp.float32, jnp.bfloat16):
        assert memory(case.init, case.shape, dtype, key) < 1.1


@pytest.mark.parametrize("init", [ji.he_normal(), ji.truncated_normal(0.02)], ids=repr)
def test_a_thousand_million_in_bfloat16(init, key):
    assert memory(init, (32768, 32768), jnp.bfloat16, key) < 1.1


def test_an_eager_draw_is_one_program_made_once(key):
    init = ji.scaled(ji.he_normal(), 2.0)
    first = init(key, (3, 5, 7))
    with jax.no_tracing():
        np.testing.assert_array_equal(
            ji.parse(repr(init))(key, (3, 5, 7), "float32"), first
        )
