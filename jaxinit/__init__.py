"""Weight initialization for JAX: `init(key, shape, dtype)`, as values."""

from jaxinit import meanfield as meanfield
from jaxinit._fans import compute_fans as compute_fans
from jaxinit._initializer import Initializer as Initializer
from jaxinit._initializer import initializer as initializer
from jaxinit._parse import parse as parse
from jaxinit.initializers import constant as constant
from jaxinit.initializers import delta_orthogonal as delta_orthogonal
from jaxinit.initializers import glorot_normal as glorot_normal
from jaxinit.initializers import glorot_uniform as glorot_uniform
from jaxinit.initializers import he_normal as he_normal
from jaxinit.initializers import he_uniform as he_uniform
from jaxinit.initializers import kaiming_normal as kaiming_normal
from jaxinit.initializers import kaiming_uniform as kaiming_uniform
from jaxinit.initializers import lecun_normal as lecun_normal
from jaxinit.initializers import lecun_uniform as lecun_uniform
from jaxinit.initializers import normal as normal
from jaxinit.initializers import ones as ones
from jaxinit.initializers import orthogonal as orthogonal
from jaxinit.initializers import truncated_normal as truncated_normal
from jaxinit.initializers import uniform as uniform
from jaxinit.initializers import variance_scaling as variance_scaling
from jaxinit.initializers import xavier_normal as xavier_normal
from jaxinit.initializers import xavier_uniform as xavier_uniform
from jaxinit.initializers import zeros as zeros
from jaxinit.meanfield import gain as gain
