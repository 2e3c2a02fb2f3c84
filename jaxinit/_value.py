"""Values known by a builder and its arguments, as every scheme is.

A scheme is a function of its parameters, in a `Builder`, which checks arguments and
brings equal ones to one form. What the builder makes is a `Value`: frozen, hashable,
equal by builder and arguments, pickled, and printed as it is parsed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import textwrap
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, Self, get_type_hints

import numpy as np

from jaxinit import _checks
from jaxinit._canonical import Convert, converter, plain

REGISTRY: dict[str, Callable[..., Any]] = {}
"""What `parse` may call, by name, aliases included: functions that return values."""

_ROOMS = tuple(
    f"jaxinit.{name}" for name in "initializers presets tree calibrate".split()
)
"""Where the library's schemes stand, which enter themselves when imported."""


class Value:
    """A frozen, hashable object that its builder and its arguments say everything of.

    Attributes:
        arguments: a read-only mapping from parameter names to values.
    """

    __slots__ = ("__weakref__", "_builder", "arguments")

    arguments: Mapping[str, Any]
    _builder: Any  # a Builder; its kind differs from one kind of value to another

    def __init__(self, builder: Builder, arguments: Mapping[str, Any]) -> None:
        """Keep both."""
        object.__setattr__(self, "_builder", builder)
        object.__setattr__(self, "arguments", MappingProxyType(dict(arguments)))

    @property
    def name(self) -> str:
        """The scheme's name."""
        return self._builder.name

    def replace(self, **changes: Any) -> Self:
        """The same scheme with some parameters changed.

        Args:
            **changes: the parameters, by name.

        Returns:
            Another value.

        Example:
            >>> import jaxinit
            >>> jaxinit.he_normal(gain=2).replace(distribution="normal")
            he_normal(gain=2.0, distribution='normal')
        """
        return self._builder(**{**self.arguments, **changes})

    def __repr__(self) -> str:
        """The text that `jaxinit.parse` reads: the arguments that are no defaults."""
        shown = (
            f"{name}={_text(value)}"
            for name, value in self.arguments.items()
            if name in self._builder.shown or not self._builder.is_default(name, value)
        )
        return f"{self.name}({', '.join(shown)})"

    def _key(self) -> tuple[Any, ...]:
        # The builder, not its name: a scheme that is defined again is another one.
        return (self._builder, *map(identity, self.arguments.values()))

    def __eq__(self, other: object) -> bool:
        """Equal by function and arguments."""
        if not isinstance(other, Value):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        """By function and arguments."""
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        """The library's schemes by name, others by their function's module and name."""
        builder = self._builder
        made_by = builder.name if builder.library else builder.public
        return self._restored, (made_by, dict(self.arguments))

    @staticmethod
    def _restored(made_by: str | Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """A value from its pickle."""
        public = registered(made_by)[made_by] if isinstance(made_by, str) else made_by
        return public if isinstance(public, Value) else public(**arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse."""
        raise AttributeError(
            f"{self!r} is a frozen value; use .replace({name}=...) to get another one."
        )

    def __delattr__(self, name: str) -> None:
        """Refuse."""
        raise AttributeError(f"{self!r} is a frozen value; it keeps its {name}.")


class Builder:
    """What is known of one scheme; called with its parameters, it makes a value.

    Attributes:
        name: the scheme's name, as texts have it.
        build: the function.
        public: what users call; pickles of schemes that are not the library's name it.
        signature: its parameters, those of a `**keywords: Unpack[...]` one by one.
        doc: its docstring, which says what each of them means.
        shown: parameters that texts have even at their default.
        cites: keys of its sources in `references.bib`.
        within: the parameters that are schemes themselves, by their annotation.
    """

    public: Callable[..., Any]

    def __init__(
        self,
        build: Callable[..., Any],
        *,
        name: str | None = None,
        shown: tuple[str, ...] = (),
        cites: tuple[str, ...] = (),
        like: Callable[..., Any] | None = None,
        defaults: Mapping[str, Any] = MappingProxyType({}),
        meanings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Read the parameters.

        Args:
            build: the function.
            name: its name if None.
            shown: as the attribute.
            cites: as the attribute.
            like: a function that has the parameters in its place.
            defaults: defaults of what a `**keywords: Unpack[...]` stands for.
            meanings: what those keywords mean, for the docstring.
        """
        self.name = build.__name__ if name is None else name
        self.build = build
        self.shown = shown
        self.cites = cites
        self.library = is_library(build)
        self.signature, hints = _parameters(like or build, defaults)
        self.doc = _completed(build, self.signature, meanings)
        self.within = tuple(
            name
            for name, hint in hints.items()
            if isinstance(hint, type) and issubclass(hint, Value)
        )
        self._convert: dict[str, Convert] = {
            name: converter(hints[name]) if name in hints else plain
            for name in self.signature.parameters
        }
        self.defaults = {
            name: self._convert[name](self.name, name, parameter.default)
            for name, parameter in self.signature.parameters.items()
            if parameter.default is not parameter.empty
        }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Check the arguments, and make the value."""
        arguments = self.bound(*args, **kwargs)
        try:
            value = self.make(arguments)
        except OverflowError:
            raise ValueError(
                f"{self.name}: one of {arguments} is too large to compute with; use "
                "numbers nearer to one."
            ) from None
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"{self.name}: its parameters must be hashable, but one of {arguments} "
                "is not; use numbers, text, tuples, arrays or functions."
            ) from None
        return value

    def make(self, arguments: dict[str, Any]) -> Value:
        """The value of these arguments."""
        raise NotImplementedError

    def bound(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Every argument in its one form, in the order of the signature."""
        try:
            given = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(
                f"{self.name}: {error}; its parameters are "
                f"{', '.join(self.signature.parameters)}."
            ) from None
        kept = {
            name: self._convert[name](self.name, name, value)
            for name, value in given.items()
        }
        every = {**self.defaults, **kept}
        return {name: every[name] for name in self.signature.parameters}

    def is_default(self, name: str, value: Any) -> bool:
        """Whether a parameter has its default."""
        if name not in self.defaults:
            return False
        return identity(value) == identity(self.defaults[name])

    def published(self) -> Any:
        """The function that users call, entered for `parse` under the scheme's name."""

        @functools.wraps(self.build)
        def public(*args: Any, **kwargs: Any) -> Any:
            return self(*args, **kwargs)

        public.__doc__ = self.doc
        public.__signature__ = self.signature  # type: ignore[attr-defined]
        public.__builder__ = self  # type: ignore[attr-defined]
        self.public = public
        self.enter(public)
        return public

    def enter(self, public: Any) -> None:
        """Enter it where its text is looked up: among the schemes, for `parse`."""
        enter(self.name, public)


def enter(name: str, public: Any) -> None:
    """Enter a name for `parse`, unless the library has it for something else.

    Raises:
        ValueError: the name is the library's, and what comes is not.
    """
    library = is_library(public)
    taken = None if library else registered(name).get(name)
    if taken is not None and is_library(taken):
        raise ValueError(
            f"The name of scheme {name!r} is taken by the library's own "
            f"jaxinit.{name}; give yours another name."
        )
    REGISTRY[name] = public


def registered(name: str | None = None) -> Mapping[str, Any]:
    """Every scheme by name, or at least that of one name, if there is such a scheme.

    What stands in rooms that are not imported yet is imported for it.
    """
    for room in _ROOMS:
        if name not in REGISTRY:
            importlib.import_module(room)
    return REGISTRY


def is_library(public: Any) -> bool:
    """Whether a function or value is one of jaxinit's."""
    return public.__module__.partition(".")[0] == "jaxinit"


def _parameters(
    build: Callable[..., Any], defaults: Mapping[str, Any]
) -> tuple[inspect.Signature, dict[str, Any]]:
    """The signature with its keywords one by one, and the types of the parameters."""
    hints = _hints(build)
    hints.pop("return", None)
    parameters = list(inspect.signature(build).parameters.values())
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        rest = parameters.pop().name
        (packed,) = typing.get_args(hints.pop(rest, None)) or (None,)
        if not typing.is_typeddict(packed):
            raise TypeError(
                f"{build.__name__}: annotate **{rest} as Unpack of a TypedDict, such "
                "as Unpack[jaxinit.Layout], that its keywords are known."
            )
        of_each = _hints(packed)
        hints.update(of_each)
        parameters += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(name),
                annotation=getattr(annotation, "__forward_arg__", annotation),
            )
            for name, annotation in packed.__annotations__.items()
        ]
    return inspect.Signature(parameters), hints


