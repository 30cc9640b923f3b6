"""`DiffusionModel`: a predictor of noise with its tokenizer and preprocessing, which takes images and
strings. It says how well a text fits an image, and draws images of a text.

    error(x, y) = mean_k || eps(√a_t x + √(1 - a_t) e, t, y) - e ||²,    (t, e) = (t_k, e_k)

The pairs (t_k, e_k) are the same for all images and texts: with draws of its own for each text, the
variance would hide what the text changes (Li et al. 2023).

Dimensions: N images, B images of a batch, H x W pixels, K draws, L rows of a text, E embedding.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.errors import InputError
from diptych.models.delivered import Validation
from diptych.models.model import evaluating
from diptych.models.pixels import ImagesLike, pixel_batches
from diptych.rng import generator
from diptych.towers.nn.denoiser import noise_errors, sampled
from diptych.towers.nn.parts import checksum

DRAWS = 16
"""Pairs of a time and noise with which a text and an image are compared."""


class Diffusion(Protocol):
    """Predicts the noise of latents (B, *shape), given the rows of a text.

    - `kept` (T,) are the shares a_t of the variance that remain (`towers.nn.denoiser.kept_at`).
    - `bound` is the largest latent, None if there is none.
    """

    preprocess: Preprocess
    shape: tuple[int, ...]
    kept: Tensor
    bound: float | None

    def latents(self, x: Tensor) -> Tensor:
        """The latents (B, *shape) of uint8 images (B, 3, H, W)."""
        ...

    def pixels(self, z: Tensor) -> Tensor:
        """The images (B, 3, H, W) of latents, in [-1, 1]."""
        ...

    def rows(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The rows (B, L, E) of texts with ids (B, L), and their mask (B, L)."""
        ...

    def noised(self, x: Tensor, noise: Tensor, time: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor, time: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        """The noise (B, *shape) that is predicted of noisy latents at times (B,)."""
        ...


class DiffusionModel:
    """A predictor of noise that takes images and strings; `name` is what it was loaded from.

    >>> from diptych.methods.store import load
    >>> model = load("runs/denoiser")  # doctest: +SKIP
    >>> model.match(["dog.jpg"], ["a dog on a beach"])  # doctest: +SKIP
    tensor([-0.1342])
    """

    validation = Validation("denoising", ("explained", "error"))
    draws: int = DRAWS

    def __init__(self, delivered: Any, tokenizer: Tokenizer, *, name: str):
        self.delivered: Any = delivered
        self.diffusion: Diffusion = delivered
        self.tokenizer = tokenizer
        self.preprocess = self.diffusion.preprocess
        self.name = name

    @property
    def device(self) -> torch.device:
        return self.diffusion.kept.device

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device."""
        self.delivered.to(device)
        return self

    @property
    def identity(self) -> str:
        """SHA-256 of the weights."""
        return bytes(checksum(self.delivered).tolist()).hex()

    def match(
        self, images: ImagesLike, texts: Sequence[str], *, batch_size: int = 64, exact: bool = False
    ) -> Tensor:
        """How well text i fits image i (N,): minus `noise_error`."""
        return -self.noise_error(images, texts, batch_size=batch_size, exact=exact)

    def noise_error(
        self, images: ImagesLike, texts: Sequence[str], *, batch_size: int = 64, exact: bool = False
    ) -> Tensor:
        """The mean squared error (N,) of the noise that is predicted of image i, given text i, over
        the same `draws` of time and noise for all.

        Raises InputError unless there is a text for each image, and for pixels that are not uint8.
        """
        if isinstance(images, Tensor) and images.is_floating_point():
            raise InputError(f"{self.name} takes pixels as uint8, got {images.dtype}; convert them")
        batches, count = pixel_batches(images, self.preprocess, batch_size, exact)
        if count != len(texts):
            raise InputError(f"{count} images have {len(texts)} texts; give one for each image")
        found = [torch.empty(0)]
        done = 0
        with evaluating(self.delivered), torch.inference_mode():
            for (pixels,) in batches:
                own = list(texts[done : done + len(pixels)])
                done += len(pixels)
                latents = self.diffusion.latents(pixels.to(self.device))
                errors = mean_errors(self.diffusion, latents, *self._rows(own), self.draws)
                found.append(errors.float().cpu())
        return torch.cat(found).clone()

    def draw(
        self,
        name: str,
        count: int = 1,
        *,
        words: str = "",
        guidance: float = 3.0,
        steps: int = 50,
        seed: int = 0,
    ) -> list[Image.Image]:
        """Draw images of a text, `name` with further `words`.

        Raises InputError for numbers that are out of range.
        """
        check_drawing(count, steps, guidance)
        with evaluating(self.delivered), torch.inference_mode():
            rows, mask = self._rows([f"{name} {words}".strip()])
            empty, there = self._rows([""])
            latents = sampled(
                self.diffusion,
                self.diffusion.shape,
                self.diffusion.kept,
                rows.expand(count, -1, -1),
                mask.expand(count, -1),
                empty[there],
                guidance=guidance,
                steps=steps,
                generator=torch.Generator().manual_seed(seed),
                bound=self.diffusion.bound,
            )
            return to_images(self.diffusion.pixels(latents))

    def _rows(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        ids, lengths = pad_batch(self.tokenizer.encode(texts), self.tokenizer)
        return self.diffusion.rows(ids.to(self.device), lengths.to(self.device))


def shared_noise(diffusion: Diffusion, z: Tensor, draws: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield noises (B, *shape) and times (B,) for latents z (B, *shape): the same for all B and at
    every call, each time in another of `draws` equal parts of all."""
    rng = generator(0, "noise")
    steps = len(diffusion.kept)
    for draw in range(draws):
        time = int((draw + rng.uniform()) * steps / draws)
        noise = torch.from_numpy(rng.standard_normal(diffusion.shape, dtype=np.float32))
        yield noise.to(z).expand_as(z), torch.full((len(z),), time, device=z.device)


def mean_errors(diffusion: Diffusion, z: Tensor, rows: Tensor, mask: Tensor, draws: int) -> Tensor:
    """Return the mean squared error (B,) of the noise predicted of latents z (B, *shape), over
    `draws` of `shared_noise`."""
    errors = [
        noise_errors(diffusion, z, noise, time, rows, mask)
        for noise, time in shared_noise(diffusion, z, draws)
    ]
    return torch.stack(errors).mean(0)


def check_drawing(count: int, steps: int, guidance: float) -> None:
    """Raise InputError for numbers with which nothing can be drawn."""
    if count < 1 or steps < 1 or guidance < 0:
        raise InputError(
            f"{count} images in {steps} steps with guidance {guidance:g} are none; give 1 or more "
            "images and steps, and a guidance of 0 or more"
        )


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Images (B, 3, H, W) in [-1, 1] as images of Pillow.

    >>> to_images(torch.zeros(1, 3, 4, 6))[0].size
    (6, 4)
    """
    values = ((pixels.cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in values]
