"""Texts from anywhere: what is read is what was written, and all else is a sentence."""

from __future__ import annotations

import enum
import math
import pickle
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxinit as ji
from jaxinit import tree
from jaxinit.compare import compare, parse_task


@ji.initializer(entrywise=True)
def anything(value=None, more: float | None = None, dtype=None):
    """A scheme of the user's own that takes any parameter."""
    return lambda key, shape, dtype: jnp.zeros(shape, dtype)


class Side(enum.IntEnum):
    LEFT = 1


class Mode(enum.StrEnum):
    OUT = "fan_out"


NOT_READ = [
    "+" * 5000,
    "+" * 100_000 + "1",
    "-" * 3000 + "x",
    "not " * 9999,
    "(" * 5000,
    "[" * 300 + "]" * 300,
    "scaled(" * 300 + "zeros" + ", 2)" * 300,
    ".".join("a" * 9999),
    "he_normal(gain=" + "-" * 5000 + "1)",
    "he_normal(gain=" + "1" * 5000 + ")",
    "lambda: " * 3000 + "1",
    "a if b else " * 3000 + "c",
    "x" * 1_000_000,
    "he_normal(gain=1, gain=2)",
    "he_normal(2, gain=1, distribution='normal', gain=2)",
    "scaled(he_normal(gain=1, gain=1), 2)",
    "tree.mup(base={'a': (2, 3), 'a': (3, 3)})",
    "tree.mup(base={[1]: (2, 3)})",
    "tree.gpt2(stddev=1, stddev=2)",
    "he_normal(gain={1, 2})",
    "he_normal(gain=b'1')",
    "he_normal(gain=...)",
    "he_normal(gain=f'{1}')",
    "he_normal(*[1])",
    "he_normal(gain=(yield))",
    "he_normal(gain=-'a')",
    "he_normal(gain=1 + 2j + 3j)",
    "constant(1 - 1)",
    "constant(complex('1j'))",
    "constant(complex(1))",
    "constant(complex(1, imag=2))",
    "he_normal(dtype={'a': 1})",
    "he_normal(dtype={'names': ['a'], 'formats': ['f4']})",
    "he_normal(gain=[[1], [1, 2]])",
    "zeros(0, (100000, 100000))",
    "ones(None, (9,))",
    "scaled(zeros(0, (100000, 100000)), 2)",
    "tree.rules([('*', ones(0, (100000, 100000)))])",
    "he_normal()(0, (100000, 100000))",
    "normal(1.0)(None, (2, 2))",
    "\0",
    "he_normal(\ud800)",
    "he_normal('\x1b[31m')",
    "\x1b]0;title\x07",
    "",
    "   ",
    None,
    5,
    b"he_normal",
    ["he_normal"],
    ji.he_normal(),
]


@pytest.mark.parametrize("text", NOT_READ, ids=lambda text: repr(text)[:40])
def test_what_is_no_scheme_is_one_sentence_and_draws_nothing(text):
    ji.parse("tree.gpt2")
    tracemalloc.start()
    with pytest.raises((ValueError, TypeError)) as caught:
        ji.parse(text)
    size = len(text) if isinstance(text, str) else 0
    assert tracemalloc.get_traced_memory()[1] < 5e6 + 3000 * size
    tracemalloc.stop()
    message = str(caught.value)
    assert message.endswith(".") and len(message) < 400
    assert message.isprintable()


@pytest.mark.parametrize("number", ["1e300", "1e200", "-1e308"])
def test_a_number_too_large_to_compute_with_is_a_sentence(number):
    with pytest.raises(ValueError, match=r"he_normal: .*\.$"):
        ji.parse(f"he_normal(gain={number})")
    with pytest.raises(ValueError, match=r"he_normal: .*\.$"):
        ji.he_normal(gain=float(number))


