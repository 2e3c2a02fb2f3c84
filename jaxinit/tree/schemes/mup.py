"""The maximal update parametrization: widths and depths that share a learning rate."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax

from jaxinit import _checks
from jaxinit._canonical import As
from jaxinit._initializer import Initializer
from jaxinit._types import Key
from jaxinit.initializers import lecun_normal, scaled, zeros
from jaxinit.trace import KERNELS, Layer
from jaxinit.tree._layers import layers_of
from jaxinit.tree._leaves import leaves_of
from jaxinit.tree._reinit import is_nnx_module, reinit, split_module
from jaxinit.tree._scheme import Assign, TreeScheme, tree_scheme
from jaxinit.tree._structure import Structure

DEPTH_POWER = {None: 0.0, "sqrt": 0.5, "complete": 1.0}
"""By what power of the depth a residual branch shrinks."""


class Multipliers(NamedTuple):
    """What the optimizer's settings of one leaf are multiplied with.

    Attributes:
        learning_rate: of the learning rate.
        epsilon: of Adam's epsilon.
        weight_decay: of AdamW's weight decay, which the learning rate multiplies too.
    """

    learning_rate: float = 1.0
    epsilon: float = 1.0
    weight_decay: float = 1.0


def _is_multipliers(x: Any) -> bool:
    return isinstance(x, Multipliers)


class _Growth(NamedTuple):
    """How much wider a leaf's inputs and outputs are than the base model's."""

    inputs: float
    outputs: float

    @property
    def is_output(self) -> bool:
        """Whether the inputs alone grow."""
        return self.inputs != 1 and self.outputs == 1


@dataclasses.dataclass(frozen=True)
class _Parametrization:
    """The rules of muP, with the arguments of `mup`."""

    base: tuple[tuple[str, tuple[int, ...]], ...]
    scheme: Initializer | None
    optimizer: str
    depth: str | None
    base_depth: int | None
    zero_readout: bool
    zero_query: bool
    tied: bool

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the base model's leaves, by path."""
        return dict(self.base)

    def _base_shape(self, layer: Layer) -> tuple[int, ...]:
        """The layer's shape in the base model, or one sentence."""
        base = self.shapes.get(layer.path, self.shapes.get(_numberless(layer.path)))
        if base is None or len(base) != len(layer.shape):
            raise ValueError(
                f"tree.mup: {layer.path} has shape {layer.shape}, but {base} in the "
                "base model; give the same model at another width as base."
            )
        return base

    @property
    def power(self) -> float:
        """By what power of the depth a residual branch shrinks."""
        return DEPTH_POWER[self.depth]

    def initializers(self, model: Structure) -> Mapping[str, Initializer]:
        """The initializer of each kernel, by path."""
        init = lecun_normal() if self.scheme is None else self.scheme
        chosen: dict[str, Initializer] = {}
        for kernel in model.kernels:
            growth = self._growth(kernel)
            output = kernel in model.heads or growth.is_output
            query = self._attention_scale(kernel, model) is not None
            if (output and self.zero_readout) or (query and self.zero_query):
                chosen[kernel.path] = zeros
                continue
            factor = growth.inputs**-0.5 if output else 1.0
            factor *= self._function_scale(kernel, model)
            chosen[kernel.path] = init if factor == 1 else scaled(init, factor)
        return chosen

    def multipliers(self, layer: Layer, model: Structure) -> Multipliers:
        """What the settings of a leaf's optimizer are multiplied with."""
        growth = self._growth(layer)
        scale = self._function_scale(layer, model)
        kernel = layer.kind in KERNELS
        if self.optimizer == "sgd":
            if kernel and growth.inputs != 1:
                rate = 1 / growth.inputs if growth.is_output else 1.0
            else:
                rate = growth.outputs
            return Multipliers(rate * scale**2)
        inside = layer.path in model.inside or bool(
            model.inside.intersection(layer.acts_on)
        )
        deeper = self._deeper(model) if inside else 1.0
        width = growth.inputs if kernel else 1.0
        hidden = kernel and not growth.is_output
        rate = deeper ** (self.power - 1) if self.power else 1.0
        return Multipliers(
            learning_rate=rate / width * scale,
            epsilon=deeper**-self.power / growth.outputs / scale,
            weight_decay=(width if hidden else 1.0) / scale,
        )

    def _growth(self, layer: Layer) -> _Growth:
        base = self._base_shape(layer)

        def ratio(axes: Sequence[int]) -> float:
            return math.prod(layer.shape[a] / base[a] for a in axes)

        if layer.kind in KERNELS:
            return _Growth(ratio(layer.in_axes), ratio(layer.out_axes))
        if layer.kind == "embedding":
            tied = any(use.kind == "dense" for use in layer.other_uses)
            if tied and not self.tied and ratio(layer.out_axes) != 1:
                raise ValueError(
                    f"tree.mup: {layer.path} is both embedding and readout, which need "
                    "different scales; multiply the logits in the model by the base "
                    "width over the width, and say tied=True."
                )
        return _Growth(1.0, ratio(layer.out_axes))

    def _deeper(self, model: Structure) -> float:
        return model.depth / (self.base_depth or model.depth)

    def _function_scale(self, layer: Layer, model: Structure) -> float:
        """What the layer's function is multiplied with, through its parameters."""
        scale = 1.0
        if layer.path in model.ends or model.ends.intersection(
            layer.acts_on if layer.kind == "bias" and len(layer.acts_on) == 1 else ()
        ):
            scale *= self._deeper(model) ** -self.power
        return scale * (self._attention_scale(layer, model) or 1.0)

    def _attention_scale(self, layer: Layer, model: Structure) -> float | None:
        """Queries turn the model's 1 / sqrt(size) into 1 / size; None if it is none."""
        for branch in model.branches:
            if branch.queries_and_keys[:1] == (layer,) and len(layer.out_axes) == 2:
                size = layer.out_axes[-1]
                return (self._base_shape(layer)[size] / layer.shape[size]) ** 0.5
        return None


