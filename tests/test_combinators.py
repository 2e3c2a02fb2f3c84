"""Schemes of schemes: what they refuse, and that they keep the contract nested."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinit as ji

NESTED = [
    ji.scaled(ji.stacked(ji.per_gate(ji.orthogonal(), 2)), 0.5),
    ji.masked(ji.scaled(ji.he_normal(gain=3.0), -2.0), np.tri(8)),
    ji.stacked(ji.looks_linear(ji.orthogonal()), axis=-1),
    ji.per_gate(ji.masked(ji.normal(), [True, False]), 4),
]


@pytest.mark.parametrize("init", NESTED, ids=repr)
def test_nested_schemes_are_values(init, key):
    for twin in (ji.parse(repr(init)), pickle.loads(pickle.dumps(init))):
        assert twin == init and hash(twin) == hash(init)
    shape = (8, 8, 8)
    eager, jitted = init(key, shape), jax.jit(lambda k: init(k, shape))(key)
    np.testing.assert_allclose(eager, jitted, atol=1e-5)
    low = init(key, shape, jnp.bfloat16)
    np.testing.assert_array_equal(low, eager.astype(jnp.bfloat16))
    assert init(key, (0, 8, 8)).shape == (0, 8, 8)


@pytest.mark.parametrize("build", [ji.stacked, ji.per_gate])
@pytest.mark.parametrize("axis", [(0, 1), 0.5, True])
def test_one_axis_is_asked_for(build, axis):
    with pytest.raises(TypeError, match=r"axis=.* must be one integer\.$"):
        build(ji.normal(), axis=axis)


def test_a_mask_is_an_array_known_when_traced(key):
    with pytest.raises(TypeError, match=r"must be an array of truth values .*\.$"):
        ji.masked(ji.normal(), "abc")
    with pytest.raises(TypeError, match="known when the program is traced"):
        jax.jit(lambda m: ji.masked(ji.normal(), m)(key, (3,)))(jnp.ones(3))


def test_over_a_scheme_without_randomness():
    for init in (
        ji.scaled(ji.constant(2), 3.0),
        ji.stacked(ji.constant(6)),
        ji.per_gate(ji.constant(6)),
    ):
        assert not init.random
        drawn = init(None, (2, 4), "int32")
        assert drawn.dtype == jnp.int32
        np.testing.assert_array_equal(drawn, np.full((2, 4), 6))
    np.testing.assert_array_equal(
        ji.per_gate(ji.identity(), 2)(None, (3, 6)), np.tile(np.eye(3), 2)
    )
    with pytest.raises(TypeError, match="scaled: dtype=int32 is neither"):
        ji.scaled(ji.identity(), 2.0, dtype="int32")
