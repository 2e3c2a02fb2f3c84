"""Weight initialization for JAX: `init(key, shape, dtype)`, as values."""

# Names listed here are public; modules with an underscore are the package's own.
from functools import partial as _partial
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from jaxinit import meanfield as meanfield
from jaxinit import presets as presets
from jaxinit._fans import compute_fans as compute_fans
from jaxinit._fans import einsum_axes as einsum_axes
from jaxinit._initializer import Initializer as Initializer
from jaxinit._initializer import Traits as Traits
from jaxinit._initializer import initializer as initializer
from jaxinit._layout import Layout as Layout
from jaxinit._parse import parse as parse
from jaxinit._value import LATER as _LATER_SCHEMES
from jaxinit.initializers import bilinear as bilinear
from jaxinit.initializers import chrono as chrono
from jaxinit.initializers import constant as constant
from jaxinit.initializers import convolution_orthogonal as convolution_orthogonal
from jaxinit.initializers import delta_orthogonal as delta_orthogonal
from jaxinit.initializers import dirac as dirac
from jaxinit.initializers import edge_of_chaos as edge_of_chaos
from jaxinit.initializers import forget_bias as forget_bias
from jaxinit.initializers import glorot_normal as glorot_normal
from jaxinit.initializers import glorot_uniform as glorot_uniform
from jaxinit.initializers import hadamard_identity as hadamard_identity
from jaxinit.initializers import he_normal as he_normal
from jaxinit.initializers import he_uniform as he_uniform
from jaxinit.initializers import hippo_legs as hippo_legs
from jaxinit.initializers import hippo_legs_input as hippo_legs_input
from jaxinit.initializers import hyperfan as hyperfan
from jaxinit.initializers import icnr as icnr
from jaxinit.initializers import identity as identity
from jaxinit.initializers import idinit as idinit
from jaxinit.initializers import irnn as irnn
from jaxinit.initializers import kaiming_normal as kaiming_normal
from jaxinit.initializers import kaiming_uniform as kaiming_uniform
from jaxinit.initializers import lecun_normal as lecun_normal
from jaxinit.initializers import lecun_uniform as lecun_uniform
from jaxinit.initializers import log_step as log_step
from jaxinit.initializers import looks_linear as looks_linear
from jaxinit.initializers import lru_gamma_log as lru_gamma_log
from jaxinit.initializers import lru_nu_log as lru_nu_log
from jaxinit.initializers import lru_theta_log as lru_theta_log
from jaxinit.initializers import masked as masked
from jaxinit.initializers import normal as normal
from jaxinit.initializers import ones as ones
from jaxinit.initializers import orthogonal as orthogonal
from jaxinit.initializers import per_gate as per_gate
from jaxinit.initializers import random_walk as random_walk
from jaxinit.initializers import s4d_lin as s4d_lin
from jaxinit.initializers import scaled as scaled
from jaxinit.initializers import scaled_orthogonal as scaled_orthogonal
from jaxinit.initializers import siren as siren
from jaxinit.initializers import siren_bias as siren_bias
from jaxinit.initializers import small_init as small_init
from jaxinit.initializers import sparse as sparse
from jaxinit.initializers import spectral as spectral
from jaxinit.initializers import stacked as stacked
from jaxinit.initializers import stft as stft
from jaxinit.initializers import sum_of as sum_of
from jaxinit.initializers import truncated_normal as truncated_normal
from jaxinit.initializers import uniform as uniform
from jaxinit.initializers import uniform_gate as uniform_gate
from jaxinit.initializers import variance_scaling as variance_scaling
from jaxinit.initializers import wang_init as wang_init
from jaxinit.initializers import xavier_normal as xavier_normal
from jaxinit.initializers import xavier_uniform as xavier_uniform
from jaxinit.initializers import zeros as zeros
from jaxinit.meanfield import gain as gain

if _TYPE_CHECKING:
    from jaxinit import calibrate as calibrate
    from jaxinit import compare as compare
    from jaxinit import diagnosis as diagnosis
    from jaxinit import trace as trace
    from jaxinit import tree as tree
    from jaxinit.diagnosis._audit import audit as audit
    from jaxinit.diagnosis._diagnose import diagnose as diagnose
    from jaxinit.tree._describe import describe as describe
    from jaxinit.tree._init import init as init
    from jaxinit.tree._reinit import reinit as reinit

__version__ = "0.1.0"

# All but `compare`, which needs what `pip install 'jaxinit[compare]'` brings.
__all__ = [
    "Initializer",
    "Layout",
    "Traits",
    "__version__",
    "audit",
    "bilinear",
    "calibrate",
    "chrono",
    "compute_fans",
    "constant",
    "convolution_orthogonal",
    "delta_orthogonal",
    "describe",
    "diagnose",
    "diagnosis",
    "dirac",
    "edge_of_chaos",
    "einsum_axes",
    "forget_bias",
    "gain",
    "glorot_normal",
    "glorot_uniform",
    "hadamard_identity",
    "he_normal",
    "he_uniform",
    "hippo_legs",
    "hippo_legs_input",
    "hyperfan",
    "icnr",
    "identity",
    "idinit",
    "init",
    "initializer",
    "irnn",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "log_step",
    "looks_linear",
    "lru_gamma_log",
    "lru_nu_log",
    "lru_theta_log",
    "masked",
    "meanfield",
    "normal",
    "ones",
    "orthogonal",
    "parse",
    "per_gate",
    "presets",
    "random_walk",
    "reinit",
    "s4d_lin",
    "scaled",
    "scaled_orthogonal",
    "siren",
    "siren_bias",
    "small_init",
    "sparse",
    "spectral",
    "stacked",
    "stft",
    "sum_of",
    "trace",
    "tree",
    "truncated_normal",
    "uniform",
    "uniform_gate",
    "variance_scaling",
    "wang_init",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

# What a kernel alone does not need is imported when it is asked for.
_LATER = {
    "calibrate": "jaxinit.calibrate",
    "compare": "jaxinit.compare",
    "diagnosis": "jaxinit.diagnosis",
    "trace": "jaxinit.trace",
    "tree": "jaxinit.tree",
    "audit": "jaxinit.diagnosis._audit",
    "describe": "jaxinit.tree._describe",
    "diagnose": "jaxinit.diagnosis._diagnose",
    "init": "jaxinit.tree._init",
    "reinit": "jaxinit.tree._reinit",
}

# So are schemes that are named by text alone.
_CALIBRATED = ("autoinit", "lsuv")
_ROOMS = {"tree": "jaxinit.tree", **dict.fromkeys(_CALIBRATED, "jaxinit.calibrate")}
_LATER_SCHEMES.update(
    {word: _partial(_import_module, room) for word, room in _ROOMS.items()}
)


def __getattr__(name: str) -> _Any:
    if name not in _LATER:
        raise AttributeError(f"module 'jaxinit' has no attribute {name!r}")
    room = _import_module(_LATER[name])
    return room if _LATER[name] == f"jaxinit.{name}" else getattr(room, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
