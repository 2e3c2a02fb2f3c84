"""The rules of muP: what each leaf of a model is drawn and trained with."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from jaxinit._initializer import Initializer
from jaxinit._layout import Spot
from jaxinit._types import Array, Key
from jaxinit.initializers import lecun_normal, scaled, uniform, zeros
from jaxinit.trace import KERNELS, Layer
from jaxinit.tree._draw import path_key, spot_of
from jaxinit.tree._structure import Structure

DEPTH_POWER = {None: 0.0, "sqrt": 0.5, "complete": 1.0}
"""By what power of the depth a residual branch shrinks."""

QUERY = re.compile(r"(?:^|[^a-z])w?q(?:uery|ueries)?(?![a-z])", re.IGNORECASE)
PACKED = re.compile("key|val|kv", re.IGNORECASE)


class Multipliers(NamedTuple):
    """What the optimizer's settings of one leaf are multiplied with.

    Attributes:
        learning_rate: of the learning rate.
        epsilon: of Adam's epsilon.
        weight_decay: of the weight decay, which the learning rate multiplies too, as
            AdamW does.
    """

    learning_rate: float = 1.0
    epsilon: float = 1.0
    weight_decay: float = 1.0


class Growth(NamedTuple):
    """How much wider a leaf's inputs and outputs are than the base model's."""

    inputs: float
    outputs: float


@dataclasses.dataclass(frozen=True)
class Rules:
    """The arguments of `mup`."""

    base: tuple[tuple[str, tuple[int, ...]], ...]
    scheme: Initializer | None
    optimizer: str
    depth: str | None
    base_depth: int | None
    zero_readout: bool
    zero_query: bool
    tied: bool
    attention: bool | None

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the base model's leaves, by path."""
        return dict(self.base)

    def base_shape(self, layer: Layer) -> tuple[int, ...]:
        """The layer's shape in the base model, or one sentence."""
        # Linen's variables have the parameters one level deeper.
        paths = (layer.path, layer.path.removeprefix("params/"), f"params/{layer.path}")
        names = (name for path in paths for name in (path, numberless(path)))
        base = next((self.shapes[n] for n in names if n in self.shapes), None)
        if base is None or len(base) != len(layer.shape):
            raise ValueError(
                f"tree.mup: {layer.path} has shape {layer.shape}, but {base} in the "
                "base model; give the same model at another width as base."
            )
        return base

    def ratio(self, layer: Layer, axes: Iterable[int]) -> float:
        """How much longer these axes are, all in all, than in the base model."""
        base = self.base_shape(layer)
        return math.prod(layer.shape[axis] / base[axis] for axis in axes)

    def growth(self, layer: Layer) -> Growth:
        """How much the leaf's inputs and outputs grow; only kernels have inputs."""
        outputs = self.ratio(layer, layer.out_axes)
        if layer.kind in KERNELS:
            return Growth(self.ratio(layer, layer.in_axes), outputs)
        readout = any(use.kind == "dense" for use in layer.other_uses)
        if layer.kind == "embedding" and readout and not self.tied and outputs != 1:
            raise ValueError(
                f"tree.mup: {layer.path} is both embedding and readout, which need "
                "different scales; multiply the logits in the model by the base width "
                "over the width, and say tied=True."
            )
        return Growth(1.0, outputs)

    def initializers(self, model: Structure) -> Mapping[str, Initializer]:
        """The initializer of each kernel, by path."""
        init = lecun_normal() if self.scheme is None else self.scheme
        factors = function_factors(self, model)
        queries = {query.kernel.path for query in queries_of(model) if query.alone}
        chosen: dict[str, Initializer] = {}
        for kernel in model.kernels:
            growth = self.growth(kernel)
            output = kernel in model.heads or growth.inputs != 1 == growth.outputs
            query = kernel.path in queries and not kernel.normalized_after
            if (output and self.zero_readout) or (query and self.zero_query):
                chosen[kernel.path] = zeros
                continue
            fans = (kernel.fan_in / growth.inputs, kernel.fan_out / growth.outputs)
            spot = spot_of(kernel, fans)
            factor = factors.get(kernel.path, 1.0)
            drawn = init
            if growth != (1, 1) and _by_fans(init, spot):
                drawn = init.fitted(spot) or init
                factor *= growth.inputs**-0.5
            if output:
                factor *= growth.inputs**-0.5
            chosen[kernel.path] = drawn if factor == 1 else scaled(drawn, factor)
        return chosen

    def finish(
        self, key: Key, values: Mapping[str, Array], model: Structure
    ) -> Mapping[str, Array]:
        """Embeddings, biases and scales at the size that they have in the base model.

        Those of the model's own initialization stay as they are, unless it is one that
        makes them smaller with the width, or of a known size that a factor is due to:
        embeddings of mean square 1 / features, biases within 1 / sqrt(fan-in), scales
        of 1. What has been brought to its size is of none of these, or has the same
        distribution when it is again.
        """
        factors = function_factors(self, model)
        made: dict[str, Array] = {}
        for layer in model.layers:
            value, factor = values[layer.path], factors.get(layer.path, 1.0)
            if not jnp.issubdtype(layer.dtype, jnp.inexact):
                continue  # a quantised table
            if layer.kind == "embedding":
                outputs = self.growth(layer).outputs
                if outputs != 1 and layer.in_axes and not is_scaled(layer):
                    shrinks = _has_mean_square(value, 1 / _features(layer))
                    factor = jnp.asarray(outputs**0.5, value.dtype)
                    made[layer.path] = jnp.where(shrinks, value * factor, value)
            elif layer.kind == "bias":
                kernels = [model.by_path[path] for path in layer.acts_on]
                for kernel in (each for each in kernels if each.kind in KERNELS):
                    inputs = self.growth(kernel).inputs
                    if inputs != 1 or factor != 1:
                        bound = kernel.fan_in**-0.5
                        own_bound = bound * inputs**0.5 * factor
                        draw = uniform(minval=-own_bound, maxval=own_bound)
                        own_key = path_key(key, layer.path)
                        new = draw(own_key, layer.shape, layer.dtype)
                        own = made.get(layer.path, value)
                        made[layer.path] = jnp.where(_fills(value, bound), new, own)
            elif layer.kind == "scale" and factor != 1:
                new = jnp.asarray(factor, value.dtype)
                made[layer.path] = jnp.where(value == 1, new, value)
        return made

    def multipliers(self, model: Structure) -> dict[str, Multipliers]:
        """What the settings of each leaf's optimizer are multiplied with, by path."""
        factors = function_factors(self, model)
        inside = within_branches(model)
        power = DEPTH_POWER[self.depth]
        found: dict[str, Multipliers] = {}
        for layer in model.layers:
            growth = self.growth(layer)
            factor = factors.get(layer.path, 1.0)
            if self.optimizer == "sgd":
                rate = growth.outputs / growth.inputs * factor**2
                found[layer.path] = Multipliers(rate, weight_decay=1 / rate)
                continue
            deeper = self.deeper(model) if layer.path in inside else 1.0
            found[layer.path] = Multipliers(
                (deeper ** (power - 1) if power else 1.0) / growth.inputs * factor,
                deeper**-power / growth.outputs / factor,
                growth.inputs / factor,
            )
        return found

    def deeper(self, model: Structure) -> float:
        """How many times as many residual branches as in the base model."""
        if self.depth is None or self.base_depth is None:
            return 1.0
        if not model.depth:
            raise ValueError(
                f"tree.mup: depth={self.depth!r} but the model has no residual branch; "
                "leave depth= out."
            )
        return model.depth / self.base_depth


