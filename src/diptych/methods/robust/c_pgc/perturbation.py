"""A universal perturbation: one change of all images and one word for all texts.

    x' = clip(x + δ, 0, 255),    |δ| <= eps,    x, δ and x' whole numbers, as images of 8 bits are

δ is stored as whole numbers, so the bound holds exactly in stored images. For pixels of another
size δ is resized, rounded and clipped again.

With `steps` nothing is universal: δ is searched for each image by itself (PGD). What that does to the
surrogate stands for the most that one δ could do. From equal random numbers for all images it takes
so many steps

    δ <- clip(δ - step · eps · sign(∂/∂δ cos(f(x + δ), f(x))), -eps, eps)

Dimensions: N images or texts, H x W pixels, S pixels a side of the model's images, D width of a word
embedding.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.methods.robust.c_pgc.words import nearest_word, replaced, whole_words
from diptych.models.delivered import Delivered, Validation
from diptych.models.model import ImagesLike, Model, evaluating
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import freeze
from diptych.towers.tower import ImageTower

LEVELS = 255
"""The largest value of a pixel."""


class UniversalPerturbation(Delivered):
    """The frozen surrogate `encoder`, δ as `levels` (3, S, S), int16, and the `embedding` (D,) of
    the word. With `steps` δ is that of each image, after steps of a size that is `step` of eps."""

    levels: Tensor
    embedding: Tensor

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer,
        eps: int,
        steps: int = 0,
        step: float = 0.1,
    ):
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.eps = eps
        self.steps = steps
        self.step = step
        freeze(encoder)
        size = encoder.image.image_size
        table = self.table
        self.register_buffer("levels", torch.zeros(3, size, size, dtype=torch.int16))
        self.register_buffer("embedding", torch.zeros(table.shape[1], dtype=table.dtype))

    @property
    def image(self) -> ImageTower:
        """The image tower, which has the preprocessing."""
        return self.encoder.image

    @property
    def table(self) -> Tensor:
        """The word embeddings (V, D) of the surrogate's text tower."""
        text: Any = self.encoder.text
        return text.table.weight

    @cached_property
    def words(self) -> dict[int, str]:
        """The words that may take another's place, by id."""
        found = whole_words(self.tokenizer)
        if not found:
            raise InputError(
                "the surrogate's vocabulary holds no whole word that could take another's place; train it with a "
                "larger one (--tokenizer bpe:vocab_size=…)"
            )
        return found

    @property
    def word(self) -> str:
        """The word whose embedding is nearest to `embedding`; "" before that is set."""
        if not self.embedding.any():
            return ""
        return nearest_word(self.embedding, self.table.detach(), self.words)

    def set(self, levels: Tensor, embedding: Tensor) -> None:
        """Set δ (3, S, S), whole numbers of at most eps, and the embedding of the word."""
        assert int(levels.abs().max()) <= self.eps, "the bound holds"
        self.levels.copy_(levels)
        self.embedding.copy_(embedding)

    def add_to(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, H, W), uint8, with δ added and clipped to 0 … 255.

        >>> import torch
        >>> from diptych.methods.robust.c_pgc.perturbation import resized
        >>> resized(torch.full((1, 3, 4, 4), 4, dtype=torch.int16), (6, 2), 4).unique().tolist()
        [4]
        """
        levels = self.searched(pixels) if self.steps else self.levels[None]
        levels = resized(levels, pixels.shape[-2:], self.eps).to(pixels.device)
        return (pixels.to(torch.int16) + levels).clamp(0, LEVELS).to(torch.uint8)

    def searched(self, pixels: Tensor) -> Tensor:
        """δ of each image (N, 3, S, S), int16, which moves its feature away from that of the
        unchanged pixels (N, 3, H, W)."""
        size = (self.image.image_size, self.image.image_size)
        bound = self.eps / LEVELS
        device = self.levels.device
        # also where the caller records no gradients
        with torch.inference_mode(False), torch.enable_grad(), evaluating(self.encoder):
            x = pixels.clone().to(device, self.table.dtype) / LEVELS
            if tuple(x.shape[-2:]) != size:
                x = F.interpolate(
                    x, size=size, mode="bilinear", align_corners=False, antialias=True
                )
            start = torch.rand((3, *size), generator=torch.Generator().manual_seed(0))
            delta = (bound * (2 * start - 1)).to(x).repeat(len(x), 1, 1, 1)
            features = self._features(x).detach()
            for _ in range(self.steps):
                delta.requires_grad_()
                cosines = (self._features((x + delta).clamp(0, 1)) * features).sum()
                (gradient,) = torch.autograd.grad(cosines, delta)
                delta = delta.detach() - self.step * bound * gradient.sign()
                delta = delta.clamp(-bound, bound)
            return (LEVELS * delta).round().to(torch.int16)

    def _features(self, x: Tensor) -> Tensor:
        return self.encoder.embed_images((x - self.image.mean) / self.image.std)

    def extra_state(self) -> dict[str, Any]:
        return {"word": self.word}

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "PerturbationModel":
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return PerturbationModel(self, preprocess, name=name)


class PerturbationModel(Model):
    """A surrogate with its universal perturbation, which `apply` puts on images and texts; it embeds
    as the surrogate does."""

    def __init__(self, perturbation: UniversalPerturbation, preprocess: Preprocess, *, name: str):
        super().__init__(
            perturbation.encoder,
            perturbation.tokenizer,
            preprocess,
            name=name,
            delivered=perturbation,
        )
        self.perturbation = perturbation
        self.validation = Validation("attack", ("i2t_asr", "t2i_asr"))

    @property
    def eps(self) -> int:
        """The bound of δ, of 255."""
        return self.perturbation.eps

    @property
    def word(self) -> str:
        """The word that takes another's place in texts."""
        return self.perturbation.word

    @property
    def delta(self) -> Tensor:
        """δ (3, S, S), float32, of pixels from 0 to 1.

        It is at most float32(eps / 255), exactly.
        """
        return self.perturbation.levels.float().cpu() / LEVELS

    def apply(
        self, images: ImagesLike = (), texts: Sequence[str] = (), *, batch_size: int = 64
    ) -> tuple[Tensor, list[str]]:
        """Return changed pixels (N, 3, H, W), uint8, and changed texts.

        A uint8 tensor (N, 3, H, W) is changed at its own size; other images are preprocessed to the
        model's size first. Raises InputError as `embed_images` does, and for a float tensor.
        """
        if isinstance(images, Tensor) and images.dtype != torch.uint8:
            raise InputError(
                f"δ is added to images of 8 bits, got {images.dtype}; give uint8 pixels, paths or PIL images"
            )
        if isinstance(images, Tensor):
            changed = [self.perturbation.add_to(part) for part in images.split(batch_size)]
            return torch.cat(changed), self._texts(texts, batch_size)
        batches, _ = self._batches(images, batch_size, exact=True)
        changed = [self.perturbation.add_to(pixels) for (pixels,) in batches]
        size = self.preprocess.side
        none = torch.empty(0, 3, size, size, dtype=torch.uint8)
        return torch.cat([none, *changed]), self._texts(texts, batch_size)

    def _texts(self, texts: Sequence[str], batch_size: int) -> list[str]:
        word = self.word
        if not word:
            return list(texts)
        found = []
        with evaluating(self.encoder):
            for start in range(0, len(texts), batch_size):
                part = list(texts[start : start + batch_size])
                found += replaced(part, word, self.encoder, self.perturbation.tokenizer)
        return found


def resized(levels: Tensor, size: Sequence[int], eps: int) -> Tensor:
    """Levels (N, 3, H, W), int16, for pixels of another size: bilinear, rounded, at most eps."""
    if tuple(levels.shape[2:]) == tuple(size):
        return levels
    found = F.interpolate(levels.float(), size=tuple(size), mode="bilinear", align_corners=False)
    return found.round().clamp(-eps, eps).to(torch.int16)
