"""Parameters from parameters: scales set by what the model does with a batch.

Each is a scheme, by value or text, of `jaxinit.init`, `jaxinit.reinit` and
`jaxinit.compare`, and a function `(key, params, apply, inputs) -> params`.
"""

# Names listed here are public; modules with an underscore are the package's own.
from jaxinit.calibrate._scheme import CalibratedScheme as CalibratedScheme
from jaxinit.calibrate._scheme import calibrated as calibrated
from jaxinit.calibrate.learned import gradinit as gradinit
from jaxinit.calibrate.learned import metainit as metainit
from jaxinit.calibrate.unit_variance import autoinit as autoinit
from jaxinit.calibrate.unit_variance import lsuv as lsuv
from jaxinit.calibrate.weight_norm import weight_norm as weight_norm
