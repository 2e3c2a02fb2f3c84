"""Names of a package that are imported when they are asked for."""

from __future__ import annotations

import ast
import importlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any


def attach(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from the stub beside it.

    The stub lists what is public as imports, `from a.b import c as c`: one list for
    readers, type checkers and the interpreter. `import jaxinit` so takes no time, and
    each name the time that it needs itself.

    Args:
        package: the package's `__name__`.
        file: its `__file__`.

    Returns:
        The three, to be assigned in the package's `__init__.py`.
    """
    stub = pathlib.Path(file).with_suffix(".pyi").read_text("utf-8")
    homes = {
        alias.asname: (node.module or "", alias.name)
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname is not None
    }

    def getattribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, there = homes[name]
        if module == package:
            return importlib.import_module(f"{package}.{there}")
        found = getattr(importlib.import_module(module), there)
        setattr(sys.modules[package], name, found)
        return found

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return getattribute, listed, sorted(homes)
