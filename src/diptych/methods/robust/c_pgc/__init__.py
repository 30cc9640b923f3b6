"""C-PGC: One Perturbation is Enough: On Generating Universal Adversarial Perturbations against
Vision-Language Pre-training Models (Fang et al., ICCV 2025).

Two small generators make one change δ of all images and one word for all texts that move images and
texts apart in a frozen model, the surrogate, and in others like it. It serves to measure how robust
one's own models are.

    L_c = log( P / (P + Q) ),    P = mean_i Σ_j exp(a_i · t_ij / τ),    Q = mean_i Σ_j exp(a_i · t'_kj / τ)
    L   = Σ_scales L_c - α Σ |a - o|²

a are features of changed images, o of the same ones unchanged, t_i the captions of image i and t'_k
those of the image of the stream `targets` whose captions are farthest from o_i. Images are seen at
several scales. The loss of the texts is the same with the sides exchanged, but its target is the
farthest from the changed text. Captions get a word embedding in place of the word that their
feature depends on most (`words`).

The generators read conditions: of δ the mean feature of an image's captions, of the word the feature
of a caption's image. What is delivered comes from the mean condition of training, or from the last
batch. Both generators have one optimiser: without weight decay and clipping, two Adams over parts
of the parameters are one over all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.plan import InOrder, Shuffled
from diptych.data.views import ImageView, TextView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families.pairs import SMALL
from diptych.methods.make import Make
from diptych.methods.robust.c_pgc.contrast import farthest, inverted_contrast, own_similarities
from diptych.methods.robust.c_pgc.generator import FreePerturbation, PerturbationGenerator
from diptych.methods.robust.c_pgc.perturbation import LEVELS, UniversalPerturbation
from diptych.methods.robust.c_pgc.words import (
    most_important,
    random_word,
    rescaled,
    spans_of,
    substituted,
)
from diptych.rng import generator
from diptych.spec import AtLeast, AtMost, Count, NotNegative, Positive, Width
from diptych.towers.nn.parts import Temperature

card = {
    "title": "One Perturbation is Enough: On Generating Universal Adversarial Perturbations against Vision-Language "
    "Pre-training Models",
    "year": 2024,
    "kind": "method",
    "entry": "CPGC",
    "provenance": "code",
    "abilities": {"apply": ""},
}

NOISE = 0.05
"""Standard deviation of the noise that is added before an image is resized."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options.

    - `by` is what makes the perturbation: the "generator"s; "pgd", the same losses minimised by
      signed steps on δ and the embedding themselves; "noise", random signs and a random word, by
      the run's seed; "instance", signed steps for each image by itself, where it is used, and no
      word: a bound, and no universal perturbation.
    - `eps` is the bound of δ, of 255.
    - `role` and `captions` are the texts of an image, of which so many are read.
    - `temperature`, `contrast` and `alpha` are τ, the weight of L_c and that of the distance;
      contrast=0 leaves the distance alone.
    - `scales` are those beside the image's own.
    - `rows` is the number of conditions that the generators merge: images of a batch times scales,
      and captions of a batch.
    - `layers` is the number of layers of the image generator before its last, which makes 3 ·
      2^(layers + 1) pixels a side; these are resized to the surrogate's size.
    - `channels` and `text_channels` are those of the generators' first layers.
    - `export` says whether what is delivered comes from the "mean" condition or the "last" batch.
    - `step` is that of "pgd" and "instance": a share of eps, and of the spread of the word
      embeddings. `steps` is the number of those of "instance".
    """

    by: Literal["generator", "pgd", "noise", "instance"] = "generator"
    eps: Annotated[int, AtLeast(0), AtMost(LEVELS)] = 12
    role: str = "caption"
    captions: Count = 5
    temperature: Positive = 0.1
    contrast: NotNegative = 1.0
    alpha: NotNegative = 0.1
    scales: tuple[float, ...] = (0.5, 0.75, 1.25, 1.5)
    rows: Count = 20
    layers: Count = 6
    channels: Width = 1024
    text_channels: Width = 256
    export: Literal["mean", "last"] = "mean"
    step: Positive = 0.1
    steps: Count = 20


class CPGC(Method):
    """The inverted contrast of changed images with texts, and of changed texts with images."""

    Config = Config
    adapts = True
    chunkable = False  # `loss` sees the pixels of all images at once
    whole = True
    test_options: ClassVar[Mapping[str, Any]] = {
        "eps": 255,
        "rows": 4,
        "captions": 2,
        "scales": (0.5,),
    }
    conditions: Tensor
    seen: Tensor

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return ("attack {run} --data {data}", "attack {run} --data {data} --victim OTHER")

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(logit_scale=Temperature(1 / 0.07))
        if "image" not in encoder.sides or encoder.text is None or make.words is None:
            raise InputError(
                "a perturbation moves images and texts apart, and this model has no text tower, no image tower or no "
                "tokenizer; start from one of images and texts"
            )
        steps = config.steps if config.by == "instance" else 0
        self.model = UniversalPerturbation(encoder, make.words, config.eps, steps, config.step)
        self.contrast: Callable[..., Tensor] = inverted_contrast
        self.image_source: nn.Module | None = None
        self.text_source: nn.Module | None = None
        E = encoder.embed_dim
        size = self.model.image.image_size
        table = self.model.table.detach()
        rows = config.rows
        if config.by == "generator":
            self.image_source = PerturbationGenerator.image(
                E, layers=config.layers, channels=config.channels, rows=rows
            )
            self.text_source = PerturbationGenerator.text(
                E, table.shape[1], channels=config.text_channels, rows=rows
            )
        elif config.by == "pgd":
            self.image_source = FreePerturbation(
                2 * torch.rand(3, size, size) - 1, config.eps / LEVELS
            )
            self.text_source = FreePerturbation(torch.randn(table.shape[1]), float(table.std()))
        self.register_buffer("conditions", torch.zeros(2, E))
        self.register_buffer("seen", torch.zeros(()))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.model.encoder.eval()
        return self

    def stages(self) -> Sequence[Stage]:
        if self.config.by == "noise":
            return (Stage(optimize=False, prepare=self._draw),)
        if self.config.by == "instance":
            return (Stage(optimize=False, prepare=lambda run: None),)  # nothing is learnt
        recipe: dict[str, Any] = {}
        if self.config.by == "pgd":
            recipe = {"optimizer": "sgd", "lr": self.config.step, "betas": (0.0, 0.999)}
        train = Stage(
            streams=("train", "targets"),
            plan={"train": InOrder(), "targets": Shuffled()},
            recipe=recipe,
        )
        if self.config.export == "last" or self.config.by == "pgd":
            return (train,)
        return train, Stage(name="export", optimize=False, prepare=self._export)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        return (
            ImageView(preprocess=self.model.image.preprocess, augment=None),
            TextView(tokenizer=self.make.tokenizer, role=config.role, count=config.captions),
        )

    @torch.no_grad()
    def encode(self, batch: Any, at: At) -> Features:
        """Return the unchanged features of images (B, E) and captions (B, J, E) of both streams,
        and place and size (B, J) of the most important word of each caption."""
        found: Features = {}
        for stream, part in batch.items():
            ids, lengths = part.text.flat
            captions = part.text.ids.shape[1]
            text = self.model.encoder.embed_texts(ids, lengths)
            found[f"{stream}.image"] = self.model.encoder.embed_images(part.image.flat)
            found[f"{stream}.text"] = text.unflatten(0, (-1, captions))
        found["start"], found["size"] = self._important(batch["train"])
        return found

    def _important(self, batch: Batch) -> tuple[Tensor, Tensor]:
        tokenizer = self.make.tokenizer
        ids, lengths = batch.text.flat
        rows = [row[:length] for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]
        spans = [spans_of(row, tokenizer) for row in rows]
        best = most_important(self.model.encoder, tokenizer, rows, spans)
        chosen = torch.tensor(
            [own[at] for own, at in zip(spans, best, strict=True)], device=ids.device
        )
        start, stop = chosen.unflatten(0, batch.text.ids.shape[:2]).unbind(2)
        return start, stop - start

    def loss(self, features: Features, batch: Any, at: At) -> Losses:
        captions = features["train.text"].shape[1]
        of_images = features["train.text"].mean(1)
        of_texts = features["train.image"].repeat_interleave(captions, 0)
        levels, delta, saturated = self._delta(of_images)
        word = self._word(of_texts)
        image, image_distance = self._image_terms(features, batch["train"], delta)
        text, text_distance = self._text_terms(features, batch["train"], word)
        terms = {
            "image": self.config.contrast * image - self.config.alpha * image_distance,
            "text": self.config.contrast * text - self.config.alpha * text_distance,
        }
        logged = {
            "saturated": saturated,
            "image_distance": image_distance.detach(),
            "text_distance": text_distance.detach(),
        }
        conditions = torch.stack([of_images.mean(0), of_texts.mean(0)])
        carry = {"levels": levels, "word": word.detach(), "conditions": conditions}
        return Losses(terms, logged, carry)

    def _delta(self, conditions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return δ as whole numbers (3, S, S) and as a share of 255, with the gradient of the
        clipped one, and how much of it is clipped."""
        assert self.image_source is not None
        found = self.image_source(conditions)
        size = self.model.image.image_size
        if found.shape[1] != size:
            found = F.interpolate(
                found[None], size=(size, size), mode="bilinear", align_corners=False
            )[0]
        bound = self.config.eps / LEVELS
        clipped = found.clamp(-bound, bound)
        levels = (LEVELS * clipped.detach()).round()
        delta = levels / LEVELS + (clipped - clipped.detach())
        return levels, delta, (found.detach().abs() >= bound).double().mean()

    def _word(self, conditions: Tensor) -> Tensor:
        """Return a word embedding (D,) as long as those of the table."""
        assert self.text_source is not None
        found = self.text_source(conditions).flatten()
        rows = self.model.table.detach()[torch.as_tensor(self.make.tokenizer.ordinary)]
        return rescaled(found[: rows.shape[1]], rows)

    def _image_terms(
        self, features: Features, batch: Batch, delta: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return Σ L_c over the scales and the squared distance of all features."""
        tau = self.config.temperature
        images = self._augmented(batch.image.flat)
        changed = self._embed(torch.cat(images) + delta).chunk(len(images))
        with torch.no_grad():
            plain = self._embed(torch.cat(images)).chunk(len(images))
        targets = features["targets.text"]
        terms = []
        distances = []
        for a, o in zip(changed, plain, strict=True):
            own = own_similarities(a, features["train.text"])
            far = own_similarities(a, targets[farthest(o, targets)])
            terms.append(self.contrast(own, far, tau))
            distances.append((a - o).square().sum())
        return torch.stack(terms).sum(), torch.stack(distances).sum()

    def _augmented(self, pixels: Tensor) -> list[Tensor]:
        """Return images (B, 3, S, S) from 0 to 1 with noise, and the same as seen at each of the
        scales."""
        size = pixels.shape[-1]
        bound = self.config.eps / LEVELS
        x = pixels.to(self.conditions) / LEVELS
        x = (x + bound * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        found = [x]
        for scale in self.config.scales:
            noisy = x + NOISE * torch.randn_like(x)
            other = _bicubic(noisy, max(1, round(scale * size))).clamp(0, 1)
            found.append(_bicubic(other, size))
        return found

    def _embed(self, images: Tensor) -> Tensor:
        tower = self.model.image
        return self.model.encoder.embed_images((images - tower.mean) / tower.std)

    def _text_terms(self, features: Features, batch: Batch, word: Tensor) -> tuple[Tensor, Tensor]:
        """Return L_c of the changed captions and the squared distance of their features."""
        encoder = self.model.encoder
        captions = features["train.text"].shape[1]
        text: Any = encoder.text
        embeddings, lengths = substituted(
            text.table,
            *batch.text.flat,
            features["start"].flatten(),
            features["size"].flatten(),
            word,
            self.make.tokenizer.pad,
        )
        a = encoder.embed_texts(None, lengths, embeddings=embeddings)
        images = features["train.image"].repeat_interleave(captions, 0)[:, None]
        targets = features["targets.image"][:, None]
        own = own_similarities(a, images)
        far = own_similarities(a, targets[farthest(a.detach(), targets)])
        distance = (a - features["train.text"].flatten(0, 1)).square().sum()
        return self.contrast(own, far, self.config.temperature), distance

    @torch.no_grad()
    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        """Keep the perturbation of this batch, and the mean of all conditions."""
        self.seen += 1
        self.conditions += (carry["conditions"] - self.conditions) / self.seen
        if isinstance(self.image_source, FreePerturbation):
            self.image_source.values.clamp_(-1, 1)
        self.model.set(carry["levels"], carry["word"])

    @torch.no_grad()
    def _export(self, run: Any) -> None:
        """Set the perturbation of the mean condition."""
        of_images, of_texts = self.conditions[:, None]
        self.model.set(self._delta(of_images)[0], self._word(of_texts))

    def _draw(self, run: Any) -> None:
        """Set random signs and a random word."""
        rng = generator(run.at.seed, "noise")
        signs = torch.from_numpy(2 * rng.integers(0, 2, tuple(self.model.levels.shape)) - 1)
        word = random_word(self.model.words, rng)
        self.model.set(self.config.eps * signs, self.model.table.detach()[word])


def _bicubic(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False)


RECIPE = Recipe(
    optimizer="adam",
    lr=2e-4,
    betas=(0.5, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    schedule="constant",
    warmup=0.0,
    batch_size=4,
    epochs=40,
)

CPGC.presets = {
    # The surrogate is the given model; the contract suite, which has none, builds these towers.
    "small": Preset(
        config={"eps": 8, "layers": 3, "channels": 128, "text_channels": 64},
        image=SMALL.image,
        text=SMALL.text,
        tokenizer=SMALL.tokenizer,
        embed_dim=SMALL.embed_dim,
        recipe=RECIPE,
    ),
    "paper": Preset(
        config={"channels": 1024, "text_channels": 256},
        image="vit:image_size=224:patch=16:width=768:depth=12:heads=12:pre_norm=true",
        text="text:width=512:depth=12:heads=8",
        tokenizer="clip",
        embed_dim=512,
        recipe=RECIPE,
    ),
}