def _hints(annotated: Any) -> dict[str, Any]:
    """Types of parameters; one that cannot be evaluated at run time says nothing."""
    with contextlib.suppress(NameError, AttributeError, TypeError):
        return get_type_hints(annotated, include_extras=True)
    found: dict[str, Any] = {}
    namespace = getattr(annotated, "__globals__", {})
    for name, annotation in inspect.get_annotations(annotated).items():
        alone = SimpleNamespace(__annotations__={name: annotation})
        with contextlib.suppress(NameError, AttributeError, TypeError):
            found |= get_type_hints(alone, namespace, include_extras=True)
    return found


def _completed(
    build: Callable[..., Any], signature: inspect.Signature, meanings: Mapping[str, str]
) -> str:
    """The docstring with each keyword in the place of the line on `**keywords`."""
    lines = inspect.cleandoc(build.__doc__ or "").splitlines()
    rest = next(reversed(inspect.signature(build).parameters), "")
    places = [k for k, line in enumerate(lines) if line.startswith(f"    **{rest}:")]
    if not places:
        return "\n".join(lines)
    start, *_ = places
    end = start
    while end + 1 < len(lines) and lines[end + 1].startswith("        "):
        end += 1
    said = {line.strip().partition(":")[0] for line in lines[:start]}
    added = [
        textwrap.fill(
            f"{name}: {meanings[name]}",
            width=84,
            initial_indent="    ",
            subsequent_indent="        ",
        )
        for name in signature.parameters
        if name in meanings and name not in said
    ]
    return "\n".join([*lines[:start], *added, *lines[end + 1 :]])


