"""What a calibration scales: kernels and tables, layer by layer where loops have them.

A unit is a leaf, or each layer of a stacked one. One that a program uses once is scaled
while it runs, so that all that follows already sees its new output; one that is used
again, in the turns of a recurrence or at another place, is scaled between two passes.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxinit.diagnosis._rows import leaf_axes
from jaxinit.trace import KERNELS, Layer, Part, Point, Product, Program, Site, points
from jaxinit.trace._products import enclosing, loops_of
from jaxinit.tree._structure import Structure

Place: TypeAlias = tuple[Site, int]
"""A product, and which of its parts."""

TOLERANCE = 1e-5
"""How far a deviation may be from its target in float32."""

ROUNDED = 1e-3
"""So too on accelerators, whose products of float32 round by default."""


class Unit(NamedTuple):
    """A leaf that is scaled.

    Attributes:
        leaf: its number among the program's arguments.
        path: of the leaf.
        axes: of the leaf, along which each place has a scale of its own.
        sizes: of these axes: the shape of the scales.
        exact: whether the scale is found and used within one pass.
        target: the deviation that its outputs shall have, dimensionless.
        fan_in: terms in each of its outputs; 1 for a table.
        uses: its products.
        bias: the number of the leaf that centres its outputs; None for none.
        by_feature: whether the last of the axes are those of its outputs, each feature
            with a scale of its own.
        tolerance: how far, relatively, the deviation may be from its target: what
            the dtypes of leaf and outputs allow.
    """

    leaf: int
    path: str
    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    exact: bool
    target: float
    fan_in: float
    uses: tuple[Place, ...]
    bias: int | None = None
    by_feature: bool = False
    tolerance: float = TOLERANCE


class Logits(NamedTuple):
    """A softmax of an attention whose logits shall have a deviation.

    Attributes:
        point: the softmax, or the exponential in it.
        units: numbers of the units whose scales it sets: of queries and of keys.
        whole: whether it is the softmax itself.
        target: the deviation, within a row.
    """

    point: Point
    units: tuple[int, ...]
    whole: bool
    target: float


class Targets(NamedTuple):
    """What deviations are asked for.

    Attributes:
        rest: the deviation of all that nothing else is said of.
        by_path: pairs of a glob and the deviation of what it matches.
        branch: of what ends a residual branch; "depth" for one over the root of their
            number; None for that of all.
        head: of what feeds no other kernel.
        logits: of attention; None leaves them as they come.
    """

    rest: float = 1.0
    by_path: tuple[tuple[str, float], ...] = ()
    branch: float | Literal["depth"] | None = None
    head: float | None = None
    logits: float | None = None

    def of(self, path: str, name: str, model: Structure) -> float:
        """The deviation for a leaf, which `model` knows by a name."""
        for pattern, value in self.by_path:
            if fnmatch.fnmatchcase(path, pattern):
                return value
        if self.branch is not None and name in model.ends:
            own = self.branch
            return self.rest / model.depth**0.5 if own == "depth" else float(own)
        if self.head is not None and any(name == each.path for each in model.heads):
            return self.head
        return self.rest


class Plan(NamedTuple):
    """What a calibration of a program scales.

    Attributes:
        program: with a product for each lookup and each softmax that is visited, too.
        units: what is scaled.
        logits: softmaxes by site.
        left: paths of kernels that are left alone, and why, as the end of a sentence.
    """

    program: Program
    units: tuple[Unit, ...]
    logits: dict[Site, Logits]
    left: dict[str, str]


def planned(
    owner: str,
    made: Program,
    paths: Sequence[str],
    targets: Targets,
    center: bool,
    by_feature: bool = False,
) -> Plan:
    """What to scale in a program.

    Args:
        owner: who asks, for errors.
        made: the program.
        paths: what the program's leaves are called for users.
        targets: the deviations that are asked for.
        center: whether biases shall centre outputs.
        by_feature: whether each feature has a scale of its own.

    Raises:
        ValueError: no kernel enters a product, or a pattern matches none.
    """
    layers = {layer.path: layer for layer in made.layers()}
    model = Structure(list(layers.values()))
    number = {name: k for k, name in enumerate(made.names)}
    lookups = _lookups(made, layers)
    products = dict(sorted({**lookups, **made.products}.items()))
    if not made.products and not made.missed:
        raise ValueError(
            f"{owner}: the model has no kernel, for no parameter enters a product or a "
            "convolution with its inputs; there is nothing to scale."
        )
    left = {
        paths[number[name]]: f"is used within {what}, which is not looked into"
        for name, what in made.missed.items()
    }
    uses, shared = _uses(products)
    units: list[Unit] = []
    for name, places in uses.items():
        k = number[name]
        path, layer = paths[k], layers[name]
        if path in left:
            continue
        if not jnp.issubdtype(layer.dtype, jnp.floating):
            left[path] = f"has the dtype {layer.dtype}"
            continue
        own = [(products[site], products[site].parts[j]) for site, j in places]
        if not all(part.linear for _, part in own):
            left[path] = "is changed before its product, as by weight normalization"
            continue
        if other := next((shared[at] for at in places if at in shared), None):
            left[path] = f"is multiplied with {paths[number[other]]}, which is scaled"
            continue
        axes, exact = _axes(layer, own)
        if by_feature:
            if why := _no_features(made, layer, own, exact):
                left[path] = why
                continue
            axes = (*axes, *own[0][1].use.out_axes)
        sizes = tuple(layer.shape[axis] for axis in axes)
        target = targets.of(path, name, model)
        fan = layer.fan_in if own[0][1].use.kind in KERNELS else 1.0
        least = max(_epsilon(made, layer, site) for site, _ in places)
        unit = Unit(k, path, axes, sizes, exact, target, fan, tuple(places))
        unit = unit._replace(tolerance=max(TOLERANCE, least), by_feature=by_feature)
        if center and exact:
            unit = unit._replace(bias=_bias(layer, layers, number, own[0]))
        units.append(unit)
    for pattern, _ in targets.by_path:
        if not any(fnmatch.fnmatchcase(unit.path, pattern) for unit in units):
            raise ValueError(
                f"{owner}: target names {pattern!r}, which matches no kernel; the "
                f"kernels are such as {', '.join(u.path for u in units[:3])}."
            )
    wanted = targets.logits
    logits = {} if wanted is None else _logits(made, units, paths, wanted, left)
    for each in logits.values():
        products[each.point.site] = each.point.product
    return Plan(made._replace(products=products), tuple(units), logits, left)


def _uses(
    products: Mapping[Site, Product],
) -> tuple[dict[str, list[Place]], dict[Place, str]]:
    """Where each leaf is used, and of leaves multiplied together which is scaled.

    A table that is a kernel as well is scaled for its products.
    """
    uses: dict[str, list[Place]] = {}
    shared: dict[Place, str] = {}
    for site, product in products.items():
        owner: dict[Any, str] = {}
        for k, part in enumerate(product.parts):
            first = owner.setdefault(part.span, part.path)
            if first != part.path:
                shared[site, k] = first
            uses.setdefault(part.path, []).append((site, k))
    for name, places in uses.items():
        own = [at for at in places if _part(products, at).use.kind in KERNELS]
        uses[name] = own or places
    return uses, shared


def _no_features(
    made: Program, layer: Layer, own: Sequence[tuple[Product, Part]], exact: bool
) -> str:
    """Why the features of a kernel cannot be scaled one by one; empty if they can."""
    product, part = own[0]
    if layer.kind not in KERNELS:
        return "is a table"
    if not exact:
        return "is used more than once"
    *_, (_, eqn) = enclosing(made.jaxpr, product.site)
    shape: list[int] = list(getattr(eqn.outvars[0].aval, "shape", ()))
    if part.span is not None:
        axis, start, stop = part.span
        shape[axis] = stop - start
    outs = [layer.shape[axis] for axis in part.use.out_axes]
    if [shape[axis] for axis in product.features] != outs:
        return "has features that do not lie along axes of its own"
    return ""


def _epsilon(made: Program, layer: Layer, site: Site) -> float:
    """The relative step of a leaf, or of its outputs, where that is larger."""
    *_, (_, eqn) = enclosing(made.jaxpr, site)
    kinds = [layer.dtype, *(getattr(x.aval, "dtype", None) for x in eqn.outvars)]
    floats = [kind for kind in kinds if jnp.issubdtype(kind, jnp.inexact)]
    exact = jax.default_backend() == "cpu"
    return max(0.0 if exact else ROUNDED, *(float(jnp.finfo(k).eps) for k in floats))


def _part(products: Mapping[Site, Product], place: Place) -> Part:
    return products[place[0]].parts[place[1]]


def _axes(
    layer: Layer, own: Sequence[tuple[Product, Part]]
) -> tuple[tuple[int, ...], bool]:
    """The axes of a leaf that have scales of their own, and whether one pass does."""
    every = {leaf_axes(layer.shape, part, product.loops) for product, part in own}
    axes = every.pop() if len(every) == 1 else ()
    once = len(own) == 1 and layer.uses == 1
    product, part = own[0]
    through = all(axis is not None for axis in part.axes)
    scans = all(loop.kind == "scan" for loop in product.loops)
    return axes, once and through and scans and bool(axes) == bool(product.loops)


def _lookups(made: Program, layers: Mapping[str, Layer]) -> dict[Site, Product]:
    """The lookups in tables, as products."""
    found: dict[Site, Product] = {}
    for (site, leaf), record in made.trace.records.items():
        use = record.use
        if use.kind != "embedding" or not use.in_axes or site in made.products:
            continue
        *outside, (last, eqn) = enclosing(made.jaxpr, site)
        if last != site or len(eqn.outvars) != 1:
            continue
        loops = loops_of(outside)
        part = Part(made.names[leaf], use, 1, (None,) * len(loops), None, True)
        found[site] = Product(site, (part,), None, (), loops, "")
    return found


def _bias(
    kernel: Layer,
    layers: Mapping[str, Layer],
    number: Mapping[str, int],
    use: tuple[Product, Part],
) -> int | None:
    """The bias right behind a kernel, of a use with one scale for each layer."""
    product, part = use
    if kernel.normalized_after or not product.features or kernel.kind not in KERNELS:
        return None
    features = math.prod(kernel.shape[axis] for axis in part.use.out_axes)
    stacked = math.prod(loop.length or 1 for loop in product.loops)
    fit = [
        layer
        for layer in layers.values()
        if layer.kind == "bias"
        and layer.acts_on == (kernel.path,)
        and layer.uses == 1
        and math.prod(layer.shape) == features * stacked
        and not layer.place_axes
        and (not product.loops or layer.layer_axes == (0,))
    ]
    return number[fit[0].path] if len(fit) == 1 else None


def _logits(
    made: Program,
    units: Sequence[Unit],
    paths: Sequence[str],
    target: float,
    left: dict[str, str],
) -> dict[Site, Logits]:
    """The softmaxes whose queries and keys have kernels of their own."""
    place = {unit.path: k for k, unit in enumerate(units)}
    number = {name: k for k, name in enumerate(made.names)}
    users: dict[int, int] = {}
    found: dict[Site, Logits] = {}
    for site, point in points(made).items():
        if point.kind != "attention" or point.axis is None:
            continue
        after = [paths[number[name]] for name in point.after]
        own = tuple(place[path] for path in after if path in place)
        fit = [
            k for k in own if units[k].exact and len(point.loops) == _depth(units[k])
        ]
        if len(own) != len(after) or len(fit) != len(own) or len(own) != 2:
            names = ", ".join(after) or "a softmax"
            left[f"the logits of {names}"] = "have no kernels of their own, used once"
            continue
        *_, (_, eqn) = enclosing(made.jaxpr, site)
        whole = eqn.primitive.name != "exp"
        found[site] = Logits(point, own, whole, target)
        for k in own:
            users[k] = users.get(k, 0) + 1
    return {s: x for s, x in found.items() if all(users[k] == 1 for k in x.units)}


def _depth(unit: Unit) -> int:
    return len(unit.axes)
