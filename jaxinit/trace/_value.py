"""Values: what the trace knows of an array, in place of its entries.

A constant is neither made of parameters nor of inputs; a parameter array has views of
leaves; activations depend on inputs. An array may be both for a while: a leaf times
activations is a scale, unless a product with other activations follows, which shows
it to be a kernel that something modulates. Such views wait as `pending`.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ._axes import Layout, is_narrower, overlay
from ._stream import Gate
from ._view import Site, View, blur

Span = tuple[int, int, int, int]

# The nonlinearity of a loop's carry while its first turn is not known.
ANY = "any"

# Nonlinearities whose values weigh others, and choices that let them through or not.
GATES = frozenset({"sigmoid", "softmax", "softplus", "exp", "mask", "one_hot"})
CHOICES = frozenset({"mask", "one_hot"})


class Info(NamedTuple):
    """What is known of activations.

    Attributes:
        sources: numbers of the kernels and embeddings whose output this is, with no
            other kernel on the way.
        act: the last nonlinearity on the way, None if there is none.
        base: the value of which this is a function entry by entry.
        base_act: the nonlinearity before `base`.
        ops: the names of the operations between `base` and here.
        roots: nodes of the residual stream's graph that it holds as they are: uses of
            kernels, inputs, tables, carries; what a loop computed in earlier turns is
            its carry.
        gated: the nodes that it holds through a gate, each with the gate; they are no
            plain skip connection.
        reach: all the nodes that it is made of with no kernel on the way, gates too.
        reduced: whether it is a statistic, such as a variance that a threshold guards.
        centred: whether it is noise around zero, and no mask.
        factor: the number that has multiplied it since its last other operation.
        layout: the axes of leaves and inputs that its dimensions run along; None where
            that cannot be told.
        spans: where the outputs of kernels that were joined side by side lie: tuples
            of source, dimension, start and stop.
    """

    sources: frozenset[int] = frozenset()
    act: str | None = None
    base: Site = ()
    base_act: str | None = None
    ops: frozenset[str] = frozenset()
    roots: frozenset[int] = frozenset()
    gated: frozenset[tuple[int, Gate]] = frozenset()
    reach: frozenset[int] = frozenset()
    reduced: bool = False
    centred: bool = False
    factor: float = 1.0
    layout: Layout | None = None
    spans: tuple[Span, ...] = ()

    @property
    def is_noise(self) -> bool:
        """Whether it is drawn at random, of nothing else."""
        return not self.reach and not self.sources

    @property
    def is_gate(self) -> bool:
        """Whether it weighs what it is multiplied with, and is not itself weighed."""
        return self.act in GATES and bool(self.sources) and not self.gated


class Value(NamedTuple):
    """What is known of one array of the program.

    Attributes:
        views: the leaves whose entries are in it.
        info: what is known of it as activations; None if no input reaches it.
        scalar: the number that a constant repeats, if known.
    """

    views: tuple[View, ...] = ()
    info: Info | None = None
    scalar: float | None = None

    @property
    def is_param(self) -> bool:
        """Whether it is made of parameters alone."""
        return bool(self.views) and self.info is None

    @property
    def is_modulated(self) -> bool:
        """Whether it is a parameter array that state or noise scales or shifts.

        It has the leaf's own shape, and no kernel's output is in it: the kernel of a
        quantised layer, which a step divides before it is rounded.
        """
        if not self.views or self.info is None or self.info.sources:
            return False
        kinds = ("scale", "bias", "unknown")
        return not any(
            view.reason or view.has_foreign() or view.pending not in kinds
            for view in self.views
        )

    @property
    def is_const(self) -> bool:
        """Whether it is made of neither parameters nor inputs."""
        return not self.views and self.info is None


CONST = Value()


def one_leaf(values: Sequence[Value], site: Site) -> Value | None:
    """What is one of several arrays of the same leaves, some of which state changed.

    None if they are not: a kernel that a flag says to round is the kernel.
    """
    changed = [value for value in values if value.is_modulated]
    own = [value for value in values if value.is_param]
    infos = [value.info for value in changed if value.info]
    places = {
        frozenset((view.leaf, view.dims) for view in value.views if not view.reason)
        for value in (*changed, *own)
    }
    if not changed or len(places) > 1 or len(changed) + len(own) < len(values):
        return None
    return Value(changed[0].views, join_infos(infos, site, entrywise=True))


def join_acts(acts: Iterable[str | None]) -> str | None:
    """The nonlinearity of a sum: the one that all terms share."""
    distinct = set(acts)
    if len(distinct) > 1:
        distinct.discard(ANY)
    return distinct.pop() if len(distinct) == 1 else None


def join_gated(acts: Iterable[str | None]) -> str | None:
    """The nonlinearity of a product: that of what is let through, not of the gate."""
    distinct = set(acts) - {None}
    if len(distinct) > 1:
        distinct -= GATES
    return distinct.pop() if len(distinct) == 1 else None


def renew(info: Info, site: Site) -> Info:
    """The same activations elsewhere: a new base of entry-by-entry functions."""
    moved = info._replace(base=site, base_act=info.act, ops=frozenset())
    return moved._replace(spans=())


def with_act(info: Info, act: str | None) -> Info:
    """The activations with their nonlinearity told."""
    return info._replace(act=act, base_act=act)


def join_infos(
    infos: Sequence[Info], site: Site, gated: bool = False, entrywise: bool = False
) -> Info:
    """The activations made of several, no longer a function of one of them.

    Args:
        infos: what they are made of.
        site: where.
        gated: whether it is a product.
        entrywise: whether the entries stay where they are.
    """
    sources = frozenset[int]().union(*(info.sources for info in infos))
    # A one-hot vector looks rows up only while it is one.
    told = [info for info in infos if not info.is_noise] or infos
    acts = [None if info.act in CHOICES else info.act for info in told]
    spans = (span for info in infos for span in info.spans) if entrywise else ()
    act = join_gated(acts) if gated else join_acts(acts)
    if gated and act is None and all(info.is_gate for info in infos):
        act = "mask"
    # A gate is no part of the branch that it lets through.
    gates = _gates(infos, entrywise) if gated else []
    let = [info for info in infos if info not in gates] or infos
    roots = frozenset[int]().union(*(info.roots for info in let))
    held = frozenset[tuple[int, Gate]]().union(*(info.gated for info in let))
    if len(let) < len(infos):
        gate = frozenset[int]().union(*(info.sources for info in gates))
        held |= {(node, gate) for node in roots}
        roots = frozenset[int]()
    reach = frozenset[int]().union(*(info.reach for info in infos))
    reduced = all(info.reduced for info in infos)
    noise = all(info.is_noise for info in infos)
    centred = noise and (any if gated else all)(info.centred for info in infos)
    return Info(
        sources,
        act,
        site,
        act,
        roots=roots,
        reduced=reduced,
        centred=centred,
        gated=held,
        reach=reach,
        layout=overlay(info.layout for info in infos) if entrywise else None,
        spans=tuple(spans),
    )


def _gates(infos: Sequence[Info], entrywise: bool) -> list[Info]:
    """Those factors of a product that let the others through.

    A gate's nonlinearity says so, or that one number of it meets many of another's.
    """
    gates = [info for info in infos if info.is_gate]
    if gates or len(infos) != 2 or not entrywise:
        return gates
    for one, other in (infos, infos[::-1]):
        if one.sources and not one.reduced and is_narrower(one.layout, other.layout):
            return [one]
    return []


def choose(infos: Sequence[Info], gate: Gate) -> list[Info]:
    """Activations of which a gate lets one through: all hold what is in each."""
    always = frozenset.intersection(*(info.roots for info in infos))
    return [
        info._replace(
            roots=always,
            gated=info.gated | {(node, gate) for node in info.roots - always},
        )
        for info in infos
    ]


def cut(info: Info, dim: int, start: int, stop: int) -> Info:
    """Activations from `start` to `stop`, without the sources that lie elsewhere."""
    gone = {
        source
        for source, at, begin, end in info.spans
        if at == dim and not (start < end and begin < stop)
    }
    return info._replace(sources=info.sources - gone)


def join_views(views: Iterable[View]) -> tuple[View, ...]:
    """Views of one array that came along several ways, one for each leaf.

    A statistic of a leaf, such as its norm, gives way to the leaf's entries.
    """
    joined: dict[int, View] = {}
    for view in views:
        other = joined.get(view.leaf)
        if other is None or (other.reason and not view.reason):
            joined[view.leaf] = view
        elif not view.reason and view.dims != other.dims:
            joined[view.leaf] = other._replace(fraction=other.fraction + view.fraction)
    return tuple(joined.values())


def blur_all(value: Value, reason: str) -> Value:
    """The parameter array of which only a mixture is left."""
    return Value(tuple(blur(view, reason) for view in value.views))
