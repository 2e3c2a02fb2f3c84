r"""Mean-field theory of wide random networks, from one layer's map to deep kernels.

In the limit of infinite width, the pre-activations of a fully connected layer with
weights of variance $\sigma_w^2 / \text{fan\_in}$ and biases of variance $\sigma_b^2$
are Gaussian, and their variance $q$ and correlation $c$ over two inputs follow

$q' = \sigma_w^2\, \mathbb{E}[\phi(\sqrt q\, z)^2] + \sigma_b^2$ and
$q' c' = \sigma_w^2\, \mathbb{E}[\phi(\sqrt q\, z_1)\,
\phi(\sqrt q\, (c z_1 + \sqrt{1 - c^2}\, z_2))] + \sigma_b^2$

with independent standard normal $z, z_1, z_2$. Every expectation is a quadrature in
float64 on the host; kinks and jumps of the activation are found and integrated between.
"""

# Names listed here are public; modules with an underscore are the package's own.
from jaxinit._quadrature import ACTIVATIONS as ACTIVATIONS
from jaxinit._quadrature import Activation as Activation
from jaxinit.meanfield._critical import FixedPoint as FixedPoint
from jaxinit.meanfield._critical import critical_gain as critical_gain
from jaxinit.meanfield._critical import edge_of_chaos as edge_of_chaos
from jaxinit.meanfield._critical import fixed_point as fixed_point
from jaxinit.meanfield._critical import held_point as held_point
from jaxinit.meanfield._deep import Kernels as Kernels
from jaxinit.meanfield._deep import Spectrum as Spectrum
from jaxinit.meanfield._deep import jacobian_spectrum as jacobian_spectrum
from jaxinit.meanfield._deep import kernels as kernels
from jaxinit.meanfield._deep import trainable_depth as trainable_depth
from jaxinit.meanfield._deep import width_fluctuation as width_fluctuation
from jaxinit.meanfield._maps import correlation_map as correlation_map
from jaxinit.meanfield._maps import gain as gain
from jaxinit.meanfield._maps import second_moment as second_moment
from jaxinit.meanfield._maps import slope as slope
from jaxinit.meanfield._maps import variance_map as variance_map
from jaxinit.meanfield._phase import PhaseDiagram as PhaseDiagram
from jaxinit.meanfield._phase import phase_diagram as phase_diagram
from jaxinit.meanfield._residual import ResidualSignal as ResidualSignal
from jaxinit.meanfield._residual import residual_signal as residual_signal
