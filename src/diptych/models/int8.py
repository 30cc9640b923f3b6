"""Dynamic int8 quantisation: weights are quantised once, per row, inputs at each call, for int8
matrix products.

It needs x86 with oneDNN, which is part of torch. On an AMD EPYC with AVX-512 VNNI, one product of
1600 x 768 by 768 x 3072 took 75 ms in float32, 19 in bfloat16, and 9 in int8, quantisation of the
input included (CPU time, one thread).

Dimensions: … samples and tokens, D inputs, K outputs.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.towers.nn.attention import Attention
from diptych.towers.nn.transformer import BLOCKS, AttentionBlock, CrossBlock, FeedForward

ENGINE = "onednn"


def available() -> bool:
    """Whether this build of torch has the int8 products."""
    return ENGINE in torch.backends.quantized.supported_engines and hasattr(
        torch.ops.quantized, "linear_dynamic"
    )


class Int8Linear(nn.Module):
    """x W^T + b with W in int8, one scale per output, and x in 8 bits, one scale and zero point per
    call.

    Input and output are floats. The module may hold the weights of several layers with the same
    input. Since the scale of x is that of the batch, the last digits of results depend on the other
    samples.
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
        """(…, D) -> (…, K). Raises InputError if a gradient is needed, since int8 cannot be
        trained."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise InputError(
                "a model in int8 has no gradients; load it with precision='float32' to train it"
            )
        return torch.ops.quantized.linear_dynamic(x, self.packed, saturates())


@cache
def saturates() -> bool:
    """Whether the products overflow on this processor.

    Without VNNI, two products are added in 16 bits, which those of 8-bit inputs and 8-bit weights
    exceed; then inputs are quantised to 7 bits.
    """
    packed = _packed(torch.ones(1, 64), torch.zeros(1))
    return bool(torch.ops.quantized.linear_dynamic(torch.ones(1, 64), packed, False) < 60)


def _packed(weight: Tensor, bias: Tensor) -> Any:
    """Weights (K, D) in int8, one scale per output, and the bias (K,), packed for the products."""
    scales = weight.abs().amax(1).clamp(min=1e-12).double() / 127
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    with warnings.catch_warnings():
        # torch plans to remove quantised tensors; `available` is False once it has
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = (
        ENGINE  # selects the kernels for which weights are packed; later calls do not use it
    )
    try:
        return torch.ops.quantized.linear_prepack(quantised, bias)
    finally:
        torch.backends.quantized.engine = engine


def quantise(tower: nn.Module) -> int:
    """Convert the linear layers of a tower's transformer blocks to int8, in place; returns their
    number.

    Embeddings, norms, attention products, poolers and projections are not converted.
    """
    count = 0
    for block in [part for part in tower.modules() if isinstance(part, BLOCKS)]:
        if not isinstance(block, CrossBlock):
            count += _attention(block.attn, joined=True)
        if block.cross is not None:
            count += _attention(block.cross, joined=False)
        if not isinstance(block, AttentionBlock):
            count += _feed_forward(block.mlp)
    return count


def _attention(attention: Attention, joined: bool) -> int:
    names = ("q", "k", "v")
    layers = [getattr(attention, name) for name in names]
    if not all(type(layer) is nn.Linear for layer in (*layers, attention.out)):
        return 0  # an adapter is attached
    if joined:
        attention.qkv = Int8Linear(layers)  # only self-attention uses the three jointly
    for name, layer in zip(names, layers, strict=True):
        setattr(attention, name, None if joined else Int8Linear([layer]))
    attention.out = Int8Linear([attention.out])  # type: ignore
    return 4


def _feed_forward(mlp: FeedForward) -> int:
    if type(mlp.fc1) is not nn.Linear or type(mlp.fc2) is not nn.Linear:
        return 0
    mlp.fc1, mlp.fc2 = Int8Linear([mlp.fc1]), Int8Linear([mlp.fc2])  # type: ignore
    return 2
