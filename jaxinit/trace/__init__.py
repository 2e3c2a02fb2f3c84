"""The layers of any JAX function, found by how its jaxpr uses each parameter.

A shape does not say which axes of a kernel are summed over; the computation does.
`layers` walks the jaxpr of `apply(params, *inputs)`, follows every leaf through
reshapes, transposes and slices to the product it enters, and reads the fans there.
"""

# Names listed here are public; modules with an underscore are the package's own.
from ._layer import KERNELS as KERNELS
from ._layer import Layer as Layer
from ._layer import Use as Use
from ._layer import kernels as kernels
from ._points import Point as Point
from ._points import points as points
from ._products import Loop as Loop
from ._products import Part as Part
from ._products import Product as Product
from ._products import Program as Program
from ._products import arrays_of as arrays_of
from ._products import program as program
from ._replay import outputs as outputs
from ._replay import replay as replay
from ._trace import layers as layers
from ._view import Site as Site

__all__ = [
    "KERNELS",
    "Layer",
    "Loop",
    "Part",
    "Point",
    "Product",
    "Program",
    "Site",
    "Use",
    "arrays_of",
    "kernels",
    "layers",
    "outputs",
    "points",
    "program",
    "replay",
]
