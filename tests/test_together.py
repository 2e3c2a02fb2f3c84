"""Leaves drawn together: gates of LSTMs, spectra of LRUs, and schemes over schemes."""

from __future__ import annotations

import fnmatch

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxinit as ji
from jaxinit import tree

KEY = jax.random.key(0)
SERIES = jnp.ones((2, 5, 3))
GATES = (("*hf/bias", "*hi/bias"), ("chrono(100)", "chrono(100, 'input')"))


def leaves(params):
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in flat}


class Linen(nn.Module):
    """Two LSTMs, one after the other."""

    cell: type = nn.LSTMCell

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.RNN(self.cell(8))(x)
        return nn.Dense(1)(x)


class Nnx(nnx.Module):
    """The same of NNX."""

    def __init__(self, cell, rngs):
        self.lower = nnx.RNN(cell(3, 8, rngs=rngs), rngs=rngs)
        self.upper = nnx.RNN(cell(8, 8, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.upper(self.lower(x))


def linen(cell, scheme):
    return leaves(ji.init(Linen(cell), KEY, SERIES, scheme=scheme)["params"])


def of_nnx(cell, scheme):
    made = ji.init(lambda rngs: Nnx(cell, rngs), KEY, SERIES, scheme=scheme)
    return {
        k.removesuffix("/value"): x
        for k, x in leaves(nnx.state(made, nnx.Param)).items()
    }


CELLS = {
    "linen": lambda scheme: linen(nn.LSTMCell, scheme),
    "linen optimized": lambda scheme: linen(nn.OptimizedLSTMCell, scheme),
    "nnx": lambda scheme: of_nnx(nnx.LSTMCell, scheme),
}


def pairs(params):
    forget = [path for path in params if path.endswith("hf/bias")]
    assert len(forget) == 2
    return [(params[p], params[p.replace("hf/", "hi/")]) for p in forget]


@pytest.mark.parametrize("scheme", [[GATES], tree.chrono(100)], ids=["rules", "tree"])
@pytest.mark.parametrize("cell", CELLS)
def test_forget_and_input_gates_are_opposite(cell, scheme):
    before, after = CELLS[cell](()), CELLS[cell](scheme)
    (lower, opposite), (upper, opposite_too) = pairs(after)
    np.testing.assert_array_equal(lower, -opposite)
    np.testing.assert_array_equal(upper, -opposite_too)
    assert lower.std() > 0 and not np.array_equal(lower, upper)
    assert 0 <= lower.min() and lower.max() <= np.log(99)
    for path, value in after.items():
        if not path.endswith(("hf/bias", "hi/bias")):
            np.testing.assert_array_equal(value, before[path])


@pytest.mark.parametrize(
    "scheme",
    [tree.chrono(100), [("*dense_h/bias", "chrono(100, 'packed')")]],
    ids=["tree", "rules"],
)
def test_a_packed_bias_holds_the_pair(scheme):
    after = of_nnx(nnx.OptimizedLSTMCell, scheme)
    for layer in ("lower", "upper"):
        gates = after[f"{layer}/cell/dense_h/bias"].reshape(4, 8)
        np.testing.assert_array_equal(gates[0], -gates[1])
        assert gates[1].std() > 0 and not gates[2:].any()


def test_chrono_without_a_trace_and_with_uniform_gates():
    params = ji.init(Linen(), KEY, SERIES, scheme=())["params"]
    for scheme in (tree.chrono(100), tree.uniform_gate()):
        for forget, entry in pairs(leaves(ji.reinit(KEY, params, scheme))):
            np.testing.assert_array_equal(forget, -entry)
            assert forget.std() > 0


LRU = {
    name: {"nu_log": jnp.zeros(64), "gamma_log": jnp.zeros(64)} for name in ("a", "b")
}
RING = ("lru_nu_log(0.5, 0.9)", "lru_gamma_log(0.5, 0.9)")


@pytest.mark.parametrize(
    "patterns",
    [
        ("*/nu_log", "*/gamma_log"),
        ("re:(.*)/nu_log$", "re:(.*)/gamma_log$"),
        ("[ab]/nu*", "[!c]/gamma*"),
        ("?/nu_log", "?/gamma_log"),
    ],
)
def test_gamma_is_that_of_the_same_eigenvalues(patterns):
    drawn = ji.reinit(KEY, LRU, [(patterns, RING)])
    moduli = {}
    for name, own in drawn.items():
        moduli[name] = np.exp(-np.exp(own["nu_log"]))
        total = moduli[name] ** 2 + np.exp(own["gamma_log"]) ** 2
        np.testing.assert_allclose(total, 1, atol=1e-5)
    assert not np.allclose(moduli["a"], moduli["b"])
    # The first keeps the values that it has by itself.
    alone = ji.reinit(KEY, LRU, [("*/nu_log", RING[0])])
    np.testing.assert_array_equal(alone["a"]["nu_log"], drawn["a"]["nu_log"])


@pytest.mark.parametrize(
    "pattern",
    ["*", "*/kernel", "?/b*", "[ab]/*", "[!a]/*", "a/[0-9]", "**l", "a.b", "[x", "[]]"],
)
def test_globs_match_as_those_of_the_shell(pattern):
    params = {
        "a": {"kernel": jnp.ones(2), "bias": jnp.ones(2), "1": jnp.ones(2)},
        "b": {"kernel": jnp.ones(2)},
        **{name: jnp.ones(2) for name in ("axb", "a.b", "[x", "]", "bell")},
    }
    wanted = {path for path in leaves(params) if fnmatch.fnmatchcase(path, pattern)}
    rows = ji.describe(params, [(pattern, ji.zeros)])
    assert {row.path for row in rows if row.init is not None} == wanted


def test_the_packed_bias_of_equinox():
    cell = eqx.nn.LSTMCell(3, 8, key=KEY)

    def apply(cell, x):
        step = lambda carry, x: (cell(x, carry), None)  # noqa: E731
        return jax.lax.scan(step, (jnp.zeros(8), jnp.zeros(8)), x)[0][0]

    new = ji.reinit(KEY, cell, tree.chrono(100), apply, (jnp.ones((5, 3)),))
    gates = new.bias.reshape(4, 8)
    np.testing.assert_array_equal(gates[0], -gates[1])
    assert gates[1].std() > 0 and not gates[2:].any()
    np.testing.assert_array_equal(new.weight_hh, cell.weight_hh)


def test_one_initializer_for_several_leaves_makes_them_equal():
    scheme = tree.rules([(("*/nu_log", "*/gamma_log"), ji.normal(1.0))])
    drawn = ji.reinit(KEY, LRU, scheme)
    np.testing.assert_array_equal(drawn["a"]["nu_log"], drawn["a"]["gamma_log"])
    assert not np.array_equal(drawn["a"]["nu_log"], drawn["b"]["nu_log"])
    opposite = (ji.normal(1.0), ji.scaled(ji.normal(1.0), -1.0))
    drawn = ji.reinit(KEY, LRU, [(("*/nu_log", "*/gamma_log"), opposite)])
    np.testing.assert_array_equal(drawn["a"]["nu_log"], -drawn["a"]["gamma_log"])


def test_an_earlier_rule_decides():
    rules = [("*hi/bias", ji.ones), GATES]
    for forget, entry in pairs(linen(nn.LSTMCell, rules)):
        assert forget.std() > 0 and (entry == 1).all()


SCHEMES = [
    tree.rules([GATES, ("*/kernel", "he_normal")]),
    tree.rules([(("re:(.*)a$", "re:(.*)b$", "re:(.*)c$"), "ones")]),
    tree.chrono(100),
    tree.uniform_gate(),
    tree.by_kind("he_normal", embedding=ji.normal(1.0)),
    tree.combined(["he_normal", tree.skipinit(0.1), [GATES]]),
    tree.combined([ji.edge_of_chaos("tanh", 0.05), tree.with_gain("orthogonal")]),
    tree.with_gain([("*kernel", ji.orthogonal())], "auto"),
    tree.delta_conv(bias_variance=0.01),
    tree.edge_of_chaos(0.05),
    tree.looks_linear(),
    tree.siren(20),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_a_text_that_parses(scheme):
    assert ji.parse(repr(scheme)) == scheme
    assert hash(ji.parse(repr(scheme))) == hash(scheme)


def test_a_scheme_of_ones_own_shares_keys():
    @tree.tree_scheme
    def twins():
        def assign(structure):
            return dict.fromkeys(structure.by_path, ji.normal(1.0))

        return assign, None, lambda structure: {"b": "a"}

    drawn = ji.reinit(KEY, {"a": jnp.ones(4), "b": jnp.ones(4)}, twins())
    np.testing.assert_array_equal(drawn["a"], drawn["b"])
    with pytest.raises(ValueError, match="b and a from one key, but their shapes"):
        ji.reinit(KEY, {"a": jnp.ones(4), "b": jnp.ones(5)}, twins())
    with pytest.raises(ValueError, match="equal shapes of two leaves"):
        ji.reinit(KEY, {"c": jnp.ones(4), "b": jnp.ones(5)}, twins())


class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        for k in range(2):
            y = nn.Dense(8)(nn.tanh(nn.Dense(8)(x)))
            x = x + self.param(f"scale_{k}", nn.initializers.ones, ()) * y
        return nn.Dense(2)(x)


def scaled(scheme, **options):
    made = ji.init(Scaled(), KEY, jnp.ones((2, 8)), scheme=scheme, **options)
    return leaves(made["params"])


def test_kernels_by_one_scheme_and_multipliers_by_another():
    both = scaled(tree.combined([ji.he_normal(), tree.skipinit(0.25)]))
    kernels, own = scaled(ji.he_normal()), scaled(())
    for path, value in both.items():
        if path.startswith("scale"):
            assert value == 0.25
        else:
            np.testing.assert_array_equal(value, kernels[path])
        assert path.endswith("kernel") == (not np.array_equal(kernels[path], own[path]))
    # The last that draws a leaf decides; a rule that keeps it does, too.
    rules = [("Dense_0/kernel", None), ("Dense_1/kernel", ji.ones)]
    mixed = scaled(tree.combined([ji.he_normal(), rules]))
    np.testing.assert_array_equal(mixed["Dense_0/kernel"], own["Dense_0/kernel"])
    np.testing.assert_array_equal(mixed["Dense_2/kernel"], kernels["Dense_2/kernel"])
    assert (mixed["Dense_1/kernel"] == 1).all()


def test_leaves_stay_together_under_another_scheme():
    memory = tree.combined([ji.lecun_normal(), tree.chrono(100)])
    for forget, entry in pairs(linen(nn.OptimizedLSTMCell, tree.with_gain(memory))):
        np.testing.assert_array_equal(forget, -entry)
        assert forget.std() > 0
    memory = tree.combined([tree.chrono(100), [("*hi/bias", ji.normal(1.0))]])
    alone = linen(nn.LSTMCell, [("*hi/bias", ji.normal(1.0))])
    for (_, entry), (_, own) in zip(
        pairs(linen(nn.LSTMCell, memory)), pairs(alone), strict=True
    ):
        np.testing.assert_array_equal(entry, own)


def test_what_a_scheme_finishes_yields_to_later_ones():
    @tree.tree_scheme
    def halves():
        def finish(key, values, structure):
            return {path: value * 0.5 for path, value in values.items()}

        return lambda structure: {}, finish

    params = {"a": jnp.ones(4), "b": jnp.ones(4)}
    scheme = tree.combined([halves(), [("b", ji.ones)]])
    drawn = ji.reinit(KEY, params, scheme)
    assert (drawn["a"] == 0.5).all() and (drawn["b"] == 1).all()
    later = ji.reinit(KEY, params, tree.combined([[("b", ji.zeros)], halves()]))
    assert (later["a"] == 0.5).all() and (later["b"] == 0).all()


def test_a_pair_is_for_kernels_and_biases():
    pair = ji.edge_of_chaos("tanh", 0.05)
    drawn = scaled(pair)
    again = scaled(tree.by_kind(*pair))
    for path, value in drawn.items():
        np.testing.assert_array_equal(value, again[path])
    biases = np.concatenate([x for path, x in drawn.items() if path.endswith("bias")])
    assert (biases**2).mean() == pytest.approx(0.05, rel=0.6)


def test_with_gain_is_the_keyword():
    for gain in ("auto", "critical"):
        drawn = scaled(tree.with_gain(ji.orthogonal(), gain))
        for path, value in scaled(ji.orthogonal(), gain=gain).items():
            np.testing.assert_array_equal(value, drawn[path])
    assert not np.allclose(
        drawn["Dense_2/kernel"], scaled(tree.with_gain(ji.orthogonal(), "auto"))[path]
    )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tree.rules([(("a",), "ones")]), TypeError, "two patterns or more"),
        (
            lambda: tree.rules([(("a", "b"), ("ones",) * 3)]),
            TypeError,
            "names 2 patterns and 3 initializers",
        ),
        (
            lambda: tree.rules([(("a", lambda x: True), "ones")]),
            TypeError,
            "need globs or regular expressions",
        ),
        (lambda: tree.rules([(("a", "b"), None)]), TypeError, "keeps a leaf"),
        (
            lambda: ji.reinit(KEY, LRU, [(("a/nu_log", "*/gamma_log"), "ones")]),
            ValueError,
            "a/nu_log, which 'a/nu_log' matches, has 0 partners by './gamma_log'",
        ),
        (
            lambda: ji.reinit(KEY, LRU, [(("*_log", "*log"), "ones")]),
            ValueError,
            "has 0 partners by",
        ),
        (
            lambda: ji.reinit(KEY, LRU, [(("*/nu_log", "*/none"), "ones")]),
            ValueError,
            r"no leaf matches '\*/none'",
        ),
        (lambda: scaled(tree.chrono(10)), ValueError, "has no LSTM whose gates"),
        (lambda: tree.chrono(2), ValueError, "must exceed 2"),
        (lambda: tree.combined(["ones"]), TypeError, "two schemes or more"),
        (lambda: tree.combined(["ones", 3]), TypeError, "must be an initializer"),
        (lambda: tree.by_kind(3), TypeError, "must be an initializer, or None"),
        (
            lambda: tree.with_gain(tree.mup(())),
            TypeError,
            "learning rates belong to its own",
        ),
        (lambda: tree.with_gain("ones", "all"), ValueError, "use one of 'auto'"),
    ],
)
def test_one_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()
