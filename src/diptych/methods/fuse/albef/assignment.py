"""Text assignment: which of several images a text belongs to, or whether it is none of them. It trains the multimodal
encoder of several images on pairs of an image and a text, before a task such as NLVR2.

    L = mean of CE(W h_1, place of the text's image among its K candidates, or K if it is none of them)

h_1 is the first token of the multimodal encoder. The K + 1 places have equal probability; other images are drawn from
the batch by the softmax of the images' similarities with the text's own, and no image twice.

Dimensions: B pairs, K images of each text, L tokens, M tokens of an image, E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.views import ImageView, TextView, View
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.fuse.albef.base import FusionMethod
from diptych.methods.fuse.albef.classes import PairEncoder
from diptych.methods.make import Make
from diptych.objectives.matching import draw_negatives
from diptych.rng import torch_seed
from diptych.towers.nn.parts import Temperature, freeze


class ALBEFAssignment(FusionMethod):
    """Trains the multimodal encoder of several images, and the towers, on pairs."""

    exchanged = ("image_tokens", "text_tokens")
    model: PairEncoder

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(logit_scale=Temperature(config.temperature, form="divisor"))
        self.model = PairEncoder(encoder, config.depth, config.images or 2)
        multimodal = self.model.multimodal
        make.go_on_part(multimodal, "multimodal", multimodal.repeated)
        self.head = nn.Linear(encoder.text.width, self.model.images + 1)  # type: ignore[union-attr]  # it has one
        self.set_size(encoder)
        freeze(encoder.image_projection, encoder.text_projection, encoder.logit_scale)
        freeze(getattr(encoder.image, "pool", None))

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "train albef --init {run} --method.task classes --method.images 2 --data STATEMENTS",
        )

    def stages(self) -> Sequence[Stage]:
        return (replace(self.stage(), min_batch=self.model.images + 1),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        image = ImageView(preprocess=self.model.preprocess, augment=self.augment)
        return image, TextView(tokenizer=self.make.tokenizer, role=self.config.role)

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the tokens of images (B, M, ·) and texts (B, L, ·), and the unit vectors of images
        (B, E), without a gradient."""
        encoder = self.model.encoder
        image = encoder.encode_image(batch.image.flat)
        with torch.no_grad():
            vectors = F.normalize(encoder.image_vectors(image), dim=-1)
        text = encoder.encode_text(*batch.text.flat).tokens
        return {"image_tokens": image.tokens, "text_tokens": text, "image": vectors}

    def among(self, features: Features, rows: slice, batch: Batch, at: At) -> Features:
        """Return the logits (n, K + 1) of the places of the text's image."""
        images, _ = self._candidates(features["image"], at)
        seen = [features["image_tokens"][of_place] for of_place in images[rows].unbind(1)]
        lengths = batch.text.lengths[rows, 0]
        read = self.model.multimodal(features["text_tokens"][rows], lengths, *seen)
        return {"logits": self.head(read[:, 0])}

    def _candidates(self, vectors: Tensor, at: At) -> tuple[Tensor, Tensor]:
        """The numbers of the images of each text (B, K), and the place of its own (B,), K if it is
        none of them."""
        B = len(vectors)
        K = self.model.images
        generator = torch.Generator(vectors.device)
        generator.manual_seed(torch_seed(at.seed, at.stage, at.step, "assignment"))
        logits = vectors @ vectors.T / self.config.temperature
        own = torch.arange(B, device=vectors.device)
        excluded = torch.eye(B, dtype=torch.bool, device=vectors.device)
        drawn = []
        for _ in range(K):
            drawn.append(draw_negatives(logits, excluded, generator))
            excluded = excluded | F.one_hot(drawn[-1], B).bool()
        place = torch.randint(K + 1, (B,), generator=generator, device=vectors.device)
        places = torch.arange(K, device=vectors.device)
        later = (places > place[:, None]).long()  # these come behind the text's own image
        others = torch.stack(drawn, 1).gather(1, places - later)
        return torch.where(places == place[:, None], own[:, None], others), place

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        _, place = self._candidates(features["image"], at)
        logits = features["logits"]
        right = (logits.argmax(1) == place).to(logits.dtype).mean()
        return Losses({"assignment": F.cross_entropy(logits, place)}, {"accuracy": right.detach()})
