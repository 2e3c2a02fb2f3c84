"""Digests of traced programs: what a program computes, and nothing else of it.

A result is digested by the operation that makes it and the digests of its operands,
down to the program's arguments, by position, and its constants, by value. So names of
variables, source positions, results that nothing needs, and the order of equations that
do not depend on each other leave no trace; operations with effects are digested in
their order.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.tree_util import PyTreeDef

from jaxinit.compare.task.values import Digests, hashed, name_of, of_kind

_SILENT: dict[str, frozenset[str]] = {
    "closed_call": frozenset({"name"}),
    "core_call": frozenset({"name"}),
    "custom_jvp_call": frozenset({"jvp_jaxpr_fun", "name"}),
    "custom_vjp_call": frozenset({"fwd_jaxpr_thunk", "bwd", "out_trees", "name"}),
    "jit": frozenset({"name", "donated_invars", "keep_unused", "inline"}),
    "name": frozenset({"name"}),
    "pallas_call": frozenset({"name", "debug", "cost_estimate", "metadata"}),
    "reduce": frozenset({"computation"}),
    "remat2": frozenset({"policy", "prevent_cse", "differentiated", "name"}),
}
"""Parameters of operations that do not change what these compute.

The rules of derivatives are among them: where a program is differentiated, the rule's
own operations stand in the program already, and where it is not, no rule runs.
"""
_SILENT["pjit"] = _SILENT["jit"]
_SILENT["checkpoint"] = _SILENT["remat2"]
_SILENT["custom_vjp_call_jaxpr"] = _SILENT["custom_vjp_call"]

_PLACEMENT = ("in_shardings", "out_shardings", "in_layouts", "out_layouts", "ctx_mesh")
"""Parameters of a jitted call that say nothing as long as the user has not."""

_JITTED = ("jit", "pjit")

_SHOWN = ("debug_callback", "debug_print")
"""Operations that only show values."""

_PURE = ("DebugEffect", "OrderedDebugEffect", "NamedAxisEffect")
"""Effects that change no value."""

_CONTEXT = ("compute_type", "xla_metadata")
"""What a context may say of an operation that changes how it is computed."""

_FUNCTIONS = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    functools.partial,
)


class Fingerprint(NamedTuple):
    """What a program computes.

    Attributes:
        digest: equal for programs that compute the same, 32 hexadecimal digits.
        untraced: what of the program is no traced operation, and known only by its
            code and by the values that this closes over; each once, in words.
    """

    digest: str
    untraced: tuple[str, ...]


def fingerprint(*programs: Any, about: Any = None) -> Fingerprint:
    """The fingerprint of traced programs.

    Two programs have one digest if they apply the same operations to the same
    arguments, by position, and to constants of the same value. It is the same in every
    process with the same versions of JAX and Python. Rules of derivatives count where
    they are part of the program, so trace what is run: `jax.grad(f)`, and not `f` that
    is differentiated later.

    Args:
        *programs: each as `jax.make_jaxpr` gives it.
        about: any further value that belongs to them.

    Returns:
        The `Fingerprint`.

    Example:
        >>> import jax
        >>> program = lambda f: jax.make_jaxpr(f)(1.0)
        >>> a = fingerprint(program(lambda x: 2.0 * x))
        >>> b = fingerprint(program(lambda y: [3.0 * y, 2.0 * y][1]))
        >>> c = fingerprint(program(lambda x: 3.0 * x))
        >>> a == b, a == c
        (True, False)
    """
    return Programs().fingerprint(*programs, about=about)


class _Result(NamedTuple):
    """A value within a program.

    Attributes:
        digest: of how it is made.
        needs: the program's arguments that it depends on, a bit each.
    """

    digest: bytes
    needs: int


class _Body(NamedTuple):
    """What a program makes.

    Attributes:
        results: its results.
        effects: the digest of its effects, in order; empty without any.
        untraced: what of it is no traced operation.
    """

    results: list[_Result]
    effects: bytes
    untraced: tuple[str, ...]


class Programs(Digests):
    """Digests of programs that share parts and constants, each looked at once."""

    def __init__(self) -> None:
        """Without anything seen yet."""
        super().__init__(sampled=float("inf"))
        self._untraced: list[str] = []
        self._bodies: dict[int, tuple[Any, _Body]] = {}

    def fingerprint(self, *programs: Any, about: Any = None) -> Fingerprint:
        """As the function `fingerprint`."""
        self._untraced = []
        digest = hashed("programs", *map(self.program, programs), self.of(about))
        return Fingerprint(digest.hex(), tuple(dict.fromkeys(self._untraced)))

    def program(self, jaxpr: Any) -> bytes:
        """The digest of all that a program computes."""
        body = self._body(jaxpr)
        return hashed("program", *(each.digest for each in body.results), body.effects)

    def _body(self, jaxpr: Any) -> _Body:
        known = self._bodies.get(id(jaxpr))
        if known is None:
            outer, self._untraced = self._untraced, []
            known = self._bodies[id(jaxpr)] = (jaxpr, self._evaluated(jaxpr))
            self._untraced = outer
        self._untraced += known[1].untraced
        return known[1]

    def _evaluated(self, closed: Any) -> _Body:
        jaxpr = getattr(closed, "jaxpr", closed)
        consts = getattr(closed, "consts", ())
        env: dict[Any, _Result] = {}
        for variable, value in zip(jaxpr.constvars, consts, strict=False):
            env[variable] = self._constant(value, variable.aval)
        free = (*jaxpr.invars, *jaxpr.constvars[len(consts) :])
        for place, variable in enumerate(free):
            argument = hashed(f"argument {place}", _form(variable.aval))
            env[variable] = _Result(argument, 1 << place)

        def read(atom: Any) -> _Result:
            if isinstance(atom, core.Literal):
                return self._constant(atom.val, atom.aval)
            return env[atom]

        effects = b""
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            if name in _SHOWN:
                continue
            operands = list(map(read, equation.invars))
            pure = all(type(each).__name__ in _PURE for each in equation.effects)
            if pure and name in _JITTED:
                results = self._call(equation, operands)
            else:
                made = self._operation(equation, operands, b"" if pure else effects)
                effects = effects if pure else made
                results = _numbered(made, operands, len(equation.outvars))
            env.update(zip(equation.outvars, results, strict=True))
        results = list(map(read, jaxpr.outvars))
        return _Body(results, effects, tuple(self._untraced))

    def _constant(self, value: Any, aval: Any) -> _Result:
        keys = jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)
        if not keys and aval.shape == ():
            content = np.asarray(value, aval.dtype).tobytes()
        else:
            content = self.of(value)
        return _Result(hashed("constant", _form(aval), content), 0)

    def _operation(
        self, equation: Any, operands: Sequence[_Result], before: bytes
    ) -> bytes:
        """The digest of an operation: its name, parameters and operands."""
        name, params = equation.primitive.name, equation.params
        silent = _SILENT.get(name, frozenset())
        about = [
            self._parameter(name, each, params[each])
            for each in sorted(params)
            if each not in silent
        ]
        given = [operand.digest for operand in operands]
        return hashed(name, *about, self._context(equation), before, *given)

    def _call(self, equation: Any, operands: Sequence[_Result]) -> list[_Result]:
        """The results of a jitted call, each by the operands that it needs."""
        params = {
            name: value
            for name, value in equation.params.items()
            if name not in _SILENT["jit"]
            and name != "jaxpr"
            and not (name in _PLACEMENT and _unspecified(value))
        }
        about = hashed("call", self.of(params), self._context(equation))
        results = []
        for inner in self._body(equation.params["jaxpr"]).results:
            needed = [o for place, o in enumerate(operands) if inner.needs >> place & 1]
            digests = [operand.digest for operand in needed]
            made = hashed("result", about, inner.digest, *digests)
            results.append(_Result(made, _needs(needed)))
        return results

    def _parameter(self, operation: str, name: str, value: Any) -> bytes:
        """The digest of a parameter; what is not traced is noted."""
        function = getattr(value, "callback_func", value)
        if function is not value or isinstance(function, _FUNCTIONS):
            self._untraced.append(f"the Python function {name_of(function)}")
        elif operation == "ffi_call" and name == "target_name":
            self._untraced.append(f"the compiled function {value}")
        return hashed(name, self.of(value))

    def _context(self, equation: Any) -> bytes:
        """What decides an operation besides its parameters."""
        context = getattr(equation, "ctx", None)
        about = [getattr(context, name, None) for name in _CONTEXT]
        if equation.primitive.name.startswith("random_"):
            about.append(getattr(context, "threefry_partitionable", None))
        return self.of(about) if any(each is not None for each in about) else b""


def _numbered(made: bytes, operands: Sequence[_Result], count: int) -> list[_Result]:
    """The results of an operation, which differ by their place."""
    needs = _needs(operands)
    return [_Result(hashed(str(place), made), needs) for place in range(count)]


def _needs(operands: Iterable[_Result]) -> int:
    return functools.reduce(lambda bits, each: bits | each.needs, operands, 0)


@functools.lru_cache(maxsize=4096)
def _form(aval: Any) -> bytes:
    """Shape, dtype, and whatever else makes the type of a value."""
    return repr(aval).encode()


def _unspecified(placement: Any) -> bool:
    """Whether the user has said nothing of where a call's arrays are."""
    if isinstance(placement, tuple):
        return all(map(_unspecified, placement))
    nothing = placement is None or type(placement).__name__ == "UnspecifiedValue"
    return nothing or getattr(placement, "empty", False)


def _of_program(value: Any, digests: Digests) -> bytes:
    programs = digests if isinstance(digests, Programs) else Programs()
    return programs.program(value)


of_kind.register(core.Jaxpr, _of_program)
of_kind.register(core.ClosedJaxpr, _of_program)


@of_kind.register(PyTreeDef)
def _(value: Any, digests: Digests) -> bytes:
    return digests.all_of("tree", value.node_data(), value.children())


@of_kind.register(Mesh)
@of_kind.register(AbstractMesh)
def _(value: Any, digests: Digests) -> bytes:
    kinds = list(map(str, value.axis_types or ()))
    return digests.all_of("mesh", value.axis_names, tuple(value.shape.values()), kinds)


@of_kind.register(NamedSharding)
def _(value: NamedSharding, digests: Digests) -> bytes:
    about = (value.mesh, str(value.spec), value.memory_kind)
    return digests.all_of("sharding", *about)
