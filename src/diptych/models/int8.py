"""Dynamic int8: weights quantised once a row, inputs at each call; the products run on the
processor's int8 units.

On x86 with oneDNN, which torch brings. On an AMD EPYC with AVX-512 VNNI one product of 1600 x 768
by 768 x 3072 took 75 ms in float32, 19 in bfloat16, 9 so, quantisation of the input included (CPU
time, one thread).

Dimensions: … samples and tokens, D inputs, K outputs.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.towers.nn.transformer import Attention, Block, FeedForward

ENGINE = "onednn"


def available() -> bool:
    """Whether this build of torch has the int8 products."""
    return ENGINE in torch.backends.quantized.supported_engines and hasattr(
        torch.ops.quantized, "linear_dynamic"
    )


class Int8Linear(nn.Module):
    """x W^T + b with W in int8, one scale an output, and x in 8 bits, one scale and zero a call;
    floats in and out.

    It holds the weights of several layers where these read the same input. Since the scale of x is
    that of the batch, results depend in their last digits on what else is in it.
    """

    def __init__(self, layers: Sequence[nn.Linear]):
        super().__init__()
        with torch.no_grad():
            weight = torch.cat([layer.weight.float() for layer in layers])
            bias = torch.cat(
                [
                    torch.zeros(layer.out_features) if layer.bias is None else layer.bias.float()
                    for layer in layers
                ]
            )
            self.packed = _packed(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) -> (…, K). Raises InputError where a gradient is wanted: int8 does not train."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise InputError(
                "a model in int8 has no gradients; load it with precision='float32' to train it"
            )
        return torch.ops.quantized.linear_dynamic(x, self.packed, saturates())


@cache
def saturates() -> bool:
    """Whether the products overflow: processors without VNNI add two of them in 16 bits, where
    those of 8-bit inputs with 8-bit weights do not fit. There inputs are quantised to 7 bits."""
    packed = _packed(torch.ones(1, 64), torch.zeros(1))
    return bool(torch.ops.quantized.linear_dynamic(torch.ones(1, 64), packed, False) < 60)


def _packed(weight: Tensor, bias: Tensor) -> Any:
    """Weights (K, D) in int8, one scale an output, and the bias (K,), as the products take them."""
    scales = weight.abs().amax(1).clamp(min=1e-12).double() / 127
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    with warnings.catch_warnings():
        # torch means to take quantised tensors out one day; `available` says when it has
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = (
        ENGINE  # decides for whose kernels the weights are packed, not later calls
    )
    try:
        return torch.ops.quantized.linear_prepack(quantised, bias)
    finally:
        torch.backends.quantized.engine = engine


def quantise(tower: nn.Module) -> int:
    """Put the products of a tower's transformer blocks in int8, in place; how many layers became
    one or another.

    Embeddings, norms, attention itself, poolers and projections stay as they are.
    """
    count = 0
    for block in [part for part in tower.modules() if isinstance(part, Block)]:
        count += _attention(block.attn, joined=True) + _feed_forward(block.mlp)
        if block.cross is not None:
            count += _attention(block.cross, joined=False)
    return count


def _attention(attention: Attention, joined: bool) -> int:
    names = ("q", "k", "v")
    layers = [getattr(attention, name) for name in names]
    if not all(type(layer) is nn.Linear for layer in (*layers, attention.out)):
        return 0  # an adapter sits there
    if joined:
        attention.qkv = Int8Linear(
            layers
        )  # the three are read by no one else: a block's own attention has no memory
    for name, layer in zip(names, layers, strict=True):
        setattr(attention, name, None if joined else Int8Linear([layer]))
    attention.out = Int8Linear([attention.out])  # type: ignore
    return 4


def _feed_forward(mlp: FeedForward) -> int:
    if type(mlp.fc1) is not nn.Linear or type(mlp.fc2) is not nn.Linear:
        return 0
    mlp.fc1, mlp.fc2 = Int8Linear([mlp.fc1]), Int8Linear([mlp.fc2])  # type: ignore
    return 2
