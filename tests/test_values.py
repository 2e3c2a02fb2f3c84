"""Every scheme is a value: equal, hashable, pickled, printed as it is parsed."""

from __future__ import annotations

import concurrent.futures
import copy
import functools
import multiprocessing
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import own_schemes
import pytest
from cases import CASES

import jaxinit as ji
from jaxinit import _catalogue, tree
from jaxinit._value import REGISTRY

BASE = {"w": jnp.ones((4, 8)), "v": jnp.ones((8, 8)), "u": jnp.ones((8, 2))}
NESTED = [
    ji.scaled(ji.stacked(ji.per_gate(ji.orthogonal(), 2)), 0.5),
    ji.masked(ji.scaled(ji.he_normal(gain=3.0), -2.0), np.tri(8)),
    ji.scaled(ji.normal(), np.ones((2, 1, 1))),
    ji.he_normal(activation="gelu", fan=(3, 4), strides=(2, 1)),
    ji.truncated_normal(lower=-np.inf, dtype="bfloat16"),
]
TREE = [
    tree.gpt2(),
    tree.gpt2(0.05, branches=3),
    tree.mitchell(),
    tree.gpt_neox(blocks=4),
    tree.t_fixup(decoder="*/decoder/*"),
    tree.deepnorm(),
    tree.mimetic(query_noise=0.5),
    tree.fixup(mode="fan_out"),
    tree.skipinit(0.1),
    tree.rezero(),
    tree.layerscale(),
    tree.hadamard_identity(),
    tree.idinit(last=0.0),
    tree.delta_conv("auto"),
    tree.edge_of_chaos(0.05),
    tree.looks_linear(),
    tree.siren(20),
    tree.chrono(100),
    tree.uniform_gate(),
    tree.by_kind("he_normal", ji.zeros),
    tree.combined(["he_normal", tree.skipinit(0.1)]),
    tree.with_gain(ji.orthogonal(), "auto"),
    tree.spectral(),
    tree.mup(BASE),
    tree.mup(BASE, scheme=ji.he_normal(gain=2), depth="sqrt", base_depth=4),
    tree.rules([("head/*", ji.zeros), ("*/kernel", "he_normal(gain=2)")]),
    tree.rules([(("*hf/bias", "*hi/bias"), ("chrono(9)", "chrono(9, 'input')"))]),
    tree.rules([(re.compile("Kernel$", re.I), ji.orthogonal()), ("*bias", None)]),
]
CALIBRATED = [
    ji.calibrate.lsuv(),
    ji.calibrate.lsuv(None, {"*/kernel": 0.5}, branch="depth", head=0.1, logits=1),
    ji.calibrate.weight_norm(),
    ji.calibrate.metainit(steps=9),
    ji.calibrate.gradinit(None, norm=2),
    ji.calibrate.autoinit("he_normal", covariance=np.eye(2), like="data", examples=9),
]
OWN = [own_schemes.signs(2), own_schemes.quiet_heads(0.5)]
VALUES = [*(case.init for case in CASES), *NESTED, *TREE, *CALIBRATED, *OWN]


def test_every_scheme_of_the_library_is_here():
    names = {value.name for value in VALUES}
    for name, entry in _catalogue.catalogue().items():
        if _catalogue.builder_of(REGISTRY[name]).library:
            assert name in names, entry.signature


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_is_a_value(value):
    for twin in (
        ji.parse(repr(value)),
        pickle.loads(pickle.dumps(value)),
        copy.deepcopy(value),
        value.replace(),
    ):
        assert twin == value and hash(twin) == hash(value)
        assert repr(twin) == repr(value) and type(twin) is type(value)
    assert value != ji.constant(123.0) and value != object()
    for change in ("arguments", "_draw", "_parts", "name"):
        with pytest.raises(AttributeError, match="frozen"):
            setattr(value, change, {})
    with pytest.raises(AttributeError, match="frozen"):
        del value.arguments
    with pytest.raises(TypeError):
        value.arguments["dtype"] = "float16"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tree.gpt2(1), tree.gpt2(1.0)),
        (tree.gpt2(0.02), tree.gpt2()),
        (tree.gpt2(np.float64(0.5)), tree.gpt2(jnp.asarray(0.5))),
        (tree.skipinit(jnp.float32(0)), tree.skipinit()),
        (tree.idinit(0), tree.idinit(last=False)),
        (tree.rules([["*", "zeros"]]), tree.rules((("*", ji.zeros()),))),
        (tree.rules([(re.compile("(?i)x"), None)]), tree.rules([("re:(?i)x", None)])),
        (tree.mup(BASE), tree.mup(jax.eval_shape(lambda: BASE))),
        (tree.mup(BASE), tree.mup({k: w.shape for k, w in BASE.items()})),
        (  # a stack of layers is one line of the text, whatever its depth
            tree.mup({f"layer_{k}": {"w": jnp.ones((2, 3))} for k in range(9)}),
            tree.mup({"layer_*/w": (2, 3)}),
        ),
        (ji.scaled(ji.normal(), [1, 2]), ji.scaled(ji.normal(), (1.0, 2.0))),
        (ji.sparse(sparsity=1), ji.sparse(sparsity=1.0)),
        (ji.he_normal(activation=jax.nn.relu), ji.he_normal(activation="relu")),
        (ji.random_walk(jax.nn.relu), ji.random_walk()),
        (ji.he_normal(in_axis=[0, 1]), ji.he_normal(in_axis=(0, 1))),
        (own_schemes.signs(1), own_schemes.signs(1.0)),
    ],
    ids=repr,
)
def test_equal_arguments_have_one_form(one, other):
    assert one == other and hash(one) == hash(other) and repr(one) == repr(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tree.gpt2(), tree.gpt2(branches=1)),
        (tree.gpt2(), tree.mitchell()),
        (tree.mup(BASE), tree.mup({**BASE, "w": jnp.ones((4, 16))})),
        (tree.mup({"w0": (2, 3), "w1": (3, 3)}), tree.mup({"w*": (3, 3)})),
        (tree.rules([("a", None)]), tree.rules([("a", ji.zeros)])),
        (tree.rules([("x", None)]), tree.rules([(re.compile("x"), None)])),
        (ji.constant(True), ji.constant(1)),
        (ji.orthogonal(), ji.scaled_orthogonal()),
    ],
    ids=repr,
)
def test_unequal_ones_differ(one, other):
    assert one != other and repr(one) != repr(other)


