"""A whole model from a key: parameters drawn by a scheme, all else by the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxinit._models import Inputs, Keys, Model, as_model, keys_of
from jaxinit._types import is_array
from jaxinit.trace import Layer
from jaxinit.trace._trace import layers_made
from jaxinit.tree._choice import choose
from jaxinit.tree._combine import SchemeLike, as_scheme
from jaxinit.tree._gain import Gain
from jaxinit.tree._layers import layers_of
from jaxinit.tree._leaves import leaves_of
from jaxinit.tree._module import concrete, tell_plain
from jaxinit.tree._reinit import Shardings, draw, reinit
from jaxinit.tree._scheme import calibration_of


def init(
    model: Any,
    key: Keys,
    *inputs: Any,
    scheme: SchemeLike,
    gain: Gain | None = None,
    out_shardings: Shardings = None,
    **named: Any,
) -> Any:
    """Make a model whose parameters a scheme draws, without drawing them twice.

    The model is traced from shapes alone. What the scheme draws is drawn in place, one
    compiled program for each distinct scheme, shape, dtype and sharding; biases,
    normalization and what else no rule matches come from the model's own
    initialization, of which only the operations that they need are run.

    Args:
        model: a Flax Linen module; a class of NNX, or a function of `rngs`, that makes
            an NNX module; a class of Equinox, or a function of a `key`, that makes a
            callable pytree, or a pair of one and its state as
            `equinox.nn.make_with_state` does; a pair `(init, apply)` such as Haiku's
            transformed functions. A finished module of NNX or Equinox will do too: its
            parameters are drawn anew.
        key: one PRNG key. For Flax also a dictionary of keys, such as
            `{"params": key, "dropout": other}`, or an `nnx.Rngs`; the scheme draws
            from the stream of parameters.
        *inputs: inputs of the model. Arrays, `jax.ShapeDtypeStruct`s and floats are
            traced; flags, integers, texts and whatever else there is reach the model
            as they are. A module of Equinox is mapped over the leading axis, unless it
            only takes the inputs whole.
        scheme: as in `jaxinit.reinit`.
        gain: as in `jaxinit.reinit`.
        out_shardings: as in `jaxinit.reinit`, for the parameters.
        **named: inputs by name, and flags such as `train=False`. A flag of this kind
            that is left open, and has no default, is that of evaluation.

    Returns:
        For Linen the variables, as `model.init` gives them; for NNX and Equinox the
        module, or the pair of it and its state; for a pair what its `init` returns.

    Raises:
        TypeError: the model or the key is none of these. ValueError: as
        `jaxinit.reinit`, or the model raises where it is made.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> from flax import linen as nn
        >>> x = jnp.ones((1, 8))
        >>> variables = jaxinit.init(
        ...     nn.Dense(4), jax.random.key(0), x, scheme=jaxinit.he_normal()
        ... )
        >>> variables["params"]["kernel"].shape
        (8, 4)
    """
    own, keys = keys_of(key, "init")
    adapted = as_model(model, whole=True)
    given = jax.tree.map(_number, Inputs(inputs, named))

    def apply(params: Any, state: Any, x: Inputs) -> Any:
        return adapted.apply(params, state, x, jax.random.key(0), None)[0]

    if adapted.finished:
        params, state = adapted.init(keys, given)
        tell_plain(params, state, apply, (given,))
        call = lambda params, x: apply(params, state, x)  # noqa: E731
        new = reinit(
            own, params, scheme, call, (given,), gain=gain, out_shardings=out_shardings
        )
        return adapted.join(new, state)
    program = _Program(adapted, keys, given)
    params, state = program.shapes
    tell_plain(params, state, apply, (given,))
    leaves, rebuild = leaves_of(params)
    found = program.layers([leaf.path for leaf in leaves])
    if found is None:
        if _arrays(jax.tree.leaves(given)):
            found = layers_of(leaves, params, apply, (state, given))
        else:
            # Such a model computes from the arrays that it holds.
            held = jax.tree.map(concrete, state)
            found = layers_of(leaves, params, lambda p: apply(p, held, given), ())
    scheme = as_scheme(scheme)
    choices = choose(leaves, found, scheme, gain, abstract=False)

    ruled = [choices[leaf.path].init is not None for leaf in leaves]
    own_params, state = program.but(ruled)
    leaves, _ = leaves_of(own_params)
    params = rebuild(draw(own, leaves, choices, scheme, out_shardings))
    if (calibrate := calibration_of(scheme)) is not None:
        params = calibrate(own, params, lambda p, x: apply(p, state, x), (given,))
    return adapted.join(params, state)


class _Program:
    """A model made and used once, traced: for its shapes, its layers and its parts.

    What is no array in the model stays as it is.
    """

    def __init__(self, model: Model, keys: Keys, inputs: Inputs) -> None:
        """Trace the making of the model and its use."""
        flat, tree = jax.tree.flatten((keys, inputs))
        traced = _arrays(flat)
        seen: list[tuple[list[Any], Any]] = []

        def arrays(*given: Any) -> tuple[list[Any], list[Any]]:
            values = iter(given)
            keys, x = tree.unflatten(
                [next(values) if is_array(leaf) else leaf for leaf in flat]
            )
            made, outputs = model.made(keys, x)
            seen.append(jax.tree.flatten(made))
            return _arrays(seen[0][0]), _arrays(jax.tree.leaves(outputs))

        self._closed, (shapes, _) = jax.make_jaxpr(arrays, return_shape=True)(*traced)
        (self._flat, self._tree), *_ = seen
        self._count = len(shapes)
        self._keys = len(jax.tree.leaves(keys))
        self._given = traced
        self.shapes = self._filled(shapes)

    def layers(self, paths: Sequence[str]) -> list[Layer] | None:
        """The layers of the first arrays, which have these paths, if it can tell."""
        jaxpr = self._closed.jaxpr
        made = dict(zip(paths, jaxpr.outvars, strict=False))
        outputs = jaxpr.outvars[self._count :]
        if any(isinstance(var, core.Literal) for var in (*made.values(), *outputs)):
            return None
        # Without what only the making computes: some use the parameters there already.
        part = self._part([*made.values(), *outputs])
        return layers_made(part, made, set(jaxpr.invars[self._keys :]), outputs)

    def but(self, skipped: Sequence[bool]) -> Any:
        """The model without the first arrays that are to be skipped.

        Args:
            skipped: for the first arrays whether each is skipped; all others are made.

        Returns:
            The model, with shapes in place of arrays that were skipped.
        """
        skipped = [*skipped, *[False] * (self._count - len(skipped))]
        pairs = zip(self._closed.jaxpr.outvars, skipped, strict=False)
        part = self._part([var for var, skip in pairs if not skip])
        # Operation by operation: equal ones share what is compiled.
        given = map(concrete, self._given)
        made = iter(core.jaxpr_as_fun(self._closed.replace(jaxpr=part))(*given))
        # What the program holds as a number comes out as one, and not as an array.
        return self._filled(
            shape if skip else jnp.asarray(next(made), shape.dtype)
            for shape, skip in zip(
                _arrays(jax.tree.leaves(self.shapes)), skipped, strict=True
            )
        )

    def _part(self, wanted: Sequence[Any]) -> core.Jaxpr:
        """The program of these of its variables alone."""
        jaxpr = self._closed.jaxpr
        needed = {var for var in wanted if not isinstance(var, core.Literal)}
        eqns = []
        for eqn in reversed(jaxpr.eqns):
            if not needed.isdisjoint(eqn.outvars):
                eqns.append(eqn)
                needed.update(v for v in eqn.invars if not isinstance(v, core.Literal))
        return jaxpr.replace(eqns=eqns[::-1], outvars=list(wanted))

    def _filled(self, arrays: Iterable[Any]) -> Any:
        given = iter(arrays)
        flat = [next(given) if is_array(x) else x for x in self._flat]
        return jax.tree.unflatten(self._tree, flat)


def _number(leaf: Any) -> Any:
    """A number with a fraction, such as a time, as an array; all else as it is."""
    if isinstance(leaf, np.generic) and not np.issubdtype(leaf.dtype, np.inexact):
        return leaf.item()  # NumPy's flags and integers are such as Python's
    return jnp.asarray(leaf) if isinstance(leaf, (float, complex)) else leaf


def _arrays(leaves: Iterable[Any]) -> list[Any]:
    return [leaf for leaf in leaves if is_array(leaf)]
