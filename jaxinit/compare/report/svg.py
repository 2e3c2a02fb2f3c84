"""A matplotlib figure as SVG to stand inside a page: its colours, fonts and marks."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import matplotlib
from matplotlib.figure import Figure

from jaxinit import _checks
from jaxinit.compare.report.style import HOVER, laid_out


def inline(figure: Figure, prefix: str, label: str) -> str:
    """The figure as an `<svg>` element.

    Black becomes the page's text colour, and text stays text, so that the figure
    follows a dark theme. The invisible marks of `figures` become circles with their
    text as title. Nothing outside of the element is needed.

    Args:
        figure: what is drawn.
        prefix: of all ids, so that figures on one page keep theirs apart.
        label: what screen readers say.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        laid_out(figure).savefig(
            file, format="svg", transparent=True, metadata={"Date": None}
        )
    root = ElementTree.fromstring(file.getvalue())
    for each in list(root):
        if _local(each.tag) in ("metadata", "defs") and each.find("*") is not None:
            if _local(each.tag) == "metadata" or _local(each[0].tag) == "style":
                root.remove(each)
    parents = {child: parent for parent in root.iter() for child in parent}
    for each in list(root.iter()):
        if each.get("id", "").startswith(HOVER):
            _mark(each, parents[each])
    for each in root.iter():
        each.tag = _local(each.tag)
        each.attrib = {
            _local(name): _value(_local(name), value, prefix)
            for name, value in each.attrib.items()
        }
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": _checks.visible(label)}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _mark(group: ElementTree.Element, parent: ElementTree.Element) -> None:
    """Put a circle with a title in the place of a mark's group."""
    text = group.get("id", "").removeprefix(HOVER)
    use = next((each for each in group.iter() if _local(each.tag) == "use"), None)
    place = list(parent).index(group)
    parent.remove(group)
    if use is None:  # it lies outside of the axes
        return
    where = {"cx": use.get("x", "0"), "cy": use.get("y", "0"), "r": "6"}
    circle = ElementTree.Element(
        "circle", {"class": "mark", "data-hover": text} | where
    )
    ElementTree.SubElement(circle, "title").text = text
    parent.insert(place, circle)


def _value(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return f"#{prefix}-{value[1:]}" if value.startswith("#") else value
    if name == "clip-path":
        return value.replace("url(#", f"url(#{prefix}-")
    if name == "style":
        return value.replace("#000000", "currentColor")
    return value


def _local(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition("}")[2]
