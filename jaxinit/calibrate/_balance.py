"""The scales of a whole program: passes until all deviations are as they shall be."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._checks import is_traced
from jaxinit._types import Array, Key
from jaxinit.calibrate._pass import Scales, applied, at_hand, backward, forward, started
from jaxinit.calibrate._units import Targets, planned
from jaxinit.diagnosis._measure import noised
from jaxinit.trace import Program, arrays_of
from jaxinit.trace._walk import shape_of
from jaxinit.tree._leaves import leaves_of

Direction: TypeAlias = Literal["forward", "backward", "both"]

PASSES = 60
"""After so many, what has not settled is named; 6 where one should do."""

LONG = 200
"""Operations of a program that is not compiled as one."""

LARGE = 2**30
"""Entries of all their results together, above which it is."""


class Measured(NamedTuple):
    """What the last pass has seen, of each direction.

    Attributes:
        deviations: of each unit, an array of its sizes.
        sizes: of each unit the largest entry.
        passes: how many there were.
    """

    deviations: tuple[Scales, ...]
    sizes: list[Array]
    passes: tuple[Array, ...]


class _State(NamedTuple):
    """Between two passes; arrays of JAX where they are traced, else of NumPy.

    Attributes:
        scales: of each unit so far. biases: of what centres outputs.
        deviations: what the last pass saw.
        error: of all that can be mended, the largest relative one.
        verified: whether the last pass scaled nothing on the way.
        passes: how many there were.
    """

    scales: Scales
    biases: dict[int, Any]
    deviations: Scales
    error: Any
    verified: Any
    passes: Any


class Balance:
    """A function that is ready to be calibrated; nothing is computed yet.

    Attributes:
        plan: what is scaled, and what is not.
        direction: whose deviations are brought to their targets.
    """

    def __init__(
        self,
        owner: str,
        made: Program,
        params: Any,
        targets: Targets,
        direction: Direction = "forward",
        center: bool = False,
        by_feature: bool = False,
    ) -> None:
        """See what there is to scale.

        Args:
            owner: who asks, for what is told.
            made: the function, as a program.
            params: its parameters.
            targets: the deviations that are asked for.
            direction: "forward", "backward" or "both".
            center: whether biases shall centre outputs.
            by_feature: whether each feature has a scale of its own.

        Raises:
            ValueError: there is no kernel, or a target names none.
        """
        self._owner = owner
        paths = [leaf.path for leaf in leaves_of(params)[0]]
        self.direction: Direction = direction
        self.plan = planned(owner, made, paths, targets, center, by_feature)
        if direction != "forward":
            self._forget_what_is_not_handed_back()

    def __call__(
        self, key: Key, params: Any, inputs: Sequence[Any]
    ) -> tuple[Any, Measured]:
        """The parameters, scaled, and what has been measured of them.

        A pure function. Without a trace around it, each pass is one compiled program.
        """
        arrays = arrays_of(params, *inputs)
        begun = [started(u.axes, arrays[u.leaf], u.fan_in) for u in self.plan.units]
        begun, xp = at_hand(begun)
        ways = (
            ("forward", "backward") if self.direction == "both" else (self.direction,)
        )
        found = [self._solved(way, key, begun, arrays) for way in ways]
        scales, biases = found[0].scales, found[0].biases
        if len(found) == 2:
            pairs = zip(scales, found[1].scales, strict=True)
            scales = [xp.sqrt(one * other) for one, other in pairs]
            biases = {}
        made = self._with(arrays, scales, biases)
        sizes = [_largest(arrays[unit.leaf]) for unit in self.plan.units]
        measured = Measured(
            tuple(each.deviations for each in found),
            sizes,
            tuple(each.passes for each in found),
        )
        leaves, rebuild = leaves_of(params)
        return rebuild(made[: len(leaves)]), measured

    def tell(self, measured: Measured) -> None:
        """Warn of what is not as it shall be, in one sentence."""
        told = [f"{path} {why}" for path, why in self.plan.left.items()]
        told += [text for text in self.unmet(measured).values()]
        if told:
            more = f"; and {len(told) - 8} more" if told[8:] else ""
            warnings.warn(
                f"{self._owner}: {len(told)} of the model's kernels do not have the "
                f"deviation asked for: {'; '.join(told[:8])}{more}.",
                stacklevel=5,
            )

    def unmet(self, measured: Measured) -> dict[str, str]:
        """What is not as it shall be, and why, by path."""
        found: dict[str, str] = {}
        for way, deviations in enumerate(measured.deviations):
            for k, unit in enumerate(self.plan.units):
                std = np.asarray(deviations[k], float)
                error = np.abs(std / unit.target - 1)
                if (error <= unit.tolerance).all():
                    continue
                path = unit.path
                worst = std.flat[int(np.argmax(np.nan_to_num(error, nan=np.inf)))]
                if float(measured.sizes[k]) == 0:
                    why = "is zero"
                elif np.isnan(std).all():
                    why = "is not run, or not finite"
                elif not np.isfinite(std).all():
                    why = "has outputs that are not finite"
                elif worst == 0:
                    why = "has outputs that do not vary"
                    if self.direction != "forward" and way == len(measured.passes) - 1:
                        why = "gets no gradient"
                else:
                    why = f"has {worst:.3g} for {unit.target:.3g}"
                found.setdefault(path, f"{path} {why}")
        return found

    def _forget_what_is_not_handed_back(self) -> None:
        """Leave out what no gradient is handed back by: tables, products by hand."""
        kept = []
        left = dict(self.plan.left)
        for unit in self.plan.units:
            products = [self.plan.program.products[site] for site, _ in unit.uses]
            if all(p.operand is not None and not p.unseen for p in products):
                kept.append(unit)
            elif why := next((p.unseen for p in products if p.unseen), ""):
                left[unit.path] = f"shows no gradient ({why.rstrip('.')})"
            elif products[0].parts[0].use.kind != "embedding":
                left[unit.path] = "is multiplied by hand, entry by entry"
        self.plan = self.plan._replace(units=tuple(kept), left=left)

    def _with(
        self, arrays: Sequence[Any], scales: Scales, biases: Mapping[int, Array]
    ) -> list[Any]:
        """The arguments with units scaled, and with biases."""
        made = list(arrays)
        for unit, scale in zip(self.plan.units, scales, strict=True):
            made[unit.leaf] = applied(unit.axes, made[unit.leaf], scale)
        for k, bias in biases.items():
            made[k] = bias.astype(made[k].dtype)
        return made

    def _solved(
        self, way: str, key: Key, begun: Scales, arrays: Sequence[Any]
    ) -> _State:
        """Passes until the last has seen what it shall."""
        units = self.plan.units
        one_does = way == "forward" and all(unit.exact for unit in units)
        limit = 6 if one_does else PASSES

        def turn(state: _State, arrays: Sequence[Any]) -> _State:
            """One pass. If the last one left nothing to do, it only measures."""
            busy = state.passes % 2 == 0 if one_does else state.error > 1
            live = busy & (state.passes < limit - 1)
            _, xp = at_hand((live, state))
            biases = {k: xp.where(live, 0, x) for k, x in state.biases.items()}
            now = self._with(arrays, state.scales, biases)
            if way == "forward":
                deviations, factors, centres = forward(self.plan, now, live)
            else:
                noise = lambda out: noised(out, key)  # noqa: E731
                deviations, factors = backward(self.plan, now, live, noise)
                centres = state.biases
            errors = [
                xp.max(xp.where(xp.isfinite(std) & (std > 0), xp.abs(by - 1), 0))
                / unit.tolerance
                for unit, std, by in zip(units, deviations, factors, strict=True)
                if by.size
            ]
            error = xp.max(xp.stack(errors))
            pairs = zip(state.scales, factors, strict=True)
            scales = [xp.where(live, a * b, a).astype("float32") for a, b in pairs]
            new = {k: xp.where(live, x, state.biases[k]) for k, x in centres.items()}
            passes = state.passes + 1
            return _State(scales, new, deviations, error, xp.logical_not(live), passes)

        def going(state: _State) -> Array:
            done = (state.error <= 1) | (state.passes >= limit)
            return (state.verified & done) ^ True

        biases = {
            unit.bias: np.zeros(arrays[unit.bias].shape, np.float32)
            for unit in units
            if unit.bias is not None
        }
        state = _State(
            begun,
            biases,
            [np.zeros(unit.sizes, np.float32) for unit in units],
            np.asarray(np.inf, np.float32),
            np.asarray(False),
            np.asarray(0, np.int32),
        )
        if not units:
            return state
        if any(map(is_traced, (*arrays, *begun))):
            return jax.lax.while_loop(going, lambda s: turn(s, arrays), state)
        one = turn if self._is_long() else jax.jit(turn)
        while bool(going(state)):
            state = one(state, arrays)
        return state

    def _is_long(self) -> bool:
        """Whether to run operation by operation: equal layers share programs."""
        eqns = self.plan.program.jaxpr.eqns
        sizes = [math.prod(shape_of(var)) for eqn in eqns for var in eqn.outvars]
        return len(eqns) > LONG and sum(sizes) < LARGE


@jax.jit
def _largest(x: Array) -> Array:
    return jnp.abs(x).max().astype(jnp.float32)
