"""The residual stream: which kernels write to it, and how often.

The trace keeps a graph. Its nodes are uses of kernels, inputs, tables, and the carries
of loops; `reach` says from which nodes the input of each kernel is made. An addition
puts a branch on a trunk. It is one to the stream if the branch began from the trunk,
and the kernels whose outputs the branch holds are then its ends.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from ._view import Site

Gate = frozenset[int]
"""What a gate was made of: leaves, or, below 0, a branch of the program."""

NONE: Gate = frozenset()


class Addition(NamedTuple):
    """A sum of two arrays of activations.

    Attributes:
        site: where.
        skip: the nodes that the trunk holds as they are.
        trunk: all that it holds.
        branch: the nodes that the branch holds, each with the gate that let it through.
        reach: all that the branch is made of with no kernel on the way.
        scaled: whether a leaf scales the trunk.
    """

    site: Site
    skip: frozenset[int]
    trunk: frozenset[int]
    branch: tuple[tuple[int, Gate], ...]
    reach: frozenset[int]
    scaled: bool


class End(NamedTuple):
    """A leaf that ends residual branches.

    Attributes:
        additions: how many additions to the stream it makes.
        inside: the leaves of those branches, its own included.
        uncounted: whether a loop of unknown length makes some of them.
    """

    additions: float = 0.0
    inside: frozenset[int] = frozenset()
    uncounted: bool = False


class Window(NamedTuple):
    """Products with parts of one leaf that are summed.

    Attributes:
        number: how many.
        parts: whether they are with parts, or shifts, of one input.
    """

    number: int
    parts: bool


class Stream:
    """The graph of one trace.

    Attributes:
        reach: for each use of a kernel the nodes that its input is made of.
        starts: for each carry of a loop those that it starts from.
        sums: the additions, by site and side.
        slices: by loop the node that stands for what each turn takes a place of.
        loops: the sites of loops, with their numbers of turns, None if unknown.
        switches: the sites of branches of the program.
    """

    def __init__(self) -> None:
        self._number: dict[tuple[Site, int], int] = {}
        self._key: list[tuple[Site, int]] = []
        self.reach: dict[int, frozenset[int]] = {}
        self.starts: dict[int, frozenset[int]] = {}
        self.sums: dict[tuple[Site, int], Addition] = {}
        self.slices: dict[Site, frozenset[int]] = {}
        self.loops: dict[Site, int | None] = {}
        self.switches: set[Site] = set()

    def node(self, site: Site, number: int) -> int:
        """The node of a leaf's use at a site; of something else if below 0."""
        key = (site, number)
        if key not in self._number:
            self._number[key] = len(self._key)
            self._key.append(key)
        return self._number[key]

    def leaf(self, node: int) -> int:
        """The leaf whose use a node is, below 0 if it is none."""
        return self._key[node][1]

    def begins(self, nodes: frozenset[int], reaches: Iterable[frozenset[int]]) -> bool:
        """Whether something was computed from one of the nodes."""
        if not nodes:
            return False
        waiting = [node for reach in reaches for node in reach]
        met = set[int]()
        while waiting:
            node = waiting.pop()
            if node in nodes:
                return True
            if node not in met:
                met.add(node)
                waiting.extend(self.reach.get(node, ()))
        return False

    def ends(self, gates: Set[int] = frozenset()) -> dict[int, End]:
        """The leaves that end residual branches, given those of which gates are made.

        Turns of a loop count each if the stream goes from turn to turn. Ends side by
        side of which a gate chooses, or that share a leaf, share an addition, as do
        branches of the program.
        """
        found, past = self._additions(gates)
        sites = [addition.site for addition, _ in found]
        written = {node for _, nodes in found for node in nodes}
        groups: dict[int, list[int]] = {}
        latest: dict[tuple[int, Gate, Site], list[int]] = {}
        for addition, nodes in found:
            for node, gate in nodes.items():
                key = (-1 if gate else self.leaf(node), gate, self._branch(addition))
                group = latest.get(key, [])
                if any(past[node] >> other & 1 for other in group):
                    group = []
                latest[key] = groups[node] = group
                group.append(node)
        ends: dict[int, End] = {}
        for addition, nodes in found:
            turns = self._turns(addition)
            weight = _product(turns) / self._alternatives(addition.site, sites)
            for node in nodes:
                leaf = self.leaf(node)
                end = ends.get(leaf, End())
                ends[leaf] = End(
                    end.additions + weight / len(groups[node]),
                    end.inside | self._inside(node, addition, past, written),
                    end.uncounted or None in turns,
                )
        return ends

    def places(self, gates: Set[int]) -> list[Site]:
        """Where something is added to the stream, in order of execution."""
        return sorted({addition.site for addition, _ in self._additions(gates)[0]})

    def pieces(self) -> dict[int, set[Site]]:
        """Where products with one leaf are, whose outputs are summed."""
        found: dict[int, set[Site]] = {}
        past = _closure(self.reach)
        for addition in self._one_branch():
            for node in (n for n, gate in addition.branch if not gate and n in past):
                for other in addition.skip & past.keys():
                    deeper = past[node] >> other & 1 or past[other] >> node & 1
                    if self.leaf(other) == self.leaf(node) and not deeper:
                        sites = self._key[node][0], self._key[other][0]
                        found.setdefault(self.leaf(node), set()).update(sites)
        return found

    def windows(self) -> dict[int, Window]:
        """Leaves of which several products are summed into one.

        They are with one input, as of shifts; or a loop makes one each turn, into a sum
        that began from nothing.
        """
        places: dict[int, set[int]] = {}
        found: dict[int, Window] = {}
        past = _closure(self.reach)
        for addition in self._one_branch():
            for node, gate in addition.branch:
                if gate or node not in self.reach:
                    continue
                leaf = self.leaf(node)
                for other in addition.skip:
                    same = self.leaf(other) == leaf
                    if same and self.reach[node] == self.reach.get(other):
                        places.setdefault(leaf, set()).update((node, other))
                    nothing = self.starts.get(other) == NONE
                    if nothing and not past[node] >> other & 1:
                        loop = self._key[other][0]
                        parts = not self.slices[loop].isdisjoint(self.reach[node])
                        found[leaf] = Window(self.loops[loop] or 1, parts)
        return found | {k: Window(len(nodes), True) for k, nodes in places.items()}

    def _additions(
        self, gates: Set[int]
    ) -> tuple[list[tuple[Addition, dict[int, Gate]]], dict[int, int]]:
        """The additions to the stream as `_found` has them, and what is before each."""
        # Through loops from their start: a skip may go around a stack of layers.
        past = _closure({**self.reach, **self.starts})
        found = self._found(past, gates)
        local = [self._is_local(*pair, found, past) for pair in found]
        pairs = zip(found, local, strict=True)
        return [pair for pair, is_local in pairs if not is_local], past

    def _found(
        self, long: Mapping[int, int], gates: Set[int]
    ) -> list[tuple[Addition, dict[int, Gate]]]:
        """The additions to the stream, each with its ends and their gates.

        A branch began from the trunk itself, by its gate if not by what it lets
        through; or from what a shortcut of one kernel began from, unless a gate is made
        of their sum, as in a recurrent cell.
        """
        near = {node: _bits(reach) for node, reach in self.reach.items()}
        past = _closure(self.reach)
        seen = set[int]()
        found: list[tuple[Addition, dict[int, Gate]]] = []
        for addition in self.sums.values():
            skip, projected = _bits(addition.skip), 0
            for root in addition.skip:
                projected |= near.get(root, 0)
            nodes: dict[int, Gate] = {}
            weighed = 0
            for node in addition.reach:
                weighed |= long.get(node, 0)
            for node, gate in addition.branch:
                if node in addition.trunk or node in seen or node not in near:
                    continue
                deeper = 0 if self.leaf(node) in gates else past[node] & ~near[node]
                begun = long[node] | (weighed if gate else 0)
                if skip & begun or projected & deeper:
                    seen.add(node)
                    nodes[node] = gate
            if nodes:
                found.append((addition, nodes))
        return found

    def _is_local(
        self,
        addition: Addition,
        nodes: Mapping[int, Gate],
        found: Sequence[tuple[Addition, Mapping[int, Gate]]],
        past: Mapping[int, int],
    ) -> bool:
        """Whether a sum within a branch is none to the stream.

        A state space model adds its input, scaled or projected, to what it puts out:
        only a kernel takes the sum, and what that puts out goes to the stream.
        """
        plain = any(_bits(addition.skip) & past[node] for node in nodes)
        if (plain and not addition.scaled) or _product(self._turns(addition)) > 1:
            return False
        others = [pair for pair in found if pair[0].site != addition.site]
        stays = any(not other.trunk.isdisjoint(nodes) for other, _ in others)
        return not stays and any(
            past[end] >> node & 1 and _bits(other.skip) & past[node]
            for other, ends in others
            for end in ends
            for node in nodes
        )

    def _inside(
        self, end: int, addition: Addition, past: Mapping[int, int], written: Set[int]
    ) -> frozenset[int]:
        """The leaves of one branch, back from its end to where it left the trunk.

        What comes from elsewhere, such as an encoder, belongs to the branch where it
        meets it: the keys and values of an attention.
        """
        begin = _bits(addition.skip)
        for root in addition.skip:
            begin |= _bits(self.reach.get(root, ()))
        begin &= past[end]
        others = written | addition.trunk
        inside, waiting = {end}, [end]
        while waiting:
            for node in self.reach.get(waiting.pop(), ()):
                if node in inside or node in others or node not in self.reach:
                    continue
                if begin >> node & 1:
                    continue
                inside.add(node)
                if past[node] & begin == begin:
                    waiting.append(node)
        return frozenset(map(self.leaf, inside))

    def _turns(self, addition: Addition) -> list[int | None]:
        """The turns of the loops that carry the one stream which it adds to."""
        waiting, met = list(addition.skip), set[int]()
        around: set[Site] = set()
        while waiting:
            node = waiting.pop()
            if node in met or node not in self.starts:
                continue
            met.add(node)
            loop = self._key[node][0]
            if addition.site[: len(loop)] == loop:
                around.add(loop)
            waiting.extend(self.starts[node])
        return [self.loops[loop] for loop in around]

    def _branch(self, addition: Addition) -> Site:
        """The branch of the program that an addition is in; nothing if in none."""
        site = addition.site
        around = (k for k in range(len(site) - 1, -1, -1) if site[:k] in self.switches)
        return next((site[: k + 1] for k in around), ())

    def _one_branch(self) -> list[Addition]:
        """The additions, of each leaf's in several branches those in the first."""
        first: dict[int, Site] = {}
        found: list[Addition] = []
        for addition in self.sums.values():
            place = self._branch(addition)
            leaves = [self.leaf(node) for node, _ in addition.branch]
            if all(first.setdefault(leaf, place) == place for leaf in leaves):
                found.append(addition)
        return found

    def _alternatives(self, site: Site, sites: Sequence[Site]) -> int:
        """How many branches of the program, of which one runs, share an addition."""
        count = 1
        for depth in range(len(site)):
            if site[:depth] in self.switches:
                beside = (at for at in sites if at[:depth] == site[:depth])
                count *= len({at[depth] for at in beside})
        return count


def _product(turns: Iterable[int | None]) -> int:
    """How often loops of so many turns do a thing: once if their length is unknown."""
    return math.prod(count or 1 for count in turns)


def _bits(nodes: Iterable[int]) -> int:
    """A set as the bits of one number, since deep models have many nodes."""
    bits = 0
    for node in nodes:
        bits |= 1 << node
    return bits


def _closure(edges: Mapping[int, frozenset[int]]) -> dict[int, int]:
    """For each node all that lie before it.

    A node's number is above those of what it is made of, whose bits are thus known.
    """
    past: dict[int, int] = {}
    for node in sorted(edges):
        bits = _bits(edges[node])
        for before in edges[node]:
            bits |= past.get(before, 0)
        past[node] = bits
    return past
