"""Schemes for whole models; `jaxinit.init`, `reinit` and `describe` take them."""

# Names listed here are public; modules with an underscore are the package's own.
from jaxinit.tree._coordinates import CoordinateCheck as CoordinateCheck
from jaxinit.tree._coordinates import coordinate_check as coordinate_check
from jaxinit.tree._describe import Description as Description
from jaxinit.tree._rules import Rules as Rules
from jaxinit.tree._rules import rules as rules
from jaxinit.tree._scheme import Scheme as Scheme
from jaxinit.tree._scheme import TreeScheme as TreeScheme
from jaxinit.tree._scheme import tree_scheme as tree_scheme
from jaxinit.tree._structure import Branch as Branch
from jaxinit.tree._structure import Structure as Structure
from jaxinit.tree.schemes.mup import Multipliers as Multipliers
from jaxinit.tree.schemes.mup import MuP as MuP
from jaxinit.tree.schemes.mup import mup as mup
from jaxinit.tree.schemes.plain import delta_conv as delta_conv
from jaxinit.tree.schemes.plain import edge_of_chaos as edge_of_chaos
from jaxinit.tree.schemes.plain import looks_linear as looks_linear
from jaxinit.tree.schemes.plain import siren as siren
from jaxinit.tree.schemes.residual import fixup as fixup
from jaxinit.tree.schemes.residual import hadamard_identity as hadamard_identity
from jaxinit.tree.schemes.residual import idinit as idinit
from jaxinit.tree.schemes.residual import layerscale as layerscale
from jaxinit.tree.schemes.residual import rezero as rezero
from jaxinit.tree.schemes.residual import skipinit as skipinit
from jaxinit.tree.schemes.residual import spectral as spectral
from jaxinit.tree.schemes.transformers import DeepNorm as DeepNorm
from jaxinit.tree.schemes.transformers import deepnorm as deepnorm
from jaxinit.tree.schemes.transformers import deepnorm_constants as deepnorm_constants
from jaxinit.tree.schemes.transformers import gpt2 as gpt2
from jaxinit.tree.schemes.transformers import gpt_neox as gpt_neox
from jaxinit.tree.schemes.transformers import mimetic as mimetic
from jaxinit.tree.schemes.transformers import mitchell as mitchell
from jaxinit.tree.schemes.transformers import t_fixup as t_fixup
