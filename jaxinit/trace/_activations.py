"""Nonlinearities, recognised by the name of a function or by the primitives it makes.

`jax.nn.relu` keeps its name in the jaxpr; `jax.nn.gelu` and hand-written ones leave
their primitives only. Activations therefore carry the set of operations since their
last base value, all of them functions of that value entry by entry, and the set tells
the nonlinearity: tanh times the value itself is gelu.
"""

from collections.abc import Callable, Set

# Names of functions under `jit` that are one nonlinearity, entry by entry.
ENTRYWISE = frozenset(
    "relu relu6 sigmoid silu gelu elu leaky_relu selu celu softplus log_sigmoid "
    "soft_sign hard_tanh hard_sigmoid hard_silu mish squareplus sparse_plus".split()
)
# The same, over an axis.
OVER_AXIS = frozenset("softmax log_softmax glu logsumexp one_hot sparsemax".split())

_ALIASES = {
    "swish": "silu",
    "hard_swish": "hard_silu",
    "_one_hot": "one_hot",
    "_softmax": "softmax",
    "_log_softmax": "log_softmax",
    "soft_relu": "softplus",
}

# Primitives that bend a curve. Roots and quotients are not among them: they belong to
# normalisations, whose gain is not that of a nonlinearity.
BENDS = frozenset(
    "tanh logistic erf erfc exp exp2 expm1 log1p max min clamp abs sin cos "
    "square integer_pow tan atan sinh cosh asinh sign floor round select_n".split()
)
COMPARISONS = frozenset("gt ge lt le".split())

_UNNAMED = ("tan", "atan", "sinh", "cosh", "asinh")

Ops = Set[str]
_RULES: tuple[tuple[str, Callable[[Ops], bool]], ...] = (
    ("mish", lambda ops: {"tanh", "log1p", "itself"} <= ops),
    ("gelu", lambda ops: "itself" in ops and bool(ops & {"tanh", "erf", "erfc"})),
    ("silu", lambda ops: {"logistic", "itself"} <= ops),
    ("tanh", lambda ops: "tanh" in ops),
    ("sigmoid", lambda ops: "logistic" in ops),
    ("erf", lambda ops: bool(ops & {"erf", "erfc"})),
    ("softplus", lambda ops: {"exp", "log1p"} <= ops),
    (
        "elu",
        lambda ops: bool(ops & {"exp", "expm1"}) and bool(ops & {"select_n", "max"}),
    ),
    ("squared_relu", lambda ops: {"max", "zero"} <= ops and bool(ops & {"square"})),
    ("relu", lambda ops: {"max", "zero"} <= ops and "min" not in ops),
    ("relu6", lambda ops: {"max", "min"} <= ops or "clamp" in ops),
    ("relu", lambda ops: {"select_n", "zero"} <= ops),
    ("leaky_relu", lambda ops: "select_n" in ops or "max" in ops),
    ("exp", lambda ops: bool(ops & {"exp", "exp2", "expm1"})),
    ("sin", lambda ops: "sin" in ops),
    ("cos", lambda ops: "cos" in ops),
    ("abs", lambda ops: "abs" in ops),
    # Of these no gain is known, which is then said.
    *((name, lambda ops, name=name: name in ops) for name in _UNNAMED),
)


def activation_name(name: str) -> str | None:
    """The nonlinearity that a function of this name is, None if it is none."""
    name = _ALIASES.get(name, name)
    return name if name in ENTRYWISE or name in OVER_AXIS else None


def curve_name(ops: Ops) -> str | None:
    """The nonlinearity that these operations make of a value, None if they are none.

    Args:
        ops: names of primitives and of nonlinearities, with "itself" for a product
            with the value itself and "zero" for a comparison with 0.
    """
    named = sorted(ops & ENTRYWISE)
    if named:
        squared = named == ["relu"] and bool(ops & {"square", "itself"})
        return "squared_relu" if squared else named[0]
    return next((name for name, rule in _RULES if rule(ops)), None)
