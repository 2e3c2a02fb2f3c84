"""What torch, Keras, Haiku, Equinox and Flax do by default, layer by layer.

`presets.torch.linear(128)` is a dictionary of initializers under the names that Flax's
layers give them, so that `nn.Dense(64, **presets.torch.linear(128))` is initialized
as `torch.nn.Linear(128, 64)` is. Every framework has the same methods with the same
arguments, to be exchanged for one another; a default may use fewer of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from jaxinit import _checks
from jaxinit._initializer import Initializer
from jaxinit.initializers import (
    forget_bias,
    glorot_uniform,
    lecun_normal,
    normal,
    orthogonal,
    per_gate,
    sum_of,
    truncated_normal,
    uniform,
    variance_scaling,
    zeros,
)

Defaults: TypeAlias = dict[str, Initializer]
"""Initializers by the keyword of a Flax layer that takes them."""


class Framework(ABC):
    """The default initialization of a framework's layers, as keywords of Flax's."""

    @abstractmethod
    def _layer(
        self, features: int, kernel_size: int | Sequence[int] = (), groups: int = 1
    ) -> Defaults:
        """Kernel and bias where an output sees so many features in a window."""

    def linear(self, in_features: int) -> Defaults:
        """For `Dense`, `DenseGeneral`, `nnx.Linear`: `kernel_init`, `bias_init`.

        Args:
            in_features: inputs of an output.
        """
        return self._layer(in_features)

    def conv(
        self, in_features: int, kernel_size: int | Sequence[int], groups: int = 1
    ) -> Defaults:
        """For `Conv`: `kernel_init`, `bias_init`.

        Args:
            in_features: channels of the input.
            kernel_size: the window, a size or one per axis; an integer is one axis.
            groups: feature groups.
        """
        return self._layer(in_features, kernel_size, groups)

    def conv_transpose(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        groups: int = 1,
    ) -> Defaults:
        """For `ConvTranspose`, both kernel layouts: `kernel_init`, `bias_init`.

        Args:
            in_features: channels of the input.
            out_features: channels of the output.
            kernel_size: the window, a size or one per axis; an integer is one axis.
            groups: feature groups.
        """
        return self._layer(in_features, kernel_size, groups)

    @abstractmethod
    def embedding(self, features: int) -> Defaults:
        """For `Embed`: `embedding_init`.

        Args:
            features: size of an entry of the vocabulary.
        """

    @abstractmethod
    def lstm(self, in_features: int, hidden_features: int) -> Defaults:
        """For a cell with packed gates i, f, g, o, as `nnx.OptimizedLSTMCell`.

        `kernel_init` (in, 4 hidden), `recurrent_kernel_init` (hidden, 4 hidden) and
        `bias_init` (4 hidden,).

        Args:
            in_features: inputs of the cell.
            hidden_features: units.
        """

    @abstractmethod
    def gru(self, in_features: int, hidden_features: int) -> Defaults:
        """For a cell with three packed gates, as `nnx.GRUCell`.

        `kernel_init` (in, 3 hidden), `recurrent_kernel_init` (hidden, 3 hidden) and
        `bias_init` (3 hidden,).

        Args:
            in_features: inputs of the cell.
            hidden_features: units.
        """

    @abstractmethod
    def attention(self, features: int) -> Defaults:
        """For `MultiHeadDotProductAttention` and `nnx.MultiHeadAttention`.

        `kernel_init` and `bias_init` of query, key and value, `out_kernel_init` and
        `out_bias_init` of the output projection.

        Args:
            features: width of queries, keys, values and output.
        """


class Torch(Framework):
    r"""`torch.nn`: uniform on the reciprocal root of fan-in, biases too.

    Kernel and bias of a linear layer are $U(\pm 1/\sqrt{\text{in}})$, those of a
    convolution with a window of k in g groups $U(\pm 1/\sqrt{k\,\text{in}/g})$.

    Example:
        >>> sorted(torch.linear(128))
        ['bias_init', 'kernel_init']
        >>> torch.embedding(128)
        {'embedding_init': normal(stddev=1.0)}

    References:
        The sources of torch 2.13: `reset_parameters` of each layer.
    """

    def _layer(
        self, features: int, kernel_size: int | Sequence[int] = (), groups: int = 1
    ) -> Defaults:
        init = _uniform(_fan(features, kernel_size, groups))
        return {"kernel_init": init, "bias_init": init}

    def conv_transpose(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        groups: int = 1,
    ) -> Defaults:
        r"""`ConvTranspose1d` to 3d: $U(\pm 1/\sqrt{k\,\text{out}/g})$, of outputs."""
        return self._layer(out_features, kernel_size, groups)

    def embedding(self, features: int) -> Defaults:
        """`Embedding`: N(0, 1)."""
        return {"embedding_init": normal(1.0)}

    def lstm(self, in_features: int, hidden_features: int) -> Defaults:
        r"""`LSTM`: $U(\pm 1/\sqrt{\text{hidden}})$; the bias is the sum of two."""
        init = _uniform(_fan(hidden_features))
        return _cell(init, init, sum_of(init, 2))

    def gru(self, in_features: int, hidden_features: int) -> Defaults:
        r"""`GRU`: $U(\pm 1/\sqrt{\text{hidden}})$; the bias is the sum of two.

        So it is for the reset and update gates. Within the candidate torch's second
        bias is multiplied by the reset gate; `nnx.GRUCell` has no such parameter.
        """
        return self.lstm(in_features, hidden_features)

    def attention(self, features: int) -> Defaults:
        r"""`MultiheadAttention`: Xavier on the packed kernel (3E, E), biases zero.

        $U(\pm\sqrt{6 / 4E})$ for query, key and value, $U(\pm 1/\sqrt{E})$ for the
        output. Where keys or values have another width than queries, torch keeps them
        apart, and `glorot_uniform()` is the distribution of each.
        """
        fan = _fan(features)
        packed = variance_scaling(0.5, "fan_in", "uniform", fan=fan)
        return _attention(packed, _uniform(fan))


class Keras(Framework):
    """Keras 3: Glorot uniform, biases zero.

    A convolution's fan-out is that of all groups; a transposed one has the same two
    fans.

    References:
        The sources of keras 3.15: `keras.layers`.
    """

    def _layer(
        self, features: int, kernel_size: int | Sequence[int] = (), groups: int = 1
    ) -> Defaults:
        return {"kernel_init": glorot_uniform(), "bias_init": zeros}

    def embedding(self, features: int) -> Defaults:
        """`Embedding`: U(-0.05, 0.05)."""
        return {"embedding_init": uniform(minval=-0.05, maxval=0.05)}

    def lstm(self, in_features: int, hidden_features: int) -> Defaults:
        """`LSTM`: Glorot and orthogonal over all four gates jointly, forget bias 1."""
        return _cell(glorot_uniform(), orthogonal(), forget_bias())

    def gru(self, in_features: int, hidden_features: int) -> Defaults:
        """`GRU`: Glorot and orthogonal over all three gates jointly, zeros."""
        return _cell(glorot_uniform(), orthogonal(), zeros)

    def attention(self, features: int) -> Defaults:
        """`MultiHeadAttention`: Glorot uniform of each projection, zeros."""
        return _attention(glorot_uniform(), glorot_uniform())


class Haiku(Framework):
    r"""Haiku: normal with $\sigma = 1/\sqrt{\text{in}}$, truncated at two of them.

    The truncation is not corrected: the standard deviation is 0.88 $\sigma$.
    A convolution, transposed or not, has $k\,\text{in}/g$ inputs. Biases are zero.

    References:
        The sources of dm-haiku 0.0.17.
    """

    def _layer(
        self, features: int, kernel_size: int | Sequence[int] = (), groups: int = 1
    ) -> Defaults:
        init = truncated_normal(_fan(features, kernel_size, groups) ** -0.5)
        return {"kernel_init": init, "bias_init": zeros}

    def embedding(self, features: int) -> Defaults:
        """`Embed`: N(0, 1) truncated at two standard deviations."""
        return {"embedding_init": truncated_normal(1.0)}

    def lstm(self, in_features: int, hidden_features: int) -> Defaults:
        """`LSTM`: one linear layer on input and state together.

        Its forward pass adds 1 to the forget gate; here the bias does.
        """
        fan = _fan(_size("in_features", in_features) + hidden_features)
        init = truncated_normal(fan**-0.5)
        return _cell(init, init, forget_bias())

    def gru(self, in_features: int, hidden_features: int) -> Defaults:
        """`GRU`: LeCun normal over all three gates, zeros."""
        return _cell(lecun_normal(), lecun_normal(), zeros)

    def attention(self, features: int) -> Defaults:
        """`MultiHeadAttention`: `VarianceScaling(1)`, zeros.

        Haiku has no default: `w_init` is mandatory. This is what `w_init_scale=1`, its
        former form, gives.
        """
        return _attention(lecun_normal(), lecun_normal())


class Equinox(Torch):
    """`equinox.nn`: as torch, save transposed convolutions, cells and attention.

    References:
        The sources of equinox 0.13.8.
    """

    def conv_transpose(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        groups: int = 1,
    ) -> Defaults:
        r"""`ConvTranspose1d` to 3d: $U(\pm 1/\sqrt{k\,\text{in}/g})$, both."""
        return self.conv(in_features, kernel_size, groups)

    def lstm(self, in_features: int, hidden_features: int) -> Defaults:
        r"""`LSTMCell`, `GRUCell`: $U(\pm 1/\sqrt{\text{hidden}})$ for all."""
        init = _uniform(_fan(hidden_features))
        return _cell(init, init, init)

    def attention(self, features: int) -> Defaults:
        r"""`MultiheadAttention`: four linear layers, $U(\pm 1/\sqrt{E})$.

        By default they have no biases; those that are asked for are drawn as kernels.
        """
        init = _uniform(_fan(features))
        return _attention(init, init, bias=init)


class Flax(Framework):
    """`flax.linen`: LeCun normal, biases zero.

    Of a `ConvTranspose` with `transpose_kernel=True` Flax, and so this, takes the
    outputs for inputs.

    References:
        The sources of flax 0.12.8. NNX differs in its packed cells, which draw the
        recurrent kernel of all gates as one orthogonal matrix.
    """

    def _layer(
        self, features: int, kernel_size: int | Sequence[int] = (), groups: int = 1
    ) -> Defaults:
        return {"kernel_init": lecun_normal(), "bias_init": zeros}

    def embedding(self, features: int) -> Defaults:
        r"""`Embed`: $N(0, 1/\text{features})$."""
        init = variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        return {"embedding_init": init}

    def lstm(self, in_features: int, hidden_features: int) -> Defaults:
        """`LSTMCell`: LeCun normal, orthogonal gate by gate, zeros."""
        return _cell(lecun_normal(), per_gate(orthogonal(), 4), zeros)

    def gru(self, in_features: int, hidden_features: int) -> Defaults:
        """`GRUCell`: LeCun normal, orthogonal gate by gate, zeros."""
        return _cell(lecun_normal(), per_gate(orthogonal(), 3), zeros)

    def attention(self, features: int) -> Defaults:
        """`MultiHeadDotProductAttention`: LeCun normal, zeros."""
        return _attention(lecun_normal(), lecun_normal())


torch = Torch()
keras = Keras()
haiku = Haiku()
equinox = Equinox()
flax = Flax()


def _size(name: str, value: int) -> int:
    _checks.integer("presets", **{name: value})
    return value


def _fan(
    features: int, kernel_size: int | Sequence[int] = (), groups: int = 1
) -> float:
    """Connections of an output: features of a group times the window."""
    window = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
    for size in window:
        _size("kernel_size", size)
    if _size("features", features) % _size("groups", groups):
        raise ValueError(
            f"presets: groups={groups} does not divide {features} features."
        )
    return float(features // groups * math.prod(window))


def _uniform(fan: float) -> Initializer:
    return variance_scaling(1 / 3, "fan_in", "uniform", fan=fan)


def _cell(kernel: Initializer, recurrent: Initializer, bias: Initializer) -> Defaults:
    return {
        "kernel_init": kernel,
        "recurrent_kernel_init": recurrent,
        "bias_init": bias,
    }


def _attention(
    kernel: Initializer, out_kernel: Initializer, bias: Initializer = zeros
) -> Defaults:
    return {
        "kernel_init": kernel,
        "bias_init": bias,
        "out_kernel_init": out_kernel,
        "out_bias_init": bias,
    }
