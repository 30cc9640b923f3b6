"""The contrastive pair of BLIP-2: `Blip2ForImageTextRetrieval` of transformers, without its matching
head.

Dimensions: N images, M texts, K queries, E embedding, L tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.images import Preprocess


class Blip2Pair(nn.Module):
    """The Q-Former reads images by its K learned queries, and texts without an image. Both are
    projected; a text by its first token.

    Source: Li et al. 2023 (BLIP-2), section 3.2, image-text contrastive learning.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, preprocess: Preprocess):
        super().__init__()
        model.itm_head = None
        self.model = model
        self.preprocess = preprocess
        self.vectors: int = model.config.num_query_tokens
        self.embed_dim: int = model.config.image_text_hidden_size
        for name in ("mean", "std"):
            value = torch.tensor(getattr(preprocess, name)).view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def embed_images(self, x: Tensor) -> Tensor:
        """Unit vectors (N, K, E) of images (N, 3, H, W), uint8 or preprocessed floats."""
        if not x.is_floating_point():
            x = (x / 255 - self.mean) / self.std
        found = self.model.qformer(
            query_embeds=self.model.query_tokens.expand(len(x), -1, -1),
            encoder_hidden_states=self.model.vision_model(pixel_values=x).last_hidden_state,
        )
        return normalize(self.model.vision_projection(found.last_hidden_state), dim=-1)

    def embed_texts(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Unit vectors (M, E) of texts with ids (M, L)."""
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        found = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=ids),
            query_length=0,
            attention_mask=real.long(),
        )
        return normalize(self.model.text_projection(found.last_hidden_state[:, 0]), dim=-1)