def function_factors(rules: Rules, model: Structure) -> dict[str, float]:
    """What layers' outputs are multiplied with through their parameters, by path.

    The last kernels of branches shrink with the depth, and queries turn the model's
    1 / sqrt(size) attention into 1 / size; a bias goes with its kernel. Where a
    normalization is right behind the kernel, its scale bears the factor. A table that
    the program multiplies by the root of its features is smaller by that.
    """
    depth = float(rules.deeper(model) ** -DEPTH_POWER[rules.depth])
    outputs: dict[str, float] = dict.fromkeys(model.ends, depth)
    for query in queries_of(model) if rules.attention is not False else ():
        path = query.kernel.path
        outputs[path] = outputs.get(path, 1.0) * size_growth(rules, query) ** -0.5
    factors: dict[str, float] = {}
    for path, factor in outputs.items():
        if factor != 1:
            factors.update(dict.fromkeys(_bearers(model.by_path[path], model), factor))
    for layer in model.layers:
        if layer.kind == "embedding" and is_scaled(layer):
            factors[layer.path] = rules.growth(layer).outputs ** -0.5
    return factors


def _bearers(kernel: Layer, model: Structure) -> list[str]:
    """Paths of what multiplies a kernel's outputs if it is multiplied itself."""
    behind = [x for x in model.layers if x.acts_on == (kernel.path,)]
    kinds = [layer.kind for layer in behind]
    if not kernel.normalized_after:
        biases = (x.path for x in behind if x.kind == "bias")
        return [kernel.path, *biases]
    if "scale" not in kinds:
        raise ValueError(
            f"tree.mup: a normalization right behind {kernel.path} undoes what the "
            "kernel would be multiplied with, and has no scale of its own to bear it; "
            "give it one, or multiply in the model, and say attention=False for a "
            "query or leave depth= out for the end of a branch."
        )
    first = kinds.index("scale")
    biases = (x.path for x in behind[first:] if x.kind == "bias")
    return [behind[first].path, *biases]


def is_scaled(layer: Layer) -> bool:
    """Whether the program multiplies a table by the root of its features."""
    return abs(layer.multiplier / _features(layer) ** 0.5 - 1) < 0.01


def _features(layer: Layer) -> int:
    return math.prod(layer.shape[axis] for axis in layer.out_axes)


class Query(NamedTuple):
    """A kernel whose outputs enter a product that a softmax takes.

    Attributes:
        kernel: the one of two that is called so, or the first: either may carry what
            their product is multiplied with.
        alone: whether it makes queries, or keys, and nothing else.
    """

    kernel: Layer
    alone: bool


