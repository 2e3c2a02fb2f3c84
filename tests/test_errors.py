"""Bad input: one sentence, at the earliest moment."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinit as ji

WHEN_BUILT = [
    (lambda: ji.variance_scaling(1.0, "fan_up", "normal"), ValueError, "mode='fan_up'"),
    (lambda: ji.variance_scaling(1.0, "fan_in", "cauchy"), ValueError, "'cauchy'"),
    (lambda: ji.variance_scaling(-1.0, "fan_in", "normal"), ValueError, "scale=-1.0"),
    (lambda: ji.variance_scaling(1.0), TypeError, "missing a required argument"),
    (lambda: ji.normal(-0.1), ValueError, "stddev=-0.1"),
    (lambda: ji.normal(float("nan")), ValueError, "finite"),
    (lambda: ji.normal("wide"), TypeError, "'wide' must be a real number"),
    (lambda: ji.normal(dtype="int32"), TypeError, "int32"),
    (lambda: ji.normal(dtype="float33"), TypeError, "no dtype"),
    (lambda: ji.normal(width=2), TypeError, "its parameters are stddev"),
    (lambda: ji.uniform(minval=1.0, maxval=0.0), ValueError, "minval=1.0"),
    (lambda: ji.truncated_normal(lower=2.0, upper=2.0), ValueError, "lower=2.0"),
    (lambda: ji.truncated_normal(bounds="sigma"), ValueError, "bounds='sigma'"),
    (
        lambda: ji.truncated_normal(bounds="absolute", corrected=True),
        ValueError,
        "bounds='stddev'",
    ),
    (lambda: ji.he_normal(in_axis=0.5), TypeError, "in_axis=0.5"),
    (lambda: ji.he_normal(in_axis=(0, 0)), ValueError, "twice"),
    (lambda: ji.he_normal(groups=0), ValueError, "groups=0"),
    (lambda: ji.he_normal(fan=0), ValueError, "fan=0.0"),
    (lambda: ji.orthogonal(method="svd"), ValueError, "method='svd'"),
    (lambda: ji.orthogonal(float("inf")), ValueError, "finite"),
    (lambda: ji.delta_orthogonal(column_axis=0), ValueError, "column_axis=0"),
    (lambda: ji.constant("a"), TypeError, "number"),
    (lambda: ji.constant(float("nan")), ValueError, "NaN"),
    (lambda: ji.parse("he_norml()"), ValueError, "nearest is 'he_normal'"),
    (lambda: ji.parse("__import__('os')"), ValueError, "unknown scheme"),
    (lambda: ji.parse("he_normal(gain=open('x'))"), ValueError, "unknown scheme"),
    (lambda: ji.parse("he_normal(gain=1+1)"), ValueError, "no literal"),
    (lambda: ji.parse("he_normal(**{})"), ValueError, "not accepted"),
    (lambda: ji.parse("a()()"), ValueError, "without a name"),
    (lambda: ji.parse("2 + 2"), ValueError, "no scheme"),
    (lambda: ji.parse("he normal"), ValueError, "no scheme"),
    (lambda: ji.parse(""), ValueError, "no scheme"),
]

WHEN_CALLED = [
    (ji.he_normal(), (5,), ValueError, "pass a kernel of rank two or more"),
    (ji.he_normal(in_axis=3), (4, 5), ValueError, "in_axis=3 is out of range"),
    (ji.he_normal(out_axis=(0, -2)), (4, 5), ValueError, "twice"),
    (ji.he_normal(groups=3), (4, 5), ValueError, "groups=3 does not divide"),
    (ji.normal(), (2, -1), ValueError, "negative size"),
    (ji.normal(), 3, TypeError, "sequence of integers"),
    (ji.normal(), (2.5,), TypeError, "sequence of integers"),
    (ji.constant(np.ones(3)), (2,), ValueError, "does not broadcast"),
    (ji.orthogonal(), (5,), ValueError, "no axis left for rows"),
    (ji.orthogonal(batch_axis=-1), (5, 5), ValueError, "also in batch_axis"),
    (ji.orthogonal(column_axis=2), (5, 5), ValueError, "out of range"),
    (ji.delta_orthogonal(), (4, 4), ValueError, "rank 2"),
    (ji.delta_orthogonal(), (4, 3, 2, 2), ValueError, "must be odd"),
]


@pytest.mark.parametrize(("build", "error", "words"), WHEN_BUILT)
def test_when_built(build, error, words):
    with pytest.raises(error) as caught:
        build()
    _one_sentence(caught, words)


@pytest.mark.parametrize(("init", "shape", "error", "words"), WHEN_CALLED)
def test_when_called(init, shape, error, words, key):
    with pytest.raises(error) as caught:
        init(key, shape)
    _one_sentence(caught, words)


def _one_sentence(caught, words):
    message = str(caught.value)
    assert words in message
    assert message.endswith(".") and "\n" not in message and len(message) < 300
    assert caught.traceback[-1].path.parts[-2:] != ("_src", "core.py")


def test_keys_and_dtypes_at_the_call(key):
    with pytest.raises(TypeError, match="no PRNG key"):
        ji.normal()(0, (2,))
    with pytest.raises(ValueError, match="use jax.vmap"):
        ji.normal()(jax.random.split(key, 3), (2,))
    with pytest.raises(TypeError, match="neither floating nor complex"):
        ji.he_normal()(key, (2, 2), jnp.int32)
    with pytest.raises(ValueError, match="lower=-upper"):
        ji.truncated_normal(lower=-1.0)(key, (2,), jnp.complex64)
    with pytest.raises(TypeError, match="known when the program is traced"):
        jax.jit(lambda n: ji.normal()(key, (n,)))(3)


def test_constants_need_no_key_and_take_any_dtype():
    assert ji.zeros(None, (2,), jnp.int32).dtype == jnp.int32
    assert ji.constant(3)(None, (2,), jnp.int8).dtype == jnp.int8
    assert ji.zeros() is ji.zeros and ji.ones() is ji.ones


def test_what_a_program_traces_is_no_activation(key):
    def draw(slope):
        return ji.he_normal(activation=lambda x: slope * x)(key, (4, 4))

    with pytest.raises(TypeError, match="depends on a traced value"):
        jax.jit(draw)(2.0)


def test_parameters_are_hashable():
    @ji.initializer
    def odd(table, dtype=None):
        return lambda key, shape, dtype: jnp.zeros(shape, dtype)

    with pytest.raises(TypeError, match="odd: its parameters must be hashable"):
        odd({"a": 1})


def test_a_known_activation_goes_by_its_name():
    named = ji.he_normal(activation="gelu")
    assert ji.he_normal(activation=jax.nn.gelu) == named
    assert ji.parse(repr(ji.he_normal(activation=jax.nn.gelu))) == named
