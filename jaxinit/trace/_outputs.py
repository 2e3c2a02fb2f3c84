"""What each kernel of a function puts out, caught on the way of one evaluation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import Jaxpr, Literal

from jaxinit import _compat

from ._layer import KERNELS
from ._trace import recorded
from ._view import Site
from ._walk import shape_of


def outputs(
    apply: Callable[..., Any], params: Any, *inputs: Any
) -> dict[str, jax.Array]:
    """Evaluate `apply(params, *inputs)` and return the output of each kernel.

    Args:
        apply: as in `layers`.
        params: as in `layers`, concrete or traced.
        inputs: as in `layers`, at least one.

    Returns:
        For the path of each parameter that enters a product or a convolution, what
        came out of the first of them, in order of execution. What happens within a
        loop (a scan over layers) is not seen.

    Raises:
        TypeError: as `layers`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxinit.trace import outputs
        >>> params = {"w": jnp.eye(2), "v": 3 * jnp.eye(2)}
        >>> apply = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> outputs(apply, params, jnp.zeros((1, 2)))["w"].tolist()
        [[0.0, 0.0]]
    """
    program = recorded(apply, params, *inputs)
    wanted: dict[Site, str] = {}
    for (site, leaf), record in program.trace.records.items():
        name = program.names[leaf]
        if record.use.kind in KERNELS and name not in wanted.values():
            wanted[site] = name
    caught: dict[str, jax.Array] = {}
    _evaluate(program.jaxpr, program.consts, program.arrays, (), wanted, caught)
    return caught


def _evaluate(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    arguments: Sequence[Any],
    outer: Site,
    wanted: Mapping[Site, str],
    caught: dict[str, Any],
) -> list[Any]:
    """Evaluate a program, step into its calls, and keep what is wanted."""
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for number, eqn in enumerate(jaxpr.eqns):
        site = (*outer, number)
        values = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name in _compat.CALLS:
            inner = _compat.called(eqn)
            given = _compat.consts(inner), values, site, wanted, caught
            outs = _evaluate(_compat.body(inner), *given)
        else:
            outs = eqn.primitive.bind(*values, **eqn.params)
            outs = outs if eqn.primitive.multiple_results else [outs]
        if site in wanted and shape_of(eqn.outvars[0]):
            caught[wanted[site]] = outs[0]
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
