"""One face for every model: Flax, Equinox, Haiku, or a plain pair of functions.

A framework is looked up among the modules that are imported already, and never imported
here: a model cannot be made by one that is not.

| model | params | state | told whether it trains by |
|---|---|---|---|
| Linen | the collection `params` | other collections | arguments such as `train=` |
| NNX | `nnx.Param` | other variables | `train()`, `eval()`, arguments |
| Equinox, any callable pytree | floating arrays | others, `State` | `inference_mode` |
| Haiku, `(init, apply)` | what `init` makes | the same | arguments |
"""

from ._adapt import as_model as as_model
from ._model import Inputs as Inputs
from ._model import Keys as Keys
from ._model import Model as Model
from ._model import Params as Params
from ._model import State as State
from ._model import keys_of as keys_of
from ._model import unpacked as unpacked
from ._model import what_was_raised as what_was_raised

__all__ = [
    "Inputs",
    "Keys",
    "Model",
    "Params",
    "State",
    "as_model",
    "keys_of",
    "unpacked",
    "what_was_raised",
]