def test_patterns_of_regular_expressions_keep_their_meaning(key):
    params = {"Head": {"Kernel": jnp.ones((2, 2)), "k": jnp.ones(2)}}
    for pattern in (re.compile("head/kernel", re.I), "re:(?i)^head/k.*l$"):
        new = ji.reinit(key, params, [(pattern, ji.zeros)])
        assert not new["Head"]["Kernel"].any() and new["Head"]["k"].all()
    scheme = tree.rules([(lambda layer: layer.path.endswith("k"), ji.zeros)])
    assert not ji.reinit(key, params, scheme)["Head"]["k"].any()
    assert scheme == tree.rules(scheme.arguments["pairs"])


def test_a_scheme_by_its_text_is_the_scheme(key):
    params = {"w": jnp.ones((8, 8))}
    apply = lambda p, x: x @ p["w"]  # noqa: E731
    x = (jnp.ones((1, 8)),)
    for scheme in (ji.he_normal(), tree.spectral(), tree.rules([("w", "normal(2.0)")])):
        np.testing.assert_array_equal(
            ji.reinit(key, params, scheme, apply, x)["w"],
            ji.reinit(key, params, repr(scheme), apply, x)["w"],
        )


def test_a_scheme_defined_again_draws_its_new_formula(key):
    def define(value):
        @ji.initializer
        def again(dtype=None):
            return lambda key, shape, dtype: jnp.full(shape, value, dtype)

        return again()

    draw = jax.jit(lambda init, key: init(key, (2,)), static_argnums=0)
    params = {"kernel": jnp.ones((2, 2))}
    first, second = define(1.0), define(2.0)
    for init, value in ((first, 1.0), (second, 2.0), (first, 1.0)):
        assert (init(key, (2,)) == value).all()
        assert (draw(init, key) == value).all()
        assert (ji.reinit(key, params, init)["kernel"] == value).all()
        assert ji.describe(params, [("kernel", init)])[0].init is init
        nested = ji.scaled(init, 3.0)
        assert (nested(key, (2,)) == 3 * value).all()
    assert first != second and ji.scaled(first, 1) != ji.scaled(second, 1)
    assert ji.parse("again()") == second


@pytest.mark.parametrize(
    ("decorate", "taken"),
    [
        (ji.initializer, "normal"),
        (ji.initializer, "kaiming_normal"),
        (ji.initializer, "zeros"),
        (tree.tree_scheme, "gpt2"),
        (tree.tree_scheme, "rules"),
    ],
)
def test_the_names_of_the_library_are_taken(decorate, taken):
    def build(dtype=None):
        return lambda *anything: {}

    build.__name__ = taken
    before = dict(REGISTRY)
    with pytest.raises(ValueError, match=rf"{taken}.* is taken .*another name\.$"):
        decorate(build)
    assert before == REGISTRY
    init = ji.normal(3)
    assert pickle.loads(pickle.dumps(init)) == init


def test_a_scheme_within_a_function_does_not_pickle():
    @ji.initializer
    def local(dtype=None):
        return lambda key, shape, dtype: jnp.zeros(shape, dtype)

    with pytest.raises((AttributeError, pickle.PicklingError), match="local"):
        pickle.dumps(local())
    assert copy.deepcopy(local()) == local()