@pytest.mark.parametrize(
    "build",
    [
        lambda: ji.normal(10**400),
        lambda: ji.scaled(ji.normal(), 10**400),
        lambda: tree.gpt2(10**400),
        lambda: anything(more=-(10**999)),
    ],
)
def test_an_integer_beyond_every_float_is_a_sentence(build):
    with pytest.raises(ValueError, match=r"too large .*\.$"):
        build()


@pytest.mark.parametrize(
    "text",
    [
        "digits-mlp(depth=1, depth=2)",
        "digits-mlp(" + "-" * 5000 + "1)",
        "digits-mlp(depth=" + "+" * 9999 + "1)",
        "digits-mlp(depth={[]})",
        "digits-mlp(**{'depth': 1})",
        "digits-mlp(1)",
        "digits-mlp()()",
        "digits-mlp(depth=\0)",
        "digits-mlp(depth=10**9)",
        "x" * 10_000,
        None,
        3,
    ],
    ids=lambda text: repr(text)[:40],
)
def test_what_is_no_task_is_one_sentence(text):
    for read in (parse_task, compare):
        with pytest.raises((ValueError, TypeError)) as caught:
            read(text)
        message = str(caught.value)
        assert message.endswith(".") and len(message) < 400 and message.isprintable()


NUMBERS = np.array([[1.0, math.inf], [-math.inf, math.nan]])
VALUES = [
    *[
        anything(value)
        for value in (
            math.nan, -math.inf, -0.0, 0.0, 1 + 2j, complex(-0.0, 1), complex(1, -0.0),
            complex(math.inf, -math.nan), np.complex64(1 + 2j), np.float16(0.1),
            np.float32(0.1), np.longdouble(1), np.int8(3), np.uint64(2**64 - 1),
            np.bool_(True), np.str_("a\n\x1b'\""), "\ud800", Side.LEFT, Mode.OUT,
            ml_dtypes.bfloat16(0.5), jnp.bfloat16(2), jnp.int4(3), jnp.float32(2),
            NUMBERS, NUMBERS.astype(np.float32), NUMBERS.astype(ml_dtypes.bfloat16),
            NUMBERS[0], NUMBERS.T, NUMBERS.view(complex), jnp.ones((2, 2), "bfloat16"),
            jnp.ones((2, 2), jnp.float8_e4m3fn), np.ones((2, 2), ml_dtypes.int4),
            np.eye(2, dtype=bool), np.eye(2, dtype=np.uint64) * np.uint64(2**64 - 1),
            np.zeros(0), np.zeros((0, 3)), np.zeros((2, 0), bool), np.array("text"),
            np.array(["a", "b"]), np.array([["a", "b"]]), [], (), [[]], [(), ()],
            range(3), (range(2), [np.float32(1), np.int64(2)]), [[True, False]],
            [[1, 2], [3, 4.5]], [[1], [2, 3]], [("a", np.int32(1))], ((), (1,)),
            (np.ones(2), {}.get("a"), "x"), [ji.he_normal(gain=np.float32(2)), None],
            (math.nan, (-0.0, (math.inf,))),
        )
    ],
    ji.he_normal(fan=[3, 4]),
    ji.he_normal(fan=(np.int64(3), np.float32(4))),
    ji.he_normal(in_axis=range(2), out_axis=np.int64(-1)),
    ji.he_normal(in_axis=np.arange(2)),
    ji.orthogonal(batch_axis=range(1)),
    ji.he_normal(dtype=">f4"),
    ji.he_normal(dtype=np.dtype("<f4")),
    ji.normal(dtype=jnp.bfloat16),
    ji.zeros(dtype=">i4") if False else ji.constant(1, dtype=">i4"),
    ji.constant([math.inf, -math.inf]),
    ji.constant(np.array([[math.inf, 1], [2, 3]])),
    ji.constant(complex(math.inf, -0.0)),
    ji.constant(-0.0),
    ji.constant(np.ones((2, 2), ml_dtypes.bfloat16)),
    ji.constant(np.zeros((0, 3))),
    ji.masked(ji.normal(), np.zeros((2, 0), bool)),
    ji.masked(ji.normal(), np.eye(3, dtype=ml_dtypes.bfloat16)),
    ji.scaled(ji.normal(), jnp.ones((2, 1), jnp.bfloat16)),
    ji.truncated_normal(lower=-np.float32(np.inf)),
    tree.gpt2(np.float32(0.02), branches=np.int64(3)),
    tree.fixup(mode=Mode.OUT),
    tree.fixup(mode=np.str_("fan_out")),
    tree.chrono(np.uint8(100)),
    tree.edge_of_chaos(np.float64(0.05)),
    tree.idinit(last=np.float16(0.5)),
    tree.mup({"w": (np.int64(2), np.int32(3))}),
    tree.mup([["w", np.array([2, 3])]]),
    tree.mup([jnp.ones((2, 3)), jnp.ones((2, 3))]),
    tree.rules([[np.str_("*"), ji.normal(np.float32(1))]]),
    tree.with_gain(ji.orthogonal(np.float64(2)), np.str_("auto")),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_is_written_is_read_back(value):
    for twin in (ji.parse(repr(value)), pickle.loads(pickle.dumps(value))):
        assert twin == value and hash(twin) == hash(value)
        assert repr(twin) == repr(value)
    assert value.replace() == value
    assert repr(value).isprintable() and repr(value).isascii()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (anything(np.float32(2)), anything(2.0)),
        (anything(range(3)), anything([0, 1, 2])),
        (anything(np.zeros((0, 3))), anything(())),
        (anything(NUMBERS), anything(NUMBERS.tolist())),
        (anything(NUMBERS[0].astype(ml_dtypes.bfloat16)), anything((1.0, math.inf))),
        (anything(Side.LEFT), anything(1)),
        (ji.he_normal(dtype=">f4"), ji.he_normal(dtype="float32")),
        (ji.he_normal(in_axis=range(2)), ji.he_normal(in_axis=(0, 1))),
        (tree.mup({"w": (np.int64(2), 3)}), tree.mup({"w": [2, np.int8(3)]})),
    ],
    ids=repr,
)
def test_equal_ones_have_one_form(one, other):
    assert one == other and hash(one) == hash(other) and repr(one) == repr(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ji.constant(0.0), ji.constant(-0.0)),
        (ji.constant(complex(0.0, 1)), ji.constant(complex(-0.0, 1))),
        (anything(1), anything(1.0)),
        (anything(True), anything(1)),
        (anything(math.nan), anything(math.inf)),
    ],
    ids=repr,
)
def test_unequal_ones_differ(one, other):
    assert one != other and repr(one) != repr(other)


def test_a_negative_zero_is_drawn_as_one(key):
    signs = [np.signbit(ji.constant(x)(key, (2,))).all() for x in (0.0, -0.0, 0.0)]
    assert signs == [False, True, False]


@pytest.mark.parametrize("dtype", ["float8_e8m0fnu", jnp.float8_e8m0fnu])
@pytest.mark.parametrize(
    "init", [ji.normal(), ji.he_uniform(), ji.orthogonal(), ji.zeros, ji.constant(-1)]
)
def test_a_dtype_without_zero_is_refused(init, dtype, key):
    with pytest.raises(TypeError, match="neither zero nor negative numbers"):
        init(key, (4, 4), dtype)
    with pytest.raises(TypeError, match="neither zero nor negative numbers"):
        jax.eval_shape(lambda k: init(k, (4, 4), dtype), key)


@pytest.mark.parametrize(
    "dtype",
    ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz"],
)
def test_other_dtypes_of_few_bits_are_drawn_without_nan(dtype, key):
    for init in (ji.normal(1e6), ji.he_normal(), ji.zeros, ji.constant(-1)):
        assert not jnp.isnan(init(key, (64, 64), dtype).astype(jnp.float32)).any()
