"""Reconstruction of hidden patches of images.

    standardised    e_p = mean_i ( d_pi - (x_pi - m_p) / s_p )²,    s_p² = var_p + 1e-6
    raw             e_p = mean_i | d_pi - x_pi |

d_p are the predicted and x_p the own pixels of patch p; m_p and var_p are mean and variance (with
n - 1) of x_p. Sources: He et al. 2022 (MAE), Xie et al. 2022 (SimMIM).

Dimensions: B images, H x W pixels, h x w patches, P = h · w, p side of a patch.
"""

from typing import Literal

from torch import Tensor

Target = Literal["standardised", "raw"]
_EPS = 1e-6


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """The pixels (B, P, 3 p²) of the patches of images (B, 3, H, W), whose sides are multiples of
    `patch`.

    >>> import torch
    >>> patchify(torch.arange(2.0).repeat_interleave(2).expand(1, 3, 2, 4), 2)[0, :, 0]
    tensor([0., 1.])
    """
    cut = pixels.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # (B, 3, h, p, w, p)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """The images (B, 3, H, W) of patches (B, P, 3 p²) on a grid (h, w): the inverse of `patchify`.

    >>> import torch
    >>> pixels = torch.rand(2, 3, 4, 6)
    >>> torch.equal(unpatchify(patchify(pixels, 2), (2, 3), 2), pixels)
    True
    """
    cut = patches.unflatten(1, grid).unflatten(3, (patch, patch, 3))  # (B, h, w, p, p, 3)
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation m, s (B, P, 1) of the pixels of each patch (B, P, 3 p²)."""
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + _EPS).sqrt()


def reconstruction_errors(
    drawn: Tensor, patches: Tensor, counted: Tensor, target: Target = "standardised"
) -> tuple[Tensor, Tensor]:
    """The errors of drawn patches (B, P, 3 p²), summed over those counted (B, P), and how many those
    are, for each image (B,). `patches` (B, P, 3 p²) are the images' own.

    >>> import torch
    >>> patches = torch.rand(1, 2, 48, generator=torch.Generator().manual_seed(0))
    >>> total, count = reconstruction_errors(torch.zeros(1, 2, 48), patches, torch.tensor([[True, False]]))
    >>> round(total.item(), 3), count.item()  # 47 / 48
    (0.979, 1.0)
    """
    if target == "raw":
        each = (drawn - patches).abs().mean(-1)
    else:
        m, s = patch_statistics(patches)
        each = ((drawn - (patches - m) / s) ** 2).mean(-1)
    weight = counted.to(each.dtype)
    return (each * weight).sum(1), weight.sum(1)