def has_tracer(value: Any) -> bool:
    """Whether a number in it is known only when the program runs."""
    if isinstance(value, Value):
        return any(map(has_tracer, value.arguments.values()))
    if isinstance(value, tuple):
        return any(map(has_tracer, value))
    return _checks.is_traced(value)


def identity(value: Any) -> Any:
    """A hashable, equal for equal parameters: 0.0 is not -0.0, and NaN is NaN."""
    if _checks.is_traced(value):
        return ("traced", id(value))
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.name, value.shape, value.tobytes())
    if isinstance(value, tuple):
        return tuple(map(identity, value))
    if isinstance(value, (float, complex)):
        return (type(value).__name__, repr(value))
    return (type(value).__name__, value)


def _text(value: Any) -> str:
    if _checks.is_traced(value):
        return "<traced>"
    if isinstance(value, np.dtype):
        return repr(value.name)
    if isinstance(value, np.ndarray):
        return _text(value.tolist())
    if callable(value) and not isinstance(value, Value):
        return _called(value)
    if isinstance(value, complex):
        return f"complex({value.real!r}, {value.imag!r})"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, tuple):
        inside = ", ".join(map(_text, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return repr(value)


def _called(function: Any) -> str:
    """Where a function is imported from; of a callable object its type.

    It names the function to a reader; `parse`, which never runs code, does not read it.
    """
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"
