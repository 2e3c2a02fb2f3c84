"""The schemes by name, with what their docstrings say of them."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxinit._initializer import REGISTRY, Initializer


class Entry(NamedTuple):
    """What the docstring of a scheme says.

    Attributes:
        name: the scheme's name.
        family: the file that it stands in.
        aliases: its other names.
        signature: its parameters, as one would write a call.
        summary: one line.
        law: the paragraphs up to the parameters, with their formulas.
        references: where it is from, one text a source.
    """

    name: str
    family: str
    aliases: tuple[str, ...]
    signature: str
    summary: str
    law: str
    references: tuple[str, ...]

    @property
    def formula(self) -> str:
        """The law's first equation or distribution, in LaTeX, or its first formula."""
        text = " ".join(f"{self.summary} {self.law}".split())
        found = re.findall(r"\$(.+?)\$", text)
        laws = [formula for formula in found if re.search(r"=|\\sim|U\(", formula)]
        return (laws or found or [""])[0]

    def bibtex(self) -> str:
        """A BibTeX entry for each source that names an author and a year."""
        entries = (_bibtex(reference) for reference in self.references)
        return "\n".join(entry for entry in entries if entry)


def catalogue() -> dict[str, Entry]:
    """Every scheme by name, aliases under the name that they stand for."""
    names: dict[int, list[str]] = {}
    for name, builder in REGISTRY.items():
        names.setdefault(id(builder), []).append(name)
    entries = {}
    for first, *aliases in names.values():
        builder = REGISTRY[first]
        if isinstance(builder, Initializer):  # zeros and ones
            build, call = builder._scheme.build, "()"
        else:
            build, call = inspect.unwrap(builder), _call(inspect.signature(builder))
        entries[first] = _entry(first, tuple(aliases), build, first + call)
    return entries


def _entry(
    name: str, aliases: tuple[str, ...], build: Callable[..., Any], call: str
) -> Entry:
    summary, _, rest = inspect.cleandoc(build.__doc__ or "").partition("\n")
    law, *sections = re.split(r"^(\w[\w ]*):$", rest, flags=re.MULTILINE)
    named = dict(zip(sections[::2], sections[1::2], strict=True))
    references = " ".join(named.get("References", "").split())
    return Entry(
        name,
        build.__module__.rpartition(".")[2],
        aliases,
        call,
        summary.strip(),
        textwrap.dedent(law).strip(),
        tuple(filter(None, (text.strip(" .") for text in references.split(";")))),
    )


def _call(signature: inspect.Signature) -> str:
    shown = (
        name if p.default is p.empty else f"{name}={p.default!r}"
        for name, p in signature.parameters.items()
    )
    return f"({', '.join(shown)})"


def _bibtex(reference: str) -> str:
    """An entry from `Author, Author and Author 2015, title or arXiv:ID, equation`."""
    found = re.match(r"(.+?) ((?:19|20)\d\d),? *(.*)", reference)
    if not found:
        return ""
    authors, year, rest = found.groups()
    authors = authors.replace(" et al.", " and others")
    authors = re.sub(r", | and ", " and ", authors)
    first = re.sub(r"\W", "", authors.split(" and ")[0]).lower()
    lines = [f"author = {{{authors}}}", f"year = {{{year}}}"]
    title = re.split(
        r"(?:, )?(?=arXiv|section|equation|theorem|algorithm|table|for )", rest
    )
    if title[0]:
        lines.append(f"title = {{{title[0]}}}")
    if identifier := re.search(r"arXiv:([\w.-]+/?[\w.]*\d)", rest):
        lines += [f"eprint = {{{identifier[1]}}}", "archiveprefix = {arXiv}"]
    return f"@misc{{{first}{year},\n  " + ",\n  ".join(lines) + "\n}"
