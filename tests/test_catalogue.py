"""The catalogue: every scheme documented, listed, shown, and in the README's table."""

from __future__ import annotations

import json
import pathlib
import re

import pytest
from cases import CASES

import jaxinit as ji
from jaxinit import _catalogue
from jaxinit._value import REGISTRY
from jaxinit.compare import cli

LIBRARY = {
    name: entry
    for name, entry in _catalogue.catalogue().items()
    if _catalogue.builder_of(REGISTRY[name]).library
}
CALIBRATED = {
    name: entry
    for name, entry in LIBRARY.items()
    if _catalogue.builder_of(REGISTRY[name]).build.__module__.startswith(
        "jaxinit.calibrate."
    )
}
PUBLIC = {
    name: entry
    for name, entry in LIBRARY.items()
    if not name.startswith("tree.") and name not in CALIBRATED
}
WITHOUT_SOURCE = {
    *("zeros", "ones", "constant", "normal"),
    *("tree.rules", "tree.by_kind", "tree.combined", "tree.with_gain"),
}


def test_every_scheme_is_exported_and_has_its_row():
    for name, entry in PUBLIC.items():
        for each in (name, *entry.aliases):
            assert getattr(ji, each) is REGISTRY[each]
    assert all(getattr(ji.calibrate, name) is REGISTRY[name] for name in CALIBRATED)
    rows = {case.init.name for case in CASES}
    inner = {
        arg.name
        for case in CASES
        for arg in case.init.arguments.values()
        if isinstance(arg, ji.Initializer)
    }
    assert set(PUBLIC) <= rows | inner


@pytest.mark.parametrize("name", LIBRARY)
def test_every_scheme_says_what_it_is(name):
    entry = LIBRARY[name]
    assert entry.summary.endswith(".") and entry.signature.startswith(f"{name}(")
    assert bool(entry.references) == (name not in WITHOUT_SOURCE)
    assert bool(entry.cites) == bool(entry.references)
    if name in PUBLIC and name not in {
        *("zeros", "ones", "constant", "forget_bias", "per_gate")
    }:
        assert entry.formula


def test_every_source_is_complete_and_used():
    entries = _catalogue.bibliography()
    used = {key for entry in LIBRARY.values() for key in entry.cites}
    assert used == set(entries)
    where = ("booktitle", "journal", "eprint", "url", "publisher", "institution")
    for key, text in entries.items():
        fields = dict(re.findall(r"^  (\w+) = \{(.+)\},?$", text, re.MULTILINE))
        assert {"author", "title", "year"} <= fields.keys(), key
        assert fields.keys() & set(where), key
        assert text.count("{") == text.count("}") and fields["year"] in text
        first = fields["author"].split(",")[0].split()[0].lower()
        assert key.startswith(first) and fields["year"] in key, key


def test_the_docstrings_of_the_parameters_are_whole():
    for name in LIBRARY:
        builder = _catalogue.builder_of(REGISTRY[name])
        said = builder.doc.partition("Args:")[2].partition("Returns:")[0]
        for parameter in builder.signature.parameters:
            assert parameter == "dtype" or f" {parameter}: " in said, (name, parameter)


def test_the_readme_lists_every_scheme():
    readme = (pathlib.Path(ji.__file__).parents[1] / "README.md").read_text()
    table = readme[readme.index("| scheme |") : readme.index("`jaxinit list`")]
    for name, entry in {**PUBLIC, **CALIBRATED}.items():
        for each in (name, *entry.aliases):
            assert f"`{each}`" in table or f"`{each}(" in table, each


def test_list(capsys):
    assert cli.run(["list"]) == 0
    out = capsys.readouterr().out
    assert "he_normal" in out and "siren" in out
    assert cli.run(["list", "--family", "gates", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {"chrono", "forget_bias"} <= {entry["name"] for entry in entries}
    assert {entry["family"] for entry in entries} == {"gates"}
    assert cli.run(["list", "--family", "gaits"]) == 2
    assert "family='gaits'" in capsys.readouterr().err


def test_show(capsys):
    shape = ["--shape", "3", "3", "64", "128"]
    assert cli.run(["show", "he_normal(gain=2, groups=4)", *shape]) == 0
    out = capsys.readouterr().out
    assert "he_normal(gain=2.0, groups=4)" in out and "in 576, out 288" in out
    assert "std    0.083" in out and "█" in out and "1502.01852" in out
    assert cli.run(["show", "he_norml"]) == 2
    assert "nearest is 'he_normal'" in capsys.readouterr().err
    assert cli.run(["show", "orthogonal", "--shape", "5"]) == 2


def test_cite(capsys):
    assert cli.run(["show", "he_normal", "--cite"]) == 0
    cited = capsys.readouterr().out
    assert cited.startswith("@inproceedings{he2015,")
    assert "eprint = {1502.01852}" in cited and "pages = {1026--1034}" in cited
    assert "author = {He, Kaiming and Zhang, Xiangyu and" in cited
    assert cli.run(["show", "tree.mup", "--cite"]) == 0  # by name alone
    assert capsys.readouterr().out.count("@") == 3
    assert cli.run(["show", "zeros", "--cite"]) == 0
    assert "names no source" in capsys.readouterr().out