class MuP(TreeScheme):
    """The parametrization of a model against a narrower one; see `mup`."""

    __slots__ = ()

    def init(
        self, key: Key, params: Any, apply: Callable[..., Any], inputs: Sequence[Any]
    ) -> tuple[Any, Any]:
        """Parameters, and an Optax transform with each leaf's learning rate.

        Args:
            key: one PRNG key.
            params: as in `jaxinit.reinit`.
            apply: `apply(params, *inputs)`.
            inputs: its inputs.

        Returns:
            The parameters; and a transform that multiplies each leaf's update, last in
            a chain: `optax.chain(optax.adam(1e-3), transform)`.
        """
        drawn = reinit(key, params, self, apply, inputs)
        return drawn, self.transform(params, apply, inputs)

    def multipliers(
        self, params: Any, apply: Callable[..., Any], inputs: Sequence[Any]
    ) -> Any:
        """The `Multipliers` of each leaf, a tree like the parameters."""
        if is_nnx_module(params):
            params, on_params, _ = split_module(params, apply)
            apply = on_params or apply
        leaves, rebuild = leaves_of(params)
        by_path = self.by_path(layers_of(leaves, params, apply, inputs))
        return rebuild([by_path[leaf.path] for leaf in leaves])

    def transform(
        self, params: Any, apply: Callable[..., Any], inputs: Sequence[Any]
    ) -> Any:
        """The Optax transform of `init` alone."""
        import optax

        tree = self.multipliers(params, apply, inputs)

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            del params
            scale = lambda m, u: jax.tree.map(lambda x: m.learning_rate * x, u)  # noqa: E731
            return jax.tree.map(scale, tree, updates, is_leaf=_is_multipliers), state

        return optax.GradientTransformation(optax.init_empty_state, update)

    def adamw(
        self,
        learning_rate: Any,
        params: Any,
        apply: Callable[..., Any],
        inputs: Sequence[Any],
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> Any:
        """AdamW with learning rate, epsilon and weight decay of each leaf.

        Args:
            learning_rate: of the base model, a number or an Optax schedule.
            params: as in `init`.
            apply: as in `init`.
            inputs: as in `init`.
            eps: Adam's epsilon of the base model.
            weight_decay: weight decay of the base model.
            **options: further keywords of `optax.adamw`.

        Returns:
            The Optax transform.
        """
        import optax

        tree = self.multipliers(params, apply, inputs)
        kinds = set(jax.tree.leaves(tree, is_leaf=_is_multipliers))

        def rate(m: Multipliers) -> Any:
            if callable(learning_rate):
                return lambda step: m.learning_rate * learning_rate(step)
            return m.learning_rate * learning_rate

        transforms: dict[Any, Any] = {
            repr(m): optax.adamw(
                rate(m),
                eps=eps * m.epsilon,
                weight_decay=weight_decay * m.weight_decay,
                **options,
            )
            for m in kinds
        }
        labels = jax.tree.map(repr, tree, is_leaf=_is_multipliers)
        return optax.multi_transform(transforms, labels)

    def by_path(self, found: Sequence[Layer]) -> dict[str, Multipliers]:
        """The `Multipliers` of each leaf by its path.

        Args:
            found: the model's layers, as `jaxinit.trace.layers` has them.

        Returns:
            From path to `Multipliers`.
        """
        model = Structure(found)
        by = _Parametrization(**self.arguments)
        return {layer.path: by.multipliers(layer, model) for layer in model.layers}


def _shapes(owner: str, name: str, base: Any) -> tuple[Any, ...]:
    """The shapes of a base model by path, sorted; such pairs or a mapping will do, too.

    Paths that differ in numbers alone are one, with "*" for each number, where they
    have one shape: the layers of a stack, of any depth.
    """
    pairs = tuple(base.items()) if isinstance(base, Mapping) else base
    if not isinstance(pairs, (tuple, list)) or not all(map(_is_shape, pairs)):
        if is_nnx_module(base):
            base, _, _ = split_module(base, None)
        pairs = [(leaf.path, leaf.value.shape) for leaf in leaves_of(base)[0]]
    alike: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, shape in pairs:
        alike.setdefault(_numberless(path), {})[path] = tuple(shape)
    shapes: dict[str, tuple[int, ...]] = {}
    for path, own in alike.items():
        same = len(set(own.values())) == 1
        shapes.update({path: next(iter(own.values()))} if same else own)
    return tuple(sorted(shapes.items()))


def _numberless(path: str) -> str:
    return re.sub(r"\d+", "*", path)


def _is_shape(pair: Any) -> bool:
    """Whether it is a path with a shape."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        return False
    path, shape = pair
    sizes = shape if isinstance(shape, (tuple, list)) else [None]
    return isinstance(path, str) and all(isinstance(size, int) for size in sizes)


@tree_scheme(kind=MuP, cites=("yang2022mup", "yang2024depth", "dey2025"))
def mup(
    base: Annotated[Any, As(_shapes)],
    *,
    scheme: Initializer | None = None,
    optimizer: Literal["adam", "sgd"] = "adam",
    depth: Literal["sqrt", "complete"] | None = None,
    base_depth: int | None = None,
    zero_readout: bool = True,
    zero_query: bool = True,
    tied: bool = False,
) -> Assign:
    r"""The maximal update parametrization: learning rates that hold at any width.

    With r the growth of a leaf's fan-in against the base model (1 at the base, where
    all is as `scheme` has it):

    | leaf | variance | Adam's rate | SGD's rate |
    |---|---|---|---|
    | hidden: fan-in and fan-out grow | as scheme, ~ 1 / fan-in | 1 / r | 1 |
    | input, bias, scale: fan-out grows | as scheme | 1 | growth of fan-out |
    | output: fan-in grows | times 1 / r, or 0 | 1 / r | 1 / r |

    Query kernels of shape (d, heads, size) are also multiplied by the root of the base
    head size over the head size, which turns the model's $1/\sqrt{d}$ attention into
    1/d. With `depth`, residual branches of a model $m_L$ times as deep as the base are
    multiplied through their last kernels by $m_L^{-1/2}$ ("sqrt", depth-muP, with
    Adam's rate of what is inside times $m_L^{-1/2}$) or $m_L^{-1}$ ("complete",
    CompleteP, rates unchanged); `MuP.adamw` also follows CompleteP's rules for epsilon
    and weight decay.

    Args:
        base: the parameters of the same model at the base width, concrete or abstract;
            or their shapes by path, in which "*" may stand for the numbers of layers.
        scheme: the initializer of kernels at the base; `lecun_normal()` if None.
        optimizer: whose rates: "adam" (any that normalises gradients) or "sgd".
        depth: None, "sqrt" or "complete".
        base_depth: residual branches of the base model for `depth`, two per block of a
            transformer.
        zero_readout: whether output kernels are initialized to zero.
        zero_query: whether query kernels are.
        tied: whether the model itself multiplies the logits of a tied embedding by
            base width over width.

    Returns:
        A `MuP`: a scheme for whole models whose `init` returns the parameters and the
        Optax transform, and whose `multipliers` returns the factors.

    Raises:
        ValueError: the base has other leaves, a readout is tied, or `depth` comes
            without `base_depth` or with SGD.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> base = {"w": jnp.ones((4, 8)), "v": jnp.ones((8, 8)), "u": jnp.ones((8, 2))}
        >>> wide = {"w": jnp.ones((4, 16)), "v": jnp.ones((16, 16)),
        ...         "u": jnp.ones((16, 2))}
        >>> apply = lambda p, x: x @ p["w"] @ p["v"] @ p["u"]
        >>> rates = mup(base).multipliers(wide, apply, (jnp.ones((1, 4)),))
        >>> {name: m.learning_rate for name, m in rates.items()}
        {'u': 0.5, 'v': 0.5, 'w': 1.0}

    References:
        Yang et al. 2022, arXiv:2203.03466, table 3; Yang, Yu, Zhu and Hayou 2023,
        arXiv:2310.02244, for depth; Dey et al. 2025, arXiv:2505.01618, table 1.
    """
    if scheme is not None and not isinstance(scheme, Initializer):
        raise TypeError(f"tree.mup: scheme={scheme!r} must be an initializer.")
    _checks.choice("tree.mup", "optimizer", optimizer, ("adam", "sgd"))
    if depth not in DEPTH_POWER:
        raise ValueError(
            f"tree.mup: depth={depth!r} must be None, 'sqrt' or 'complete'."
        )
    if depth is not None and (base_depth is None or optimizer == "sgd"):
        raise ValueError(
            f"tree.mup: depth={depth!r} needs base_depth=, the residual branches of "
            "the base model, and Adam, for which its rules were found."
        )
    return _Parametrization(
        base, scheme, optimizer, depth, base_depth, zero_readout, zero_query, tied
    ).initializers
