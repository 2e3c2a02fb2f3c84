"""Compare how fast initialization schemes converge; needs the extra `compare`.

Data flow down the rooms: `task`, `train`, `store`, `stats`, `report`, `sweep`, then
`cli`; each imports only from those above it, and all from `machine` and `cluster`. A
name that begins with an underscore is for its own module alone; what stands in
`__all__` is for users.
"""

from jaxinit import _lazy
from jaxinit.compare import extra  # noqa: F401, says what is missing

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
