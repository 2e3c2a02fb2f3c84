"""The one mechanism of schemes for whole models: values, like initializers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ParamSpec, TypeAlias

from jaxinit._initializer import REGISTRY, Initializer
from jaxinit._types import Array, Key
from jaxinit.trace import Layer
from jaxinit.tree._reinit import reinit
from jaxinit.tree._structure import Structure

P = ParamSpec("P")
Assign: TypeAlias = Callable[[Structure], Mapping[str, Initializer | None]]
Finish: TypeAlias = Callable[[Key, Mapping[str, Array], Structure], Mapping[str, Array]]


class TreeScheme:
    """A scheme for a whole model: a frozen, hashable value that prints as it parses.

    It goes where rules go: `jaxinit.reinit(key, params, scheme, apply, inputs)`,
    `jaxinit.init(model, key, x, scheme=scheme)`, `jaxinit.describe`, and among the
    schemes of `jaxinit.compare.compare`.

    Attributes:
        name: its name, "tree." included.
        arguments: a read-only mapping from parameter names to values.
    """

    name: str
    arguments: Mapping[str, Any]

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any],
        assign: Assign,
        finish: Finish | None = None,
    ) -> None:
        """Keep what the builder has made."""
        self.name = name
        self.arguments = MappingProxyType(dict(arguments))
        self._assign = assign
        self._finish = finish

    def assign(self, found: Sequence[Layer]) -> Mapping[str, Initializer | None]:
        """The initializer of each leaf that it draws, by path."""
        return self._assign(Structure(found))

    def finish(
        self, key: Key, values: Mapping[str, Array], found: Sequence[Layer]
    ) -> Mapping[str, Array]:
        """Leaves that are drawn together, by path."""
        return self._finish(key, values, Structure(found)) if self._finish else {}

    def __call__(self, key: Key, params: Any, apply: Any, batch: Any) -> Any:
        """Draw the parameters; `batch` is (inputs, ...), of which apply takes one."""
        return reinit(key, params, self, apply, (batch[0],))

    def __repr__(self) -> str:
        """The text that `jaxinit.parse` reads."""
        shown = ", ".join(f"{k}={v!r}" for k, v in self.arguments.items())
        return f"{self.name}({shown})"

    def __eq__(self, other: object) -> bool:
        """Equal by name and parameters."""
        return isinstance(other, TreeScheme) and repr(self) == repr(other)

    def __hash__(self) -> int:
        """By name and parameters."""
        return hash(repr(self))

    def __reduce__(self) -> Any:
        """By name and parameters."""
        return _rebuilt, (self.name, dict(self.arguments))


def _rebuilt(name: str, arguments: dict[str, Any]) -> Any:
    return REGISTRY[name](**arguments)


def tree_scheme(
    build: Callable[P, Assign | tuple[Assign, Finish]],
) -> Callable[P, TreeScheme]:
    """Make a scheme of a function from parameters to the choice for each leaf.

    The function checks its parameters and returns `assign(structure)`, which maps
    paths to initializers; or a pair of it and `finish(key, values, structure)`, which
    maps paths to arrays that are drawn together. `jaxinit.parse` knows the scheme as
    `tree.NAME`.
    """
    name = f"tree.{build.__name__}"
    signature = inspect.signature(build)

    @functools.wraps(build)
    def builder(*args: P.args, **kwargs: P.kwargs) -> TreeScheme:
        try:
            bound = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(
                f"{name}: {error}; its parameters are "
                f"{', '.join(signature.parameters)}."
            ) from None
        made = build(*args, **kwargs)
        assign, finish = made if isinstance(made, tuple) else (made, None)
        defaults = {k: p.default for k, p in signature.parameters.items()}
        shown = {k: v for k, v in bound.items() if v != defaults[k]}
        return TreeScheme(name, shown, assign, finish)

    REGISTRY[name] = builder  # type: ignore[assignment]
    return builder
