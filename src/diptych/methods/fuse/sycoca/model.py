"""What a run of SyCoCa delivers: a captioner that scores patches by the words of a text and
reconstructs masked ones, and the model that accepts images and strings for it.

Dimensions: B images, N images given to a model, K texts, h x w patches, P = h · w, p side of a patch,
L tokens, E embedding.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.methods.fuse.sycoca.attentive import attentive_scores, highest
from diptych.models.captioner import CaptionModel
from diptych.models.dense import patch_vectors
from diptych.models.model import ImagesLike, evaluating
from diptych.models.multimodal import ContrastiveCaptioner, MultimodalLM
from diptych.objectives.reconstruction import Target, patch_statistics, patchify, unpatchify
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.image.vit import ViT
from diptych.towers.nn.transformer import Transformer


class ImageDecoder(nn.Module):
    """Gives the pixels of an image's patches from its tokens and those of a text: blocks in which
    all tokens of the image attend to each other and to the text."""

    def __init__(self, tower: ViT, depth: int, memory_width: int):
        super().__init__()
        like = tower.config
        self.transformer = Transformer(
            like.width,
            depth,
            like.heads,
            mlp_ratio=like.mlp_ratio,
            activation=like.activation,
            eps=like.eps,
            dropout=like.dropout,
            cross=0,
            memory_width=memory_width,
        )
        self.norm = nn.LayerNorm(like.width, like.eps)
        self.head = nn.Linear(like.width, 3 * like.patch**2)
        nn.init.normal_(self.head.weight, std=like.width**-0.5)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Encoded, words: Tensor, real: Tensor) -> Tensor:
        """Pixels (B, P, 3 p²) of encoded images, by tokens (B, L, ·) of texts where `real` (B, L)."""
        x = self.transformer(image.tokens, memory=words, memory_mask=real)
        return self.head(self.norm(x[:, image.prefix :]))


class SymmetricCaptioner(ContrastiveCaptioner):
    """A contrastive captioner that scores patches by the words of a text, and with an
    `image_decoder` reconstructs masked ones.

    `mask` is the share of patches that are masked by default.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        words: Tokenizer,
        lm: MultimodalLM,
        image_decoder: ImageDecoder | None,
        *,
        mask: float,
        target: Target,
        **writing: Any,
    ):
        super().__init__(encoder, words, lm, **writing)
        self.image_decoder = image_decoder
        self.mask = mask
        self.target: Target = target

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "SymmetricCaptionModel":
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return SymmetricCaptionModel(self, tokenizer, preprocess, name=name)

    def word_vectors(self, text: Encoded, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors (B, L, E) of the tokens of texts, not normalised, and which are of words
        (B, L): neither special ones nor pads."""
        place = torch.arange(text.tokens.shape[1], device=lengths.device)
        begun = place >= len(self.words.before)
        ended = place >= lengths[:, None] - len(self.words.after)
        return self.encoder.project_text(text.tokens), begun & ~ended

    @torch.no_grad()
    def scores(self, image: Encoded, text: Encoded, lengths: Tensor) -> Tensor:
        """The scores s (B, P) of the patches of encoded images by encoded texts with lengths (B,)."""
        positions = self.encoder.position_vectors(image)
        return attentive_scores(positions, *self.word_vectors(text, lengths))

    def patches(self, pixels: Tensor) -> Tensor:
        """The normalised pixels (B, P, 3 p²) of the patches of images (B, 3, H, W)."""
        tower: Any = self.encoder.image
        return patchify(tower.pixels(pixels), tower.config.patch)

    def draw(self, patches: Tensor, masked: Tensor, text: Encoded, lengths: Tensor) -> Tensor:
        """What the image decoder gives (B, P, 3 p²) for patches (B, P, 3 p²), of which those are not
        seen that are `masked` (B, P), by encoded texts with lengths (B,)."""
        tower: Any = self.encoder.image
        # blank as well, since a stem of overlapping convolutions would carry them to their neighbours
        shown = patches.masked_fill(masked[..., None], 0)
        image = tower(unpatchify(shown, tower.config.grid, tower.config.patch), hidden=masked)
        real = torch.arange(text.tokens.shape[1], device=lengths.device) < lengths[:, None]
        assert self.image_decoder is not None
        return self.image_decoder(image, text.tokens, real)

    def reconstruct(self, pixels: Tensor, masked: Tensor, text: Encoded, lengths: Tensor) -> Tensor:
        """Images (B, 3, H, W), from 0 to 1, in which the `masked` patches are those drawn; where
        pixels were standardised, with the mean and the standard deviation of the image's own."""
        tower: Any = self.encoder.image
        patches = self.patches(pixels)
        drawn = self.draw(patches, masked, text, lengths)
        if self.target == "standardised":
            mean, deviation = patch_statistics(patches)
            drawn = drawn * deviation + mean
        whole = torch.where(masked[..., None], drawn, patches)
        images = unpatchify(whole, tower.config.grid, tower.config.patch)
        return (images * tower.std + tower.mean).clamp(0, 1)


class SymmetricCaptionModel(CaptionModel):
    """A captioner that also tells which patches a text is about, and reconstructs them from it."""

    captioner: SymmetricCaptioner

    def heat(
        self,
        images: ImagesLike,
        texts: str | Sequence[str],
        *,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """The scores s (N, K, h, w) of the patches of images by each of K texts, float32, on the CPU.

        `images` and errors are those of `Model.heat`; InputError also for an empty text.
        """
        positions, grid = patch_vectors(self, images, batch_size, exact=exact)
        with evaluating(self.captioner), torch.inference_mode():
            vectors, words = self.captioner.word_vectors(*self._encoded(_several(texts)))
        found = [
            attentive_scores(positions, at_least_float32(own).cpu(), real.cpu())
            for own, real in zip(vectors, words, strict=True)
        ]
        return torch.stack(found, dim=1).unflatten(2, grid).clone()

    def attentive_mask(
        self,
        images: ImagesLike,
        texts: str | Sequence[str],
        *,
        share: float | None = None,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """Return which patches text i is about, (N, h, w) bool: the `share` of those of image i with
        the highest scores, rounded down (None: the share masked in training).

        Errors are those of `reconstruct`.
        """
        share = self.captioner.mask if share is None else share
        found = [torch.zeros(0, 0, 0, dtype=torch.bool)]
        with evaluating(self.captioner), torch.inference_mode():
            for pixels, text, lengths in self._pairs(images, texts, batch_size, exact):
                image = self.encoder.encode_image(pixels)
                masked = highest(self.captioner.scores(image, text, lengths), share)
                assert image.grid is not None, "positions have been compared"
                found.append(masked.unflatten(1, image.grid).cpu())
        return torch.cat(found[1:] or found).clone()

    def reconstruct(
        self,
        images: ImagesLike,
        texts: str | Sequence[str],
        *,
        hidden: Tensor | None = None,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """Return images (N, 3, H, W), float32 from 0 to 1, in which the `hidden` patches (N, h, w)
        are reconstructed from the others and text i; by default those of `attentive_mask`.

        Where standardised pixels were learned, a patch gets the mean and the standard deviation of
        the image's own. Raises InputError for images that cannot be read, an empty text, a wrong
        number of texts, a mask of another shape, and a model that was trained without
        reconstruction.
        """
        if self.captioner.image_decoder is None:
            raise InputError(
                f"{self.name} was trained with reconstruction=0 and reconstructs nothing; train with another weight"
            )
        how = {"batch_size": batch_size, "exact": exact}
        hidden = self.attentive_mask(images, texts, **how) if hidden is None else hidden
        tower: Any = self.encoder.image
        wanted = (len(hidden), *tower.config.grid)
        found = [torch.zeros(0, *self.preprocess.shape)]
        start = 0
        with evaluating(self.captioner), torch.inference_mode():
            for pixels, text, lengths in self._pairs(images, texts, batch_size, exact):
                masked = hidden[start : start + len(pixels)]
                if hidden.shape != wanted or len(masked) != len(pixels):
                    raise InputError(
                        f"hidden is {tuple(hidden.shape)}; give each image a mask of {wanted[1]} x {wanted[2]} patches"
                    )
                masked = masked.flatten(1).bool().to(self.device)
                images_ = self.captioner.reconstruct(pixels, masked, text, lengths)
                found.append(at_least_float32(images_).cpu())
                start += len(pixels)
        return torch.cat(found).clone()

    def _pairs(
        self, images: ImagesLike, texts: str | Sequence[str], batch_size: int, exact: bool
    ) -> Iterator[tuple[Tensor, Encoded, Tensor]]:
        """Pixels (B, 3, H, W) with the encoded texts of the images and their lengths, batch by
        batch."""
        batches, count = self._batches(images, batch_size, exact)
        given = self._as_many(_several(texts), count, "texts")
        assert given is not None
        start = 0
        for (pixels,) in batches:
            rows = given[start : start + len(pixels)]
            yield pixels.to(self.device), *self._encoded(rows)
            start += len(pixels)

    def _encoded(self, texts: Sequence[str]) -> tuple[Encoded, Tensor]:
        """Encoded texts and their lengths."""
        for text in texts:
            if not text.strip():
                raise InputError("a text is empty; give each some words")
        words = self.captioner.words
        ids, lengths = (each.to(self.device) for each in pad_batch(words.encode(texts), words))
        return self.encoder.encode_text(ids, lengths), lengths


def _several(texts: str | Sequence[str]) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else texts
