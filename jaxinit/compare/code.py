"""Tasks, schemes and optimizers of one's own on the command line, as `mine.py:task`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pathlib
import re
import sys
import types
from collections.abc import Sequence
from typing import Any

from jaxinit import tree
from jaxinit._models import what_was_raised
from jaxinit._text import parse
from jaxinit.compare.task import builtin
from jaxinit.compare.task.task import Task

_REFERENCE = re.compile(r"([^:()'\"]+):([A-Za-z_][\w.]*)")


def task(text: str, **options: Any) -> Task:
    """The task that a text names: a built-in one, or one of the user's own.

    Args:
        text: of a built-in task; or where to find an attribute, `FILE.py:NAME` or
            `MODULE:NAME`, that is a task or a function that makes one.
        options: arguments of that function, or of the built-in task.

    Raises:
        ValueError: there is no such task, or what is there cannot be had.
        TypeError: it is something else, or takes no such option.
    """
    found = _REFERENCE.fullmatch(text.strip())
    if found is None:
        return builtin.parse_task(text, **options)
    made = _attribute(text, *found.groups())
    if callable(made):
        _check_options(text, made, options)
        try:
            made = made(**options)
        except Exception as error:
            raise ValueError(f"{text} raised {what_was_raised(error)}.") from error
    elif options:
        raise ValueError(
            f"{text} is a task already, so that {', '.join(options)} cannot be given; "
            "name a function of them that makes the task."
        )
    if not isinstance(made, Task):
        raise TypeError(
            f"{text} is a {type(made).__name__}; a task, or a function that makes one, "
            "is needed, as by jaxinit.compare.make_task."
        )
    return made


def tasks(
    one: str | None, several: Sequence[str], data: str | None, options: dict[str, Any]
) -> dict[str, Task]:
    """What is trained, by the names of folders.

    Args:
        one: the text of a task; digits-mlp where nothing else is given.
        several: texts of tasks.
        data: what `builtin.data_task` takes.
        options: of each task; None says nothing.

    Raises:
        ValueError: more than one of them is given, or a task comes twice; and as
            `task` does.
        TypeError: as `task` does.
    """
    options = {key: value for key, value in options.items() if value is not None}
    every = {"task": one, "tasks": several, "data": data}
    given = [name for name, value in every.items() if value]
    if len(given) > 1:
        raise ValueError(f"--{given[0]} and --{given[1]} exclude each other.")
    if data is not None:
        file = pathlib.Path(data).stem if data.endswith(".npz") else data
        return {_folder_name(file): builtin.data_task(data, **options)}
    if not several:
        text = "digits-mlp" if one is None else one
        return {_folder_name(text.split("(")[0]): task(text, **options)}
    found = {_folder_name(text): task(text, **options) for text in several}
    names = [each.name for each in found.values()]
    if len(set(names)) < len(several):
        raise ValueError(
            f"--tasks {' '.join(several)} has a task twice, by name: "
            f"{', '.join(sorted(set(names)))}; give each a name= of its own."
        )
    return found


def scheme(text: str) -> Any:
    """The scheme that a text names: of the library, or one of the user's own.

    Args:
        text: of a scheme; or where to find an attribute, as for `task`, that is a
            scheme, a function that makes one, or a function
            `(key, params, apply, batch) -> params`.

    Raises:
        ValueError: there is no such scheme, or what is there cannot be had.
        TypeError: it is something else.
    """
    found = _REFERENCE.fullmatch(text.strip())
    if found is None:
        return parse(text)
    made = _attribute(text, *found.groups())
    is_scheme = isinstance(made, tree.Scheme) and not hasattr(made, "shape")
    if is_scheme or isinstance(made, list):  # arrays, too, can `choose`
        return made
    if not callable(made):
        raise TypeError(
            f"{text} is a {type(made).__name__}; an initializer, a scheme, or a "
            "function is needed."
        )
    if hasattr(made, "__builder__") or not inspect.signature(made).parameters:
        return made()
    return made


def optimizer(text: str) -> Any:
    """The optimizer that a text names: of the library, or one of the user's own.

    Args:
        text: of an optimizer; or where to find an attribute, as for `task`, that is
            one, or a function from a learning rate to a transformation of Optax.

    Raises:
        ValueError: there is no such optimizer.
    """
    found = _REFERENCE.fullmatch(text.strip())
    return text if found is None else _attribute(text, *found.groups())


def _folder_name(text: str) -> str:
    """A task's text as the name of a folder."""
    found = _REFERENCE.fullmatch(text.strip())
    if found is not None:
        where, name = found.groups()
        text = f"{pathlib.Path(where).stem}-{name}"
    return re.sub(r"[^\w.]+", "-", text).strip("-")


def _attribute(text: str, where: str, name: str) -> Any:
    module: Any = _module(text, where)
    for part in name.split("."):
        if not hasattr(module, part):
            public = [
                n
                for n, value in vars(module).items()
                if not n.startswith("_") and not isinstance(value, types.ModuleType)
            ]
            raise ValueError(
                f"{text}: {where} has no {name}; it has {', '.join(public)}."
            )
        module = getattr(module, part)
    return module


_LOADED: dict[pathlib.Path, types.ModuleType] = {}
"""Files that were run, each once."""


def _module(text: str, where: str) -> types.ModuleType:
    file = pathlib.Path(where)
    is_file = file.suffix == ".py"
    if is_file and not file.is_file():
        raise ValueError(f"{text}: there is no file {where}.")
    folder = str(file.resolve().parent) if is_file else str(pathlib.Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # for what stands beside it, as with python FILE
    try:
        if is_file:
            return _file(file.resolve())
        return importlib.import_module(where)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{text}: {where} raised {what_was_raised(error)}.") from error


def _file(path: pathlib.Path) -> types.ModuleType:
    if path not in _LOADED:
        name = path.stem if path.stem not in sys.modules else f"{path.stem}_of_file"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _LOADED[path] = module
    return _LOADED[path]


def _check_options(text: str, function: Any, options: dict[str, Any]) -> None:
    """Raise unless a function takes these options and needs no others."""
    signature = inspect.signature(function)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise TypeError(
            f"{text} is a function of {signature} and is called with "
            f"{', '.join(options) or 'nothing'}: {error}."
        ) from None
