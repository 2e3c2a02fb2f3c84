"""The package as a whole: imports, rooms, names, the command without its extra."""

from __future__ import annotations

import ast
import graphlib
import json
import pathlib
import re
import subprocess
import sys

import pytest

import jaxinit

ROOT = pathlib.Path(jaxinit.__file__).parent

ROOMS = [
    "_lazy",
    "_checks",
    "_canonical",
    "_types",
    "_compat",
    "_threefry",
    "_samplers",
    "_haar",
    "_quadrature",
    "meanfield",
    "_layout",
    "_fans",
    "_value",
    "_placement",
    "_initializer",
    "_text",
    "initializers",
    "presets",
    "_models",
    "trace",
    "tree",
    "diagnosis",
    "calibrate",
    "_catalogue",
    "compare.extra",
    "compare.options",
    "compare.files",
    "compare.machine",
    "compare.cluster",
    "compare.task",
    "compare.train",
    "compare.store",
    "compare.stats",
    "compare.report",
    "compare.sweep",
    "compare.code",
    "compare.phases",
    "compare.understanding",
    "compare.cli",
]
"""The flow of the house: a room imports only from rooms above it, or from its own."""


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_names_bring_jax_and_numpy_alone_and_the_package_not_even_these():
    code = (
        "import sys, json, jaxinit; assert not {'jax', 'numpy'} & set(sys.modules);"
        "import jax, numpy; before = set(sys.modules);"
        "jaxinit.init, jaxinit.meanfield, jaxinit.presets, jaxinit.diagnose;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "print(json.dumps(sorted(new)))"
    )
    status, out, err = python(code)
    assert status == 0, err
    extra = set(json.loads(out)) - {"jaxinit", "jax", "jaxlib", "numpy"}
    assert {name for name in extra if name not in sys.stdlib_module_names} == set()


def test_what_a_kernel_does_not_need_is_imported_later():
    code = (
        "import sys, jaxinit; held = 'jaxinit.tree' in sys.modules;"
        "assert {'tree', 'init', 'trace'} <= set(dir(jaxinit));"
        "print(held, jaxinit.parse('tree.gpt2'), jaxinit.reinit.__name__)"
    )
    assert python(code) == (0, "False tree.gpt2() reinit\n", "")
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        jaxinit.fly  # noqa: B018


def test_what_is_public_is_listed():
    tree = ast.parse((ROOT / "__init__.pyi").read_text())
    names = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if not (alias.asname or "_").startswith("_")
    }
    assert set(jaxinit.__all__) == names
    assert all(hasattr(jaxinit, name) for name in jaxinit.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", jaxinit.__version__)
    assert jaxinit.compare is sys.modules["jaxinit.compare"]
    status, out, _ = python(
        "import jaxinit, sys; print('jaxinit.compare' in sys.modules)"
    )
    assert (status, out) == (0, "False\n")


def test_a_name_has_one_home():
    homes = {}
    for room in (
        jaxinit,
        jaxinit.tree,
        jaxinit.trace,
        jaxinit.diagnosis,
        jaxinit.calibrate,
    ):
        for name in dir(room):
            value = getattr(room, name)
            if not name.startswith("_") and getattr(value, "__module__", "").startswith(
                "jaxinit"
            ):
                homes.setdefault(id(value), []).append(f"{room.__name__}.{name}")
    aliases = {"xavier_normal", "xavier_uniform", "kaiming_normal", "kaiming_uniform"}
    aliases |= {"irnn"}
    for names in homes.values():
        own = [name for name in names if name.rpartition(".")[2] not in aliases]
        assert len(own) == 1, names


def test_compare_without_its_extra_says_what_to_install():
    block = (
        "import sys, importlib.util as u; real = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'optax' else real(name, *a);"
    )
    status, _, err = python(block + "import jaxinit.compare")
    assert status == 1
    assert "needs optax; run: pip install 'jaxinit[compare]'" in err.splitlines()[-1]
    status, _, err = python(block + "import jaxinit.__main__ as m; m.main()")
    assert status == 1
    assert err.strip().count("\n") == 0 and err.startswith("jaxinit: jaxinit.compare")


def room_of(name):
    """The room that a module below `jaxinit` belongs to."""
    parts = name.split(".")
    for room in (".".join(parts[:3]), ".".join(parts[:2]), parts[0]):
        if room in ROOMS:
            return room
    return None


def imported(tree, module):
    """The modules below `jaxinit` that a file imports, however it spells it."""
    package = module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = node.module.split(".") if node.module else []
            base = above + base if node.level else base[1:]
            if node.level or (node.module or "").split(".")[0] == "jaxinit":
                yield from (".".join([*base, name.name]) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (
                name.name.partition(".")[2]
                for name in node.names
                if name.name.split(".")[0] == "jaxinit"
            )
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            name = node.args[0]
            if isinstance(name, ast.Constant) and name.value.startswith("jaxinit"):
                yield name.value.partition(".")[2]


def test_rooms_import_only_from_rooms_above():
    for file in ROOT.rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        home = room_of(module)
        if home is None:
            assert module in ("__init__", "__main__", "compare.__init__")
            continue
        for name in imported(ast.parse(file.read_text()), module):
            room = room_of(name)
            assert room is not None, (module, name)
            assert ROOMS.index(room) <= ROOMS.index(home), (module, name)


def test_no_modules_import_each_other_in_a_circle():
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file
        for file in ROOT.rglob("*.py")
        if file.name != "__init__.py"
    }
    graph = {
        module: {
            each
            for name in imported(ast.parse(file.read_text()), module)
            for each in (name, name.rpartition(".")[0])
            if each in files
        }
        for module, file in files.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_the_test_of_the_rooms_sees_every_spelling():
    spellings = """
from jaxinit._initializer import REGISTRY
from jaxinit import tree
import jaxinit.presets
from . import _walk
from ._walk import RULES
from .. import meanfield
importlib.import_module("jaxinit.compare")
import jax, importlib
"""
    found = list(imported(ast.parse(spellings), "trace._trace"))
    assert found == [
        "_initializer.REGISTRY",
        "tree",
        "presets",
        "trace._walk",
        "trace._walk.RULES",
        "meanfield",
        "compare",
    ]


def test_every_public_scheme_is_parsed_by_its_name():
    from jaxinit._value import REGISTRY

    public = {name for name in dir(jaxinit.initializers) if name in REGISTRY}
    assert {"he_normal", "kaiming_normal", "zeros", "orthogonal"} <= public
    for name in public:
        assert getattr(jaxinit, name) is REGISTRY[name]