def queries_of(model: Structure) -> list[Query]:
    """The queries of each attention."""
    groups: dict[frozenset[str], list[Layer]] = {}
    for kernel in model.kernels:
        if kernel.activation_after == "softmax" and kernel not in model.heads:
            groups.setdefault(frozenset(kernel.feeds), []).append(kernel)
    found: list[Query] = []
    unnamed: list[tuple[frozenset[str], list[Layer]]] = []
    reached: set[str] = set()
    for feeds, group in groups.items():
        named = [kernel for kernel in group if _is_called_query(kernel.path)]
        found += [Query(kernel, True) for kernel in named]
        if named:
            reached |= feeds
        else:
            unnamed.append((feeds, group))
    for feeds, group in unnamed:
        if len(group) == 2:
            values = (k for k in model.kernels if k not in group)
            apart = any(feeds.intersection(value.feeds) for value in values)
            found.append(Query(group[0], apart or group[0].shape == group[1].shape))
        elif not feeds & reached:  # else the keys of queries found already
            found += [Query(kernel, False) for kernel in group]
    return found


def _is_called_query(path: str) -> bool:
    """Whether the innermost name that says what the kernel makes says queries."""
    names = path.removesuffix("/value").split("/")  # as NNX ends them
    told = [name for name in names if QUERY.search(name) or PACKED.search(name)]
    return bool(told) and not PACKED.search(told[-1])


def size_growth(rules: Rules, query: Query) -> float:
    """How much larger the heads are than in the base model, or one sentence."""
    kernel, alone = query
    grouped = len(kernel.out_axes) > 1
    growth = rules.ratio(kernel, kernel.out_axes[-1:] if grouped else kernel.out_axes)
    if growth == 1 or (alone and (grouped or rules.attention)):
        return growth
    if alone:
        raise ValueError(
            f"tree.mup: whether the heads of {kernel.path} or their number grow cannot "
            f"be told from its shape {kernel.shape}; say attention=True if the heads "
            "grow, False if their number does or the model divides by their size."
        )
    raise ValueError(
        f"tree.mup: {kernel.path} of shape {kernel.shape} feeds a softmax, but makes "
        "more than queries, which turn 1/sqrt(d) attention into 1/d; give them a "
        "kernel of their own, or say attention=False if the number of heads grows, the "
        "model divides by their size, or it is no attention."
    )


def within_branches(model: Structure) -> frozenset[str]:
    """Paths of the leaves within residual branches, norms before their kernels too."""
    inside = set(model.inside)
    for place, layer in enumerate(model.layers):
        if layer.kind not in ("scale", "bias"):
            continue
        met = set(layer.acts_on)
        paths = ({k.path for k in branch.kernels} for branch in model.branches)
        if (met and any(met <= own for own in paths)) or _opens(model, place, met):
            inside.add(layer.path)
    return frozenset(inside)


def _opens(model: Structure, place: int, met: set[str]) -> bool:
    """Whether a leaf that meets a residual stream is of a norm that opens a branch.

    It is if a kernel of the branch comes next that all of the stream reaches, with no
    other norm of the same stream between; and the branch goes back to this stream. A
    bias there is of a norm if a scale of the same stream came before.
    """
    reached = set(model.by_path)
    for path in met:  # nothing, if the stream is the model's input
        reached &= set(model.by_path[path].feeds)

    def first(layers: Iterable[Layer]) -> Layer | None:
        """The next kernel that is reached, or scale of the same stream."""
        for layer in layers:
            scale = layer.kind == "scale" and set(layer.acts_on) == met
            if scale or (layer.kind in KERNELS and layer.path in reached):
                return layer
        return None

    if model.layers[place].kind == "bias":
        before = first(reversed(model.layers[:place]))
        if before is None or before.kind in KERNELS:
            return False
    after = first(model.layers[place + 1 :])
    return after is not None and any(
        after in branch.kernels and reached.issuperset(branch.end.feeds)
        for branch in model.branches
    )


def numberless(path: str) -> str:
    """The path with "*" for each number."""
    return re.sub(r"\d+", "*", path)


def _by_fans(init: Initializer, spot: Spot) -> bool:
    """Whether fans and parameters alone say how an entry is distributed."""
    within = [v for v in init.arguments.values() if isinstance(v, Initializer)]
    fitted = init.fitted(spot)
    if within:
        return fitted is not None and all(_by_fans(each, spot) for each in within)
    return "fan" in init.arguments or fitted is init


def _has_mean_square(value: Array, expected: float) -> Array:
    """Whether the mean square is as expected, within six standard errors."""
    square = jnp.mean(jnp.abs(value).astype(jnp.float32) ** 2)
    return jnp.abs(square / expected - 1) < 6 * (2 / value.size) ** 0.5


def _fills(value: Array, bound: float) -> Array:
    """Whether the values differ, and reach up to a bound but not beyond."""
    size = jnp.abs(value).astype(jnp.float32)
    largest = size.max()
    reaches = (bound / 8 < largest) & (largest < 1.01 * bound)
    return reaches & (value != value.reshape(-1)[0]).any()
