"""What CoCu delivers: a dual encoder whose image tower groups patches, and which names its segments.

    p_g = softmax over classes of s <u_g, t_c>,    q_g = the same over the classes that fit the image best
    score(g, c) = q_gc p_gc,                       score(pixel, c) = that of the segment that has the pixel

u_g are the unit vectors of the segments, t_c those of the classes, and s is the learned scale. The
shares of patches that segments have are scaled up to the pixels, and each pixel is in the segment of the
largest one. With a class called background, pixels whose best score is below a threshold are of it.

Dimensions: B images, S segments, C classes, E embedding, h x w patches, H x W pixels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.sample import EncodedImage
from diptych.data.tokenizers import Tokenizer
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.methods.dense.cocu.groupvit import GroupViT
from diptych.models.delivered import Delivered
from diptych.models.dense import GROUND
from diptych.models.mode import evaluating
from diptych.models.model import Model
from diptych.models.pixels import ImagesLike
from diptych.models.windows import by_windows
from diptych.towers.dual import DualEncoder

WINDOW = 2
"""The side of a window that slides over an image, over that of the images of training; its step is
half of it."""


class Grouped(Delivered):
    """A dual encoder on a tower that groups patches. `best` is the number of classes that fit an image
    best, to which the scores of its segments are limited, `background` the score below which a pixel
    is of the background."""

    def __init__(self, encoder: DualEncoder, best: int, background: float):
        super().__init__()
        self.encoder = encoder
        self.best = best
        self.background = background

    @property
    def image(self) -> GroupViT:
        """The image tower."""
        return self.encoder.image  # type: ignore[return-value]  # the method refuses others

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:
        assert preprocess is not None, "the encoder has an image tower"
        return GroupedModel(self.encoder, tokenizer, preprocess, name=name, delivered=self)


class Scored(NamedTuple):
    """The scores of segments (B, S, C), which of them are foreground (B, S), and the number of the
    segment of each pixel (B, H, W)."""

    scores: Tensor
    foreground: Tensor
    segment: Tensor


class GroupedModel(Model):
    """Embeds images and texts, and segments images by any classes. `best` and `background` can be
    changed."""

    delivered: Grouped
    segments_by = "groups"

    def __init__(self, *parts: Any, **named: Any):
        super().__init__(*parts, **named)
        self.best = self.delivered.best
        self.background = self.delivered.background

    @property
    def segment_options(self) -> tuple[str, ...]:
        """What the segments' names depend on beside the weights."""
        return f"best={self.best}", f"background={self.background:g}"

    def segment(
        self,
        images: ImagesLike,
        *,
        batch_size: int = 64,
        exact: bool = False,
        route: str = "tokens",
    ) -> Tensor:
        """The class of each pixel of preprocessed images (N, H, W), int64: its number among the
        classes that were set, of which one called background is that of what fits no other.

        `images` and errors are those of `embed_images`; InputError also without classes, and for a
        `route`.
        """
        given: dict[str, Any] = {"batch_size": batch_size, "exact": exact, "route": route}
        return self.segment_by(images, self._named(), self._class_vectors, **given)

    def segment_by(
        self,
        images: ImagesLike,
        names: Sequence[str],
        classes: Tensor,
        *,
        batch_size: int = 64,
        exact: bool = False,
        route: str = "tokens",
    ) -> Tensor:
        """`segment` by other classes than those that were set, with their unit vectors (C, E)."""
        if route != "tokens":
            raise InputError(
                f"{self.name} names the segments of its own tower, which has no route {route!r}; leave it out"
            )
        numbers, vectors = self._foreground(names, classes)
        ground = names.index(GROUND) if GROUND in names else None
        batches, count = self._batches(images, batch_size, exact)
        if not count:
            raise InputError(f"{self.name} has no image to segment; give one at least")
        shape = self.preprocess.shape[-2:]
        found = []
        with evaluating(self.delivered), torch.inference_mode():
            for (pixels,) in batches:
                scored = self._scored(pixels, vectors, shape)
                labels = numbers[scored.scores.argmax(-1)]
                if ground is not None:
                    labels = torch.where(scored.foreground, labels, ground)
                found.append(labels.gather(1, scored.segment.flatten(1)).unflatten(1, shape).cpu())
        return torch.cat(found).clone()

    def segment_whole(self, image: EncodedImage, *, batch_size: int = 16) -> Tensor:
        """The class of each pixel of a whole image (H, W), int64, by windows that slide over it
        (`models.windows`), of twice the side of the images of training, half of that apart.

        The scores of pixels that are in several windows are averaged. Those of the background are 1
        where a window finds it, and all others are 0 there. Raises BadSample as the image does, and
        InputError without classes.
        """
        names = self._named()
        numbers, vectors = self._foreground(names, self._class_vectors)
        ground = names.index(GROUND) if GROUND in names else None
        side = WINDOW * self.preprocess.side

        def scores(windows: Tensor) -> Tensor:
            scored = self._scored(windows, vectors, (side, side))
            own = scored.scores.new_zeros(*scored.scores.shape[:2], len(names))
            own[..., numbers] = scored.scores
            if ground is not None:
                own *= scored.foreground[..., None]
                own[..., ground] = (~scored.foreground).to(own)
            where = scored.segment.flatten(1)[..., None].expand(-1, -1, len(names))
            return own.gather(1, where).mT.unflatten(2, (side, side)).cpu()

        with evaluating(self.delivered), torch.inference_mode():
            return by_windows(
                image,
                scores,
                len(names),
                side=side,
                step=side // 2,
                ground=self.preprocess.ground,
                batch_size=batch_size,
            )

    def _named(self) -> tuple[str, ...]:
        if not self.classes:
            raise InputError(
                f"{self.name} knows no classes; name them first, with set_classes or --names"
            )
        return self.classes

    def _foreground(self, names: Sequence[str], classes: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers and the vectors of the classes but the background."""
        numbers = [at for at, name in enumerate(names) if name != GROUND]
        if not numbers:
            raise InputError(
                f"{self.name} names no segment by the background alone; name another class at least"
            )
        kept = torch.tensor(numbers)
        return kept.to(self.device), classes[kept].to(self.device)

    def _scored(self, pixels: Tensor, classes: Tensor, shape: tuple[int, ...]) -> Scored:
        """The segments of images (B, 3, h, w), and their scores with classes (C, E)."""
        encoder = self.encoder
        tokens, shares = self.delivered.image.segments(pixels.to(self.device))
        groups = F.normalize(at_least_float32(encoder.project_image(tokens)), dim=-1)
        image = F.normalize(at_least_float32(encoder.project_image(tokens.mean(1))), dim=-1)
        scale = float(encoder.logit_scale())
        scores = segment_scores(groups, image, classes.to(groups), scale, self.best)
        large = F.interpolate(at_least_float32(shares), shape, mode="bilinear", align_corners=False)
        return Scored(scores, is_foreground(scores, self.background), large.argmax(1))


def segment_scores(
    groups: Tensor, image: Tensor, classes: Tensor, scale: float, best: int
) -> Tensor:
    """The scores (B, S, C) of segments with classes: unit vectors of segments (B, S, E), images (B, E)
    and classes (C, E).

        a = scale · <u_g, t_c>,    softmax(a) · softmax(a of the `best` classes by the image's vector)

    >>> classes = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> u = torch.tensor([[2.0, 1, 0]])
    >>> segment_scores(u[None], u, classes, 1.0, 3)
    tensor([[[0.4425, 0.0599, 0.0081]]])
    >>> segment_scores(u[None], u, classes, 1.0, 2)
    tensor([[[0.4863, 0.0658, 0.0000]]])
    """
    logits = scale * groups @ classes.mT
    whole = image @ classes.mT
    kept = whole.topk(min(best, len(classes)), dim=-1).indices
    left_out = torch.full_like(whole, -torch.inf).scatter(-1, kept, 0.0)
    return logits.softmax(-1) * (logits + left_out[:, None]).softmax(-1)


def is_foreground(scores: Tensor, threshold: float) -> Tensor:
    """Which segments (B, S) are no background: those whose best score (of (B, S, C)) is not below the
    threshold, or below the best of the image if that is lower.

    >>> is_foreground(torch.tensor([[[0.2, 0.6], [0.1, 0.3]]]), 0.5)
    tensor([[ True, False]])
    >>> is_foreground(torch.tensor([[[0.2, 0.6], [0.1, 0.3]]]), 0.95)
    tensor([[ True, False]])
    """
    largest = scores.amax(-1)
    return largest >= largest.amax(-1, keepdim=True).clamp(max=threshold)
