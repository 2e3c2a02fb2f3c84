"""The layers of any JAX function, found by how its jaxpr uses each parameter.

A shape does not say which axes of a kernel are summed over; the computation does.
`layers` walks the jaxpr of `apply(params, *inputs)`, follows every leaf through
reshapes, transposes and slices to the product it enters, and reads the fans there.
"""

from ._layer import KERNELS as KERNELS
from ._layer import Layer as Layer
from ._layer import Use as Use
from ._layer import kernels as kernels
from ._outputs import outputs as outputs
from ._trace import layers as layers

__all__ = ["KERNELS", "Layer", "Use", "kernels", "layers", "outputs"]
