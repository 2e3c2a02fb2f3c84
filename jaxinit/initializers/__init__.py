"""The initializers, one family a module; `jaxinit` lists them all."""

# Names listed here are public, and at home in `jaxinit`; each module is a family.
from jaxinit.initializers.basic import constant as constant
from jaxinit.initializers.basic import normal as normal
from jaxinit.initializers.basic import ones as ones
from jaxinit.initializers.basic import truncated_normal as truncated_normal
from jaxinit.initializers.basic import uniform as uniform
from jaxinit.initializers.basic import zeros as zeros
from jaxinit.initializers.combinators import masked as masked
from jaxinit.initializers.combinators import per_gate as per_gate
from jaxinit.initializers.combinators import scaled as scaled
from jaxinit.initializers.combinators import stacked as stacked
from jaxinit.initializers.combinators import sum_of as sum_of
from jaxinit.initializers.convolution import (
    convolution_orthogonal as convolution_orthogonal,
)
from jaxinit.initializers.convolution import delta_orthogonal as delta_orthogonal
from jaxinit.initializers.depth import edge_of_chaos as edge_of_chaos
from jaxinit.initializers.depth import hyperfan as hyperfan
from jaxinit.initializers.depth import random_walk as random_walk
from jaxinit.initializers.depth import siren as siren
from jaxinit.initializers.depth import siren_bias as siren_bias
from jaxinit.initializers.depth import small_init as small_init
from jaxinit.initializers.depth import spectral as spectral
from jaxinit.initializers.depth import wang_init as wang_init
from jaxinit.initializers.filters import bilinear as bilinear
from jaxinit.initializers.filters import icnr as icnr
from jaxinit.initializers.filters import stft as stft
from jaxinit.initializers.gates import chrono as chrono
from jaxinit.initializers.gates import forget_bias as forget_bias
from jaxinit.initializers.gates import uniform_gate as uniform_gate
from jaxinit.initializers.named import glorot_normal as glorot_normal
from jaxinit.initializers.named import glorot_uniform as glorot_uniform
from jaxinit.initializers.named import he_normal as he_normal
from jaxinit.initializers.named import he_uniform as he_uniform
from jaxinit.initializers.named import kaiming_normal as kaiming_normal
from jaxinit.initializers.named import kaiming_uniform as kaiming_uniform
from jaxinit.initializers.named import lecun_normal as lecun_normal
from jaxinit.initializers.named import lecun_uniform as lecun_uniform
from jaxinit.initializers.named import xavier_normal as xavier_normal
from jaxinit.initializers.named import xavier_uniform as xavier_uniform
from jaxinit.initializers.orthogonal import orthogonal as orthogonal
from jaxinit.initializers.orthogonal import scaled_orthogonal as scaled_orthogonal
from jaxinit.initializers.state_space import hippo_legs as hippo_legs
from jaxinit.initializers.state_space import hippo_legs_input as hippo_legs_input
from jaxinit.initializers.state_space import log_step as log_step
from jaxinit.initializers.state_space import lru_gamma_log as lru_gamma_log
from jaxinit.initializers.state_space import lru_nu_log as lru_nu_log
from jaxinit.initializers.state_space import lru_theta_log as lru_theta_log
from jaxinit.initializers.state_space import s4d_lin as s4d_lin
from jaxinit.initializers.structured import dirac as dirac
from jaxinit.initializers.structured import hadamard_identity as hadamard_identity
from jaxinit.initializers.structured import identity as identity
from jaxinit.initializers.structured import idinit as idinit
from jaxinit.initializers.structured import irnn as irnn
from jaxinit.initializers.structured import looks_linear as looks_linear
from jaxinit.initializers.structured import sparse as sparse
from jaxinit.initializers.variance import variance_scaling as variance_scaling
