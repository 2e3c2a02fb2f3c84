"""Callable pytrees, such as modules of Equinox."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxinit._models._model import (
    Inputs,
    Keys,
    Model,
    Params,
    State,
    is_floating,
    is_jax,
    left_open,
    making,
    one_key,
    train_flags,
    unpacked,
    what_was_raised,
)
from jaxinit._types import Array, Key, is_array


def is_pytree(model: Any) -> bool:
    """Whether it is a callable pytree of arrays, or a pair of one and its state."""
    if isinstance(model, tuple) and len(model) == 2 and not callable(model[1]):
        model = model[0]
    if isinstance(model, type) or not callable(model):
        return False
    equinox = sys.modules.get("equinox")
    if equinox is not None and isinstance(model, equinox.Module):
        return True
    return any(map(is_jax, jax.tree.leaves(model)))


class _Parts(NamedTuple):
    """How a pytree is put together.

    Attributes:
        tree: its structure.
        places: for each leaf whether it is a parameter; None if it is no array.
        fixed: the leaves that are no arrays.
    """

    tree: Any
    places: list[bool | None]
    fixed: list[Any]

    def join(self, params: Params, arrays: Any) -> Any:
        """The pytree with these parameters and other arrays."""
        given = {
            True: iter(jax.tree.leaves(params)),
            False: iter(jax.tree.leaves(arrays)),
            None: iter(self.fixed),
        }
        return jax.tree.unflatten(self.tree, [next(given[p]) for p in self.places])


def _parted(module: Any, whole: bool) -> tuple[_Parts, Params, Any]:
    """How a pytree is put together, its parameters, and its other arrays."""
    leaves, tree = jax.tree.flatten(module)
    chosen = is_jax if whole else is_floating
    places = [chosen(leaf) if is_jax(leaf) else None for leaf in leaves]
    pairs = list(zip(leaves, places, strict=True))

    def only(wanted: bool) -> Any:
        return tree.unflatten([x if place is wanted else None for x, place in pairs])

    fixed = [x for x, place in pairs if place is None]
    return _Parts(tree, places, fixed), only(True), only(False)


def of_pytree(
    make: Callable[[Key], Any], whole: bool, *, finished: bool = False
) -> Model:
    """Floating arrays are the parameters; other arrays and a `State` the state."""
    parts: list[_Parts] = []  # as the last trace found them

    def split(key: Keys) -> tuple[Params, State]:
        key = one_key(key)
        with making("a key"):
            made = make(key)
        nnx = sys.modules.get("flax.nnx")
        if not is_pytree(made) or (nnx is not None and isinstance(made, nnx.Module)):
            raise TypeError(
                f"model: the function of a key returned {type(made).__name__}, not a "
                "callable pytree such as an equinox.Module, or a pair of one and its "
                "equinox.nn.State."
            )
        module, carried = made if isinstance(made, tuple) else (made, None)
        how, params, arrays = _parted(module, whole)
        parts[:] = [how]
        return params, (arrays, carried)

    jax.eval_shape(lambda key: jax.tree.leaves(split(key)), jax.random.key(0))

    def join(params: Params, state: State) -> Any:
        arrays, carried = state
        module = parts[0].join(params, arrays)
        return module if carried is None else (module, carried)

    def apply(
        params: Params, state: State, x: Any, key: Keys, train: bool | None
    ) -> tuple[Array, State]:
        arrays, carried = state
        module = parts[0].join(params, arrays)
        equinox = sys.modules.get("equinox")
        if equinox is not None and train is not None:
            module = equinox.nn.inference_mode(module, not train)
        args, named = unpacked(x)
        flags = train_flags(module, args, named, train)
        takes_key = "key" in left_open(module, args, named)

        def call(inputs: Inputs, key: Key, carried: Any) -> tuple[Any, Any]:
            options = {**inputs.named, **flags, **({"key": key} if takes_key else {})}
            if carried is None:
                return module(*inputs.args, **options), None
            # A state is good for one call; a copy leaves this one as it is.
            own = jax.tree.map(lambda leaf: leaf, carried)
            return module(*inputs.args, own, **options)

        outputs, carried = _each_or_whole(
            call, Inputs(args, named), one_key(key), carried, _axis_name(module)
        )
        return outputs, (arrays, carried)

    return Model(
        lambda key, x: split(key), apply, join, finished=finished, joined="model"
    )


def _axis_name(module: Any) -> Any:
    """The name by which a normalization knows the batch axis; None without one."""
    nodes = jax.tree.leaves(module, is_leaf=lambda node: hasattr(node, "axis_name"))
    names = (getattr(node, "axis_name", None) for node in nodes)
    return next((name for name in names if isinstance(name, str)), None)


def _each_or_whole(
    call: Callable[[Inputs, Key, Any], tuple[Any, Any]],
    inputs: Inputs,
    key: Key,
    carried: Any,
    axis_name: str | None,
) -> tuple[Any, Any]:
    """A call for each entry of the leading axis, or else of the inputs as they are."""
    leaves, tree = jax.tree.flatten(inputs)
    mapped = [is_array(leaf) and leaf.ndim > 0 for leaf in leaves]
    sizes = {x.shape[0] for x, maps in zip(leaves, mapped, strict=True) if maps}

    def whole() -> tuple[Any, Any]:
        if axis_name is None:
            return call(inputs, key, carried)
        # A batch of one, so that the name of its axis is known.
        one = lambda _: call(inputs, key, carried)  # noqa: E731
        return jax.vmap(one, out_axes=None, axis_name=axis_name)(jnp.zeros(1))

    if len(sizes) != 1:
        return whole()
    (size,) = sizes
    arrays = [x for x, maps in zip(leaves, mapped, strict=True) if maps]

    def one(arrays: Sequence[Any], key: Key, carried: Any) -> tuple[Any, Any]:
        given = iter(arrays)
        pairs = zip(leaves, mapped, strict=True)
        entries = [next(given) if maps else leaf for leaf, maps in pairs]
        return call(tree.unflatten(entries), key, carried)

    try:
        return jax.vmap(one, (0, 0, None), (0, None), axis_name=axis_name or "batch")(
            arrays, jax.random.split(key, size), carried
        )
    except Exception as error:
        each = error
    try:
        return whole()
    except Exception as error:
        if what_was_raised(error) == what_was_raised(each):
            raise
        raise ValueError(
            "the module takes neither one example, an entry of the leading axis of its "
            f"inputs ({what_was_raised(each)}), nor the inputs as they are "
            f"({what_was_raised(error)})."
        ) from each
