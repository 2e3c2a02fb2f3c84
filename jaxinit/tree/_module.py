"""A module of NNX as the parameters that it holds; what else there is, is its own."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxinit._models import Inputs, as_model
from jaxinit._models._model import is_floating
from jaxinit.trace import kernels, layers


def opened(
    params: Any, apply: Callable[..., Any] | None = None, inputs: Sequence[Any] = ()
) -> tuple[Any, Any, Callable[[Any], Any]]:
    """The parameters of an NNX module, `apply` on them, and the way back.

    Parameters of any other kind are themselves.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(params, nnx.Module):
        return params, apply, lambda params: params
    model = as_model(params, whole=True)
    own, state = model.init(jax.random.key(0), Inputs())

    def on_state(params: Any, state: Any, *inputs: Any) -> Any:
        assert apply is not None
        return apply(model.join(params, state), *inputs)

    def on_params(params: Any, *inputs: Any) -> Any:
        return on_state(params, jax.tree.map(concrete, state), *inputs)

    if apply is not None:
        tell_plain(own, state, on_state, inputs)
    on_own = None if apply is None else on_params
    return own, on_own, lambda params: model.join(params, state)


def tell_plain(
    params: Any, state: Any, apply: Callable[..., Any], inputs: Sequence[Any]
) -> None:
    """Say which plain arrays of an NNX module are used as kernels.

    Args:
        params: the parameters.
        state: what else the module holds; that of another framework has none.
        apply: `apply(params, state, *inputs)`.
        inputs: its inputs.
    """
    is_box = lambda leaf: hasattr(leaf, "get_metadata")  # noqa: E731
    flat, tree = jax.tree_util.tree_flatten_with_path(state, is_leaf=is_box)
    if not any(is_box(leaf) for _, leaf in flat) and not hasattr(state, "flat_state"):
        return
    plain = {
        jax.tree_util.keystr(path, simple=True, separator="/"): place
        for place, (path, leaf) in enumerate(flat)
        if is_floating(leaf) and not is_box(leaf) and leaf.ndim > 1
    }
    if not plain:
        return

    def used(leaves: tuple[dict[str, Any], Any], rest: list[Any], *x: Any) -> Any:
        arrays, params = leaves
        for path, place in plain.items():
            rest[place] = arrays[path]
        return apply(params, tree.unflatten(rest), *x)

    values = [leaf for _, leaf in flat]
    arrays = {path: values[place] for path, place in plain.items()}
    rest = [None if k in plain.values() else leaf for k, leaf in enumerate(values)]
    for layer in kernels(layers(used, (arrays, params), rest, *inputs)):
        number, _, path = layer.path.partition("/")
        if number == "1":
            continue  # a parameter
        warnings.warn(
            f"{path}: a plain array of an NNX module is used as a kernel; it is "
            "no parameter there, so that no scheme draws it and no optimizer trains "
            "it; wrap it in nnx.Param(...).",
            stacklevel=4,
        )


def concrete(leaf: Any) -> Any:
    """Zeros for a shape without values; keys have some."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return jnp.zeros(leaf.shape, leaf.dtype)