def test_another_process_has_the_same_values():
    sent = [own_schemes.signs(2), *TREE[-5:], ji.scaled(own_schemes.signs(), 2)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        texts = list(pool.map(repr, sent))
        back = list(pool.map(copy.copy, sent))
    assert texts == [repr(each) for each in sent] and back == sent


def test_parameters_of_unknown_type_or_keywords_say_so():
    with pytest.raises(TypeError, match=r"annotate \*\*layout as Unpack of a Typed"):

        @ji.initializer
        def loose(dtype=None, **layout):
            return lambda key, shape, dtype: jnp.zeros(shape, dtype)

    with pytest.raises(TypeError, match=r"unknown traits \['entry'\]"):

        @ji.initializer(entry=True)
        def odd(dtype=None):
            return lambda key, shape, dtype: jnp.zeros(shape, dtype)

    with pytest.raises(TypeError, match="must be a list of pairs"):
        tree.rules("*/kernel")


def test_a_shape_in_the_place_of_the_key_is_told(key):
    for init in (ji.he_normal(), ji.zeros, ji.constant(2)):
        with pytest.raises(TypeError, match="is a shape. Haiku and Keras"):
            init((2, 3), jnp.float32)


def test_no_scheme_promotes_ranks(key):
    firsts = {case.init.name: case for case in reversed(CASES)}
    assert {"orthogonal", "bilinear", "idinit", "sparse"} <= firsts.keys()
    odd = [
        (ji.orthogonal(batch_axis=1), (70, 3, 40)),
        (ji.scaled(ji.normal(), (1, 2)), (3, 2)),
        (ji.masked(ji.normal(), [True, False]), (3, 2)),
        (ji.convolution_orthogonal(), (3, 8, 4)),
        (ji.constant([1, 2]), (3, 2)),
    ]
    with jax.numpy_rank_promotion("raise"):
        for init, shape in [*((c.init, c.small) for c in firsts.values()), *odd]:
            assert jax.eval_shape(lambda k: init(k, shape), key).shape == shape  # noqa: B023


@pytest.mark.parametrize(
    ("chosen", "made", "error", "words"),
    [
        ({"kernle": ji.zeros}, {}, ValueError, "'kernle', which is no leaf"),
        ({"kernel": "zeros"}, {}, TypeError, "must be an initializer, or None"),
        ({}, {"bias": jnp.ones(2)}, ValueError, r"\['bias'\], which are no leaves"),
    ],
)
def test_a_scheme_of_ones_own_names_leaves(key, chosen, made, error, words):
    class Mine:
        def choose(self, layers):
            return chosen

        def finish(self, key, values, layers):
            return made

    with pytest.raises(error, match=words):
        ji.reinit(key, {"kernel": jnp.ones((2, 2))}, Mine())


def test_an_entrywise_scheme_draws_a_leaf_as_it_lies(key):
    # (out, in): a scheme that is not said to be entrywise sees (in, out).
    params = {"weight": jnp.ones((3, 5))}
    new = ji.reinit(key, params, own_schemes.signs(2.0))["weight"]
    own = tree._draw.path_key(key, "weight")
    np.testing.assert_array_equal(new, own_schemes.signs(2.0)(own, (3, 5)))
    scaled = ji.reinit(key, params, ji.scaled(own_schemes.signs(), 2.0))["weight"]
    np.testing.assert_array_equal(new, scaled)


def shifted(x):
    return jnp.tanh(x) + 0.1


class Slope:
    def __call__(self, x):
        return 0.5 * x


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (shifted, f"{__name__}:shifted"),
        (jnp.arctan, f"{jnp.arctan.__module__}:arctan"),
        (functools.partial(shifted), f"{__name__}:shifted"),
        (Slope(), f"{__name__}:Slope"),
        (jnp.tanh, "'tanh'"),
    ],
)
def test_the_text_of_a_function_is_where_it_comes_from(function, text):
    scheme = ji.he_normal(activation=function)
    assert repr(scheme) == f"he_normal(activation={text})"
    if ":" in text:  # is for readers: no text runs a function
        with pytest.raises(ValueError, match="no scheme"):
            ji.parse(repr(scheme))


def test_the_text_of_a_rule_for_a_function():
    rules = ji.tree.rules([(shifted, ji.zeros)])
    assert repr(rules) == f"tree.rules(pairs=(({__name__}:shifted, zeros()),))"


def test_a_scheme_with_rates_of_its_own_is_no_part():
    mup = ji.tree.mup({"w": jnp.ones((4, 4))})
    assert mup.has_rates and not ji.tree.skipinit().has_rates
    with pytest.raises(TypeError, match="has tree.mup, whose learning rates"):
        ji.tree.combined(["he_normal", mup])
    with pytest.raises(TypeError, match="has tree.mup, whose learning rates"):
        ji.tree.with_gain(mup)
