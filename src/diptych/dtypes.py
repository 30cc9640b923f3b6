"""Which numbers a result is computed in."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """`x` in at least single precision: half precision becomes float32; float64 and integers stay as they are.

    >>> wide(torch.ones(1, dtype=torch.bfloat16)).dtype, wide(torch.ones(1, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return x.float() if x.dtype in {torch.bfloat16, torch.float16} else x
