"""The local loss of BioViL-L: words of reports are compared with patches of images.

Dimensions: B pairs, P patches, L words, E width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.dtypes import at_least_float32


def local_alignment(
    patches: Tensor,
    words: Tensor,
    there: Tensor,
    scale: float,
    *,
    attention: float = 4.0,
    matching: float = 5.0,
) -> Tensor:
    """The symmetric cross-entropy of images and texts, compared word by word.

        a_ijk = softmax_p(attention · <w_jk, z_ip>),      c_ijk = unit( Σ_p a_ijkp z_ip )
        m_ij  = log( mean_k exp(matching · <c_ijk, w_jk>) ) / matching
        L     = mean_i -log softmax_j(scale · m_ij)_i  +  mean_j -log softmax_i(scale · m_ij)_j

    patches (B, P, E) and words (B, L, E) are unit vectors; `there` (B, L) are the words that
    exist. Source: Huang et al. 2021 (GLoRIA); the mean over words makes texts of different length
    comparable [choice].

    >>> z = F.normalize(torch.randn(2, 3, 4), dim=-1)
    >>> local_alignment(z, z, torch.ones(2, 3, dtype=torch.bool), 2.0).shape
    torch.Size([])
    """
    with torch.autocast(patches.device.type, enabled=False):
        patches = at_least_float32(patches)
        words = at_least_float32(words)
        columns = []
        for text, real in zip(words, there, strict=True):  # (B, L, P) at a time
            own = text[real]
            weights = (attention * own @ patches.mT).softmax(-1)
            context = F.normalize(weights @ patches, dim=-1)
            cosines = (context * own).sum(-1)
            columns.append((matching * cosines).logsumexp(1) - real.sum().clamp(min=1).log())
        logits = scale * torch.stack(columns, 1) / matching
        pairs = torch.arange(len(logits), device=logits.device)
        return F.cross_entropy(logits, pairs) + F.cross_entropy(logits.mT, pairs)
