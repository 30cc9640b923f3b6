"""Denoising diffusion (Ho et al., NeurIPS 2020) of small images, given their texts.

A transformer with cross-attention to the tokens of a text predicts the noise in an image:

    L = mean_i || eps(√a_t x_i + √(1 - a_t) e, t, c(y_i)) - e ||²,    t ~ U{0 … T-1},  e ~ N(0, I)

c(y) are the tokens of a text tower that is trained with it. A share of the texts is replaced by the
empty one, so that drawing can be guided (Ho and Salimans 2022). It is not a paper's method but the
teacher of others, small enough for two cores: the noise is that of pixels, and the network, of
plain patches, is no U-Net. [choice] Inference: `model.match(images, texts)`, minus the error of the
predicted noise, and `model.draw(text)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import ImageView, NoiseView, TextView, View, augmentation
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.make import NO_TOWER, Make
from diptych.models.delivered import Delivered
from diptych.models.diffusion import DiffusionModel
from diptych.spec import Count, Share, Width
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.denoiser import Denoiser, DenoiserConfig, Schedule, noise_errors
from diptych.towers.nn.parts import Temperature

card = {
    "title": "Denoising diffusion of small images, given their texts",
    "year": 2020,
    "kind": "method",
    "entry": "Denoise",
    "provenance": "paper",
    "abilities": {"draw": "", "match": "", "noise_error": ""},
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options.

    - `role` is the role of the texts (see `data.views.TextView`), `augment` of `data.views.Augment`.
    - `drop` is the share of texts that are replaced by the empty one.
    - Images have `size` pixels a side, in patches of `patch`; the network has `depth` blocks of
      `width`.
    - `steps` and `schedule` are those of the noise (`towers.nn.denoiser.kept_at`).
    """

    role: str = "caption"
    augment: Mapping[str, Any] | None = field(default_factory=dict)
    drop: Share = 0.1
    size: Count = 32
    patch: Count = 4
    width: Width = 128
    depth: Count = 4
    steps: Count = 1000
    schedule: Schedule = "cosine"


class TextDenoiser(Delivered):
    """A denoiser with the text tower whose tokens it attends to; its latents are pixels."""

    reads = ("images.main", "texts.*")
    bound = 1.0

    def __init__(self, encoder: DualEncoder, config: DenoiserConfig):
        super().__init__()
        self.encoder = encoder
        self.denoiser = Denoiser(encoder.embed_dim, config)
        self.shape = (3, config.size, config.size)

    @property
    def preprocess(self) -> Preprocess:
        return self.denoiser.preprocess

    @property
    def kept(self) -> Tensor:
        return self.denoiser.kept

    def latents(self, x: Tensor) -> Tensor:
        return self.denoiser.pixels(x)

    def pixels(self, z: Tensor) -> Tensor:
        return z

    def rows(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.encoder.encode_text(ids, lengths)
        rows = self.encoder.project_text(encoded.tokens)
        there = torch.ones_like(ids, dtype=torch.bool) if encoded.mask is None else encoded.mask
        return rows, there

    def noised(self, x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return self.denoiser.noised(x, noise, time)

    def forward(self, x: Tensor, time: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        return self.denoiser(x, time, rows, mask)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> DiffusionModel:
        assert tokenizer is not None, "the text tower is made for a tokenizer"
        return DiffusionModel(self, tokenizer, name=name)


class Denoise(Method):
    """The mean squared error of the predicted noise."""

    Config = Config
    test_options: ClassVar[Mapping[str, Any]] = {"size": 16, "depth": 1}
    model: TextDenoiser

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data {data} --suite denoising",
            "draw {run} 'SOME WORDS' --out IMAGES",
        )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(logit_scale=Temperature(1.0, form="fixed"))
        own = DenoiserConfig(
            size=config.size,
            patch=config.patch,
            width=config.width,
            depth=config.depth,
            steps=config.steps,
            schedule=config.schedule,
        )
        self.model = TextDenoiser(encoder, own)
        make.go_on(self.model)
        self.augment = augmentation(config.augment)

    def stages(self) -> Sequence[Stage]:
        return (Stage(min_batch=1),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        return (
            ImageView(preprocess=self.model.preprocess, augment=self.augment),
            TextView(tokenizer=self.make.tokenizer, role=config.role),
            NoiseView(shape=self.model.shape, steps=config.steps, drop=config.drop),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        fields: Any = batch.fields
        rows, mask = self.model.rows(*self._dropped(*batch.text.flat, fields["dropped"]))
        latents = self.model.latents(batch.image.flat)
        noise = fields["noise"].to(latents)
        return {"error": noise_errors(self.model, latents, noise, fields["time"], rows, mask)}

    def _dropped(self, ids: Tensor, lengths: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids (B, L) with lengths (B,), those of the empty text where `dropped` (B,)."""
        tokenizer = self.make.tokenizer
        [empty] = tokenizer.encode([""])
        nothing = torch.tensor(empty, device=ids.device)
        more = ids.shape[1] - len(empty)
        nothing = F.pad(nothing, (0, more), value=tokenizer.pad)
        return (
            torch.where(dropped[:, None], nothing, ids),
            torch.where(dropped, len(empty), lengths),
        )

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        return Losses({"noise": features["error"].mean()})


_TEXT = "text:width=128:depth=2:heads=4:causal=false"

Denoise.presets = {
    "small": Preset(
        image=NO_TOWER,
        text=_TEXT,
        tokenizer="bpe:vocab_size=2048:context=32",
        embed_dim=128,
        recipe=Recipe(
            lr=1e-3, weight_decay=0.01, warmup=0.05, clip=1.0, ema=0.995, batch_size=64, epochs=30
        ),
    ),
    # The size of a published network (Ho et al. 2020: 35.7 M parameters on 32 x 32 pixels), its
    # rate, batch and averaged weights; texts are ours.
    "paper": Preset(
        config={"patch": 2, "width": 512, "depth": 8},
        image=NO_TOWER,
        text="text:width=512:depth=6:heads=8:causal=false",
        tokenizer="clip",
        embed_dim=512,
        recipe=Recipe(
            optimizer="adam",
            lr=2e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            schedule="constant",
            warmup=5000,
            clip=1.0,
            ema=0.9999,
            batch_size=128,
            steps=800_000,
        ),
    ),
}
