"""A tree of parameters drawn anew, in few programs and in place."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxinit._checks import is_traced
from jaxinit._models import Keys, keys_of
from jaxinit._types import Key
from jaxinit.tree._choice import Choice, choose
from jaxinit.tree._combine import SchemeLike, as_scheme
from jaxinit.tree._draw import draw_leaf, spot_of
from jaxinit.tree._gain import Gain, check_gain
from jaxinit.tree._layers import layers_of
from jaxinit.tree._leaves import Leaf, leaves_of
from jaxinit.tree._module import opened
from jaxinit.tree._scheme import calibration_of

Shardings: TypeAlias = Any
"""None, a mesh, a pair of a mesh and names or rules, or a tree like the parameters."""


def reinit(
    key: Keys,
    params: Any,
    scheme: SchemeLike,
    apply: Callable[..., Any] | None = None,
    inputs: Sequence[Any] = (),
    *,
    gain: Gain | None = None,
    out_shardings: Shardings = None,
    donate: bool = False,
) -> Any:
    """Draw the parameters of a model anew, by a scheme.

    The key of a leaf comes from its path alone, or from that of a leaf that it is drawn
    together with, so its values depend neither on the order of the tree, nor on what
    else is in it, nor on devices. Leaves of one scheme, shape, dtype and sharding share
    one compiled program.

    Args:
        key: one PRNG key, or as in `jaxinit.init`.
        params: any pytree of arrays or `jax.ShapeDtypeStruct`s: a Linen dictionary,
            with metadata boxes or without, an NNX state or module, a module of
            Equinox, parameters of Haiku.
        scheme: an initializer for every kernel; a scheme of `jaxinit.tree`, or one of
            `jaxinit.calibrate`, which needs `apply` and a batch of inputs; the text of
            each; or a list of rules, pairs (pattern, initializer), of which the
            first that matches decides. A pattern is a glob over the whole path
            ("*/kernel"), a regular expression searched for in it (compiled, or as text
            that begins with "re:"), or a function of the `jaxinit.trace.Layer`; None
            in place of an initializer keeps the leaf. Rules for leaves that are drawn
            together stand at `jaxinit.tree.rules`. A pair of initializers is for
            kernels and biases.
        apply: `apply(params, *inputs)`, whose use of each leaf then says its fans,
            axes and role. Without it they are read from names and shapes, as the
            frameworks do.
        inputs: inputs of `apply`, concrete or abstract.
        gain: gives each kernel the gain of the activation that feeds it, 1 if there is
            none, in place of its scheme's own; it needs `apply`. "auto" is
            `jaxinit.meanfield.gain`, which keeps the size of a signal; "critical" is
            `critical_gain`, which keeps that of gradients. They are one for ReLU; for
            smooth activations take the critical one where plain layers are many: a
            hundred tanh layers train with it alone.
        out_shardings: where the leaves shall live: a tree like `params` of
            `NamedSharding`s (None where a leaf may lie anywhere); or a mesh, whose
            axes the metadata of the boxes name; or a pair of a mesh and either a
            mapping from logical names to axes, or pairs (glob, PartitionSpec). By
            default a leaf stays where it is.
        donate: whether the arrays of `params` that are drawn anew are given up, each
            before its new values are made: memory then never holds more than the
            parameters and one leaf. They cannot be used afterwards.

    Returns:
        A tree like `params`, boxes and what is no array included. Leaves that the
        scheme does not draw are the very same arrays.

    Raises:
        ValueError: abstract leaves are not drawn, a pattern matches nothing, a scheme
            needs a fan that a leaf has not, or an activation has no critical gain.
        TypeError: `params` holds no arrays, or the scheme has another form.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> params = {"head": {"kernel": jnp.ones((8, 2)), "bias": jnp.ones(2)}}
        >>> rules = [("*/kernel", jaxinit.orthogonal()), ("*/bias", jaxinit.zeros)]
        >>> new = jaxinit.reinit(jax.random.key(0), params, rules)
        >>> new["head"]["bias"].tolist()
        [0.0, 0.0]
    """
    key, _ = keys_of(key, "reinit")
    params, apply, join = opened(params, apply, inputs)
    check_gain("reinit", gain)
    if gain is not None and apply is None:
        raise ValueError(
            f"reinit: gain={gain!r} reads activations from use; pass apply= and "
            "inputs=."
        )
    scheme = as_scheme(scheme)
    calibrate = calibration_of(scheme)
    if calibrate is not None and apply is None:
        raise ValueError(
            f"reinit: {scheme!r} sets scales by what the model does; pass apply= and "
            "inputs=."
        )
    leaves, rebuild = leaves_of(params)
    found = layers_of(leaves, params, apply, inputs)
    choices = choose(leaves, found, scheme, gain)
    new = rebuild(draw(key, leaves, choices, scheme, out_shardings, donate))
    if calibrate is not None:
        new = calibrate(key, new, apply, tuple(inputs))
    return join(new)


def draw(
    key: Key,
    leaves: Sequence[Leaf],
    choices: Mapping[str, Choice],
    scheme: SchemeLike,
    out_shardings: Shardings = None,
    donate: bool = False,
) -> list[Any]:
    """The new value of each leaf, or its own where no scheme draws it."""
    shardings = _shardings(leaves, out_shardings)
    kept = {id(leaf.value) for leaf in leaves if choices[leaf.path].init is None}

    def value(leaf: Leaf, sharding: NamedSharding | None) -> Any:
        choice = choices[leaf.path]
        if choice.init is not None:
            spot = spot_of(choice.layer, choice.fans)
            path = choice.key or leaf.path
            if donate and id(leaf.value) not in kept:
                _give_up(leaf)
            return draw_leaf(key, path, choice.init, spot, sharding)
        if out_shardings is None or sharding is None:
            return leaf.value
        return jax.device_put(leaf.value, sharding)

    drawn = [value(*pair) for pair in zip(leaves, shardings, strict=True)]
    finish = getattr(as_scheme(scheme), "finish", None)
    if finish is not None:
        by_path = dict(zip((leaf.path for leaf in leaves), drawn, strict=True))
        layers = [choice.layer for choice in choices.values()]
        made = finish(key, by_path, layers)
        if unknown := sorted(made.keys() - by_path.keys()):
            raise ValueError(
                f"reinit: {scheme!r} makes {unknown}, which are no leaves."
            )
        by_path.update(made)
        return list(by_path.values())
    return drawn


def _give_up(leaf: Leaf) -> None:
    """Free the memory of an array."""
    if is_traced(leaf.value):
        raise ValueError(
            f"reinit: donate=True gives up arrays, and {leaf.path} is traced; leave it "
            "out under jax.jit, whose donate_argnums does the same."
        )
    if isinstance(leaf.value, jax.Array):  # NumPy's, and shapes, have none to give
        leaf.value.delete()


def _shardings(leaves: Sequence[Leaf], asked: Shardings) -> list[NamedSharding | None]:
    """Where each leaf shall live; None where it does not matter."""
    if asked is None:
        return [_own_sharding(leaf) for leaf in leaves]
    if isinstance(asked, Mesh):
        asked = (asked, {})
    if isinstance(asked, tuple) and len(asked) == 2 and isinstance(asked[0], Mesh):
        mesh, rules = asked
        return [NamedSharding(mesh, _spec(leaf, rules)) for leaf in leaves]
    flat = jax.tree_util.tree_leaves(
        asked, is_leaf=lambda x: x is None or isinstance(x, NamedSharding)
    )
    if len(flat) != len(leaves) or not all(
        x is None or isinstance(x, NamedSharding) for x in flat
    ):
        raise ValueError(
            f"reinit: out_shardings has {len(flat)} leaves for {len(leaves)} "
            "parameters; give a NamedSharding or None for each, or a mesh."
        )
    return flat


def _own_sharding(leaf: Leaf) -> NamedSharding | None:
    sharding = None if is_traced(leaf.value) else getattr(leaf.value, "sharding", None)
    if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
        return sharding
    return None


def _spec(
    leaf: Leaf, rules: Mapping[str, Any] | Sequence[tuple[str, PartitionSpec]]
) -> PartitionSpec:
    """The partition that rules, or the names in the leaf's box, ask for."""
    if not isinstance(rules, Mapping):
        for pattern, spec in rules:
            if fnmatch.fnmatchcase(leaf.path, pattern):
                return spec
        return PartitionSpec()

    def axis(name: Any) -> Any:
        return rules.get(name, name if not rules else None)

    return PartitionSpec(*map(axis, leaf.names or ()))
