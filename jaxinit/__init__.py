"""Weight initialization for JAX: `init(key, shape, dtype)`, as values."""

from jaxinit import _lazy

__version__ = "0.1.0"

# Each name of `__init__.pyi` is imported when it is asked for.
__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
