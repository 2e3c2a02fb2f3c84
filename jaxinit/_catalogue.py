"""The schemes by name, with what their docstrings and `references.bib` say of them."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from importlib import resources
from typing import NamedTuple

from jaxinit._value import LATER, REGISTRY, Builder, Value


class Entry(NamedTuple):
    """What is known of a scheme.

    Attributes:
        name: the scheme's name.
        family: the module that it stands in.
        aliases: its other names.
        signature: its parameters, as one would write a call.
        summary: one line.
        description: the paragraphs up to the parameters, with their formulas.
        references: where it is from, one text per source.
        cites: keys of the sources in `references.bib`.
    """

    name: str
    family: str
    aliases: tuple[str, ...]
    signature: str
    summary: str
    description: str
    references: tuple[str, ...]
    cites: tuple[str, ...]

    @property
    def formula(self) -> str:
        """The first equation or distribution, in LaTeX, or the first formula."""
        text = " ".join(f"{self.summary} {self.description}".split())
        found = re.findall(r"\$(.+?)\$", text)
        equations = [each for each in found if re.search(r"=|\\sim|U\(", each)]
        return (equations or found or [""])[0]

    def bibtex(self) -> str:
        """The BibTeX entry of each source."""
        return "\n".join(bibliography()[key] for key in self.cites)


def catalogue() -> dict[str, Entry]:
    """Every scheme by name, aliases under the name that they stand for."""
    for enter in LATER.values():
        enter()
    names: dict[Builder, list[str]] = {}
    for name, public in REGISTRY.items():
        names.setdefault(builder_of(public), []).append(name)
    return {first: _entry(b, tuple(others)) for b, (first, *others) in names.items()}


def builder_of(public: object) -> Builder:
    """What is known of a scheme, by what users call: a function, `zeros` or `ones`."""
    if isinstance(public, Value):
        return public._builder
    return public.__builder__  # type: ignore[attr-defined]


@functools.cache
def bibliography() -> dict[str, str]:
    """The entries of `references.bib` by key; each ends with a line `}`."""
    text = resources.files("jaxinit").joinpath("references.bib").read_text("utf-8")
    entries = [f"{entry.strip()}\n}}\n" for entry in text.split("\n}\n")[:-1]]
    return {entry[entry.index("{") + 1 : entry.index(",")]: entry for entry in entries}


def _entry(builder: Builder, aliases: tuple[str, ...]) -> Entry:
    summary, _, rest = inspect.cleandoc(builder.doc).partition("\n")
    description, *sections = re.split(r"^(\w[\w ]*):$", rest, flags=re.MULTILINE)
    named = dict(zip(sections[::2], sections[1::2], strict=True))
    references = " ".join(named.get("References", "").split())
    itself = isinstance(REGISTRY[builder.name], Value)  # zeros and ones
    return Entry(
        builder.name,
        builder.build.__module__.rpartition(".")[2],
        aliases,
        f"{builder.name}()" if itself else f"{builder.name}{_call(builder.signature)}",
        summary.strip(),
        textwrap.dedent(description).strip(),
        tuple(filter(None, (text.strip(" .") for text in references.split(";")))),
        builder.cites,
    )


def _call(signature: inspect.Signature) -> str:
    shown = (
        name if p.default is p.empty else f"{name}={p.default!r}"
        for name, p in signature.parameters.items()
    )
    return f"({', '.join(shown)})"
