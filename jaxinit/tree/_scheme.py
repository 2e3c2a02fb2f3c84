"""The one mechanism of schemes for whole models: values, like initializers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import (
    Any,
    ClassVar,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    overload,
    runtime_checkable,
)

from jaxinit._initializer import Initializer
from jaxinit._types import Array, Key
from jaxinit._value import Builder, Value
from jaxinit.trace import Layer
from jaxinit.tree._structure import Structure

P = ParamSpec("P")

Assign: TypeAlias = Callable[[Structure], Mapping[str, Initializer | None]]
Finish: TypeAlias = Callable[[Key, Mapping[str, Array], Structure], Mapping[str, Array]]
Keys: TypeAlias = Callable[[Structure], Mapping[str, str]]


class Parts(NamedTuple):
    """What a function under `tree_scheme` returns, where the first is not all.

    Attributes:
        assign: from the structure to the initializer of each leaf, by path.
        finish: makes leaves that are drawn together, from all that are drawn.
        keys: from the structure to the leaves that are drawn with another's key: the
            path of the other, by path.
    """

    assign: Assign
    finish: Finish | None = None
    keys: Keys | None = None


Built: TypeAlias = (
    Assign | tuple[Assign, Finish] | tuple[Assign, Finish | None, Keys] | Parts
)


@runtime_checkable
class Scheme(Protocol):
    """What draws a whole model: an initializer, a rule list, a tree scheme, muP.

    `repr(scheme)` is its name, which `jaxinit.parse` reads. A scheme may also have
    `keys(layers)`, which maps the path of a leaf to that of another whose key draws it,
    `finish(key, values, layers)`, which maps paths to leaves that are made of all, and
    `calibrate(key, params, apply, inputs)`, which makes of all parameters new ones.
    """

    def choose(
        self, layers: Sequence[Layer], /
    ) -> Mapping[str, Initializer] | Mapping[str, Initializer | None]:
        """The initializer of each leaf that it draws, by path; None keeps a leaf."""
        ...


class TreeScheme(Value):
    """A scheme for a whole model: a frozen, hashable value that prints as it parses.

    It is the `scheme` of `jaxinit.init`, `jaxinit.reinit` and `jaxinit.describe`, and
    goes among the schemes of `jaxinit.compare.compare`.

    Attributes:
        name: its name, "tree." included for the library's.
        arguments: a read-only mapping from parameter names to values.
        has_rates: whether learning rates go with what it draws, as for `mup`, so that
            it cannot be part of another scheme.
    """

    __slots__ = ("_parts",)

    has_rates: ClassVar[bool] = False
    _parts: Parts

    def __init__(
        self, builder: _TreeBuilder, arguments: Mapping[str, Any], parts: Parts
    ) -> None:
        """Keep what the builder has made."""
        super().__init__(builder, arguments)
        object.__setattr__(self, "_parts", parts)

    def choose(self, layers: Sequence[Layer]) -> Mapping[str, Initializer | None]:
        """The initializer of each leaf that it draws.

        Args:
            layers: the model's layers, as `jaxinit.trace.layers` has them.

        Returns:
            From path to initializer; None keeps a leaf, as does a path's absence.
        """
        return self._parts.assign(Structure(layers))

    def keys(self, layers: Sequence[Layer]) -> Mapping[str, str]:
        """Leaves that are drawn with the key of another.

        Args:
            layers: the model's layers.

        Returns:
            From path to the path of the other; a leaf's own where it is left out.
        """
        return self._parts.keys(Structure(layers)) if self._parts.keys else {}

    def finish(
        self, key: Key, values: Mapping[str, Array], layers: Sequence[Layer]
    ) -> Mapping[str, Array]:
        """Leaves that are drawn together.

        Args:
            key: the key of the whole tree.
            values: every leaf, by path, after each has been drawn by itself.
            layers: the model's layers.

        Returns:
            The leaves that take another value, by path.
        """
        finish = self._parts.finish
        return finish(key, values, Structure(layers)) if finish else {}

    @staticmethod
    def _restored(made_by: str | Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """A value from its pickle; that names this module, which enters the schemes."""
        return Value._restored(made_by, arguments)


def keys_of(scheme: Scheme, layers: Sequence[Layer]) -> Mapping[str, str]:
    """The leaves that a scheme draws with the key of another, and which."""
    keys = getattr(scheme, "keys", None)
    return {} if keys is None else keys(layers)


def calibration_of(scheme: Scheme) -> Callable[..., Any] | None:
    """What a scheme makes of parameters once they are drawn; None if nothing."""
    return getattr(scheme, "calibrate", None)


S = TypeVar("S", bound=TreeScheme)


class _TreeBuilder(Builder):
    """What is known of one scheme for whole models."""

    def __init__(
        self, build: Callable[..., Any], kind: type[TreeScheme], cites: tuple[str, ...]
    ) -> None:
        name = f"tree.{build.__name__}"
        super().__init__(build, name=name, cites=cites)
        self.kind = kind

    def make(self, arguments: dict[str, Any]) -> TreeScheme:
        made = self.build(**arguments)
        parts = Parts(*made) if isinstance(made, tuple) else Parts(made)
        return self.kind(self, arguments, parts)


@overload
def tree_scheme(build: Callable[P, Built], /) -> Callable[P, TreeScheme]: ...
@overload
def tree_scheme(
    *, cites: tuple[str, ...] = ()
) -> Callable[[Callable[P, Built]], Callable[P, TreeScheme]]: ...
@overload
def tree_scheme(
    *, kind: type[S], cites: tuple[str, ...] = ()
) -> Callable[[Callable[P, Built]], Callable[P, S]]: ...
def tree_scheme(
    build: Callable[..., Any] | None = None,
    /,
    *,
    kind: type[TreeScheme] = TreeScheme,
    cites: tuple[str, ...] = (),
) -> Any:
    """Turn a function from parameters to a choice for every leaf into a scheme.

    The function checks its parameters and returns `assign(structure)`, which maps
    paths to initializers; or a pair of it and `finish(key, values, structure)`, which
    maps paths to arrays, for leaves that are made of others; or a triple with
    `keys(structure)`, which maps the path of a leaf to that of another whose key draws
    it, for leaves that belong together (None if there is no `finish`). A parameter
    annotated `float`, or as a union with it, becomes a float. The scheme is then a
    value like an initializer: equal by function and parameters, pickled by the
    function's module and name, and known to `jaxinit.parse` and the command line as
    `tree.NAME`.

    The `Structure` of a model says what its leaves are:

    - `layers`, every leaf in order of execution, each a `jaxinit.trace.Layer` with
      `path`, `shape`, `kind` ("dense", "conv", "embedding", "scale", "bias" or
      "unknown"), `fan_in`, `fan_out`, `activation_before` and more; `by_path` has the
      same by path;
    - `kernels`, those that enter a product or a convolution, and `heads`, the last
      ones, which feed no other;
    - `branches`, the residual branches in order, each a `Branch` with its `kernels`,
      the last of them as `end`, the multipliers (`scalars`) of what it adds, its
      `depth`, whether it is an `attention` with `queries_and_keys`, and its `index`;
    - `depth`, the number of branches, each layer of a scanned stack counted; `ends`
      and `inside`, the paths of the branches' last kernels and of all of theirs.

    A leaf that `assign` leaves out, or maps to None, stays as the model has it. Where
    the model is not one that the scheme is made for, raise a `ValueError` that says so.

    Args:
        build: the function, if the decorator stands without brackets.
        kind: the class of the values, for a scheme that has methods of its own.
        cites: keys of its sources in `jaxinit/references.bib`.

    Returns:
        A function of the same parameters that returns a `TreeScheme`.

    Raises:
        ValueError: the function's name is one of the library's.

    Example:
        Kernels by He, the last ones of residual branches smaller with the depth.

        >>> import jax, jax.numpy as jnp, jaxinit
        >>> @jaxinit.tree.tree_scheme
        ... def calm_branches(power: float = 0.5):
        ...     def assign(structure):
        ...         chosen = {k.path: jaxinit.he_normal() for k in structure.kernels}
        ...         factor = max(structure.depth, 1) ** -power
        ...         for branch in structure.branches:
        ...             chosen[branch.end.path] = jaxinit.scaled(
        ...                 jaxinit.he_normal(), factor
        ...             )
        ...         return chosen
        ...     return assign
        >>> params = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8))}
        >>> apply = lambda p, x: x + jax.nn.relu(x @ p["a"]) @ p["b"]
        >>> x = jnp.ones((1, 8))
        >>> [row.init for row in jaxinit.describe(params, calm_branches(), apply, (x,))]
        [he_normal(), scaled(scheme=he_normal(), factor=1.0)]
        >>> jaxinit.parse("tree.calm_branches(power=1)") == calm_branches(1.0)
        True
    """

    def published(build: Callable[..., Any]) -> Any:
        return _TreeBuilder(build, kind, cites).published()

    return published if build is None else published(build)
