"""The model that a trained segmentor is for images: the class of each pixel, and the scores behind it.

Dimensions: N images, K classes, H x W pixels, h x w positions, S side of the pixels that are read.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.sample import EncodedImage
from diptych.dtypes import at_least_float32
from diptych.errors import InputError, unknown
from diptych.models.adapted import TrainedClassesModel
from diptych.models.delivered import Validation
from diptych.models.mode import evaluating
from diptych.models.model import ImagesLike
from diptych.models.windows import by_windows

STRIDE = 2 / 3
"""The step of a sliding window, of its side."""


class OfTraining:
    """The classes of a head, of which some or all can be chosen, and no others."""

    delivered: Any
    name: str
    classes: tuple[str, ...]
    _columns: list[int]

    def set_classes(
        self, names: Sequence[str], templates: Sequence[str] = (), *, batch_size: int = 256
    ) -> None:
        """Choose the classes that are found, among those of training.

        Raises InputError for others, and for templates, since the prompts are learned.
        """
        if templates:
            raise InputError(
                f"{self.name} was trained with prompts of its own; leave the templates out"
            )
        known = {name: at for at, name in enumerate(self.delivered.classes)}
        chosen = [name.strip() for name in names]
        for name in chosen:
            if name not in known:
                raise unknown(f"class that {self.name} was trained on", name, known)
        if not chosen or len(set(chosen)) < len(chosen):
            raise InputError(
                f"{len(chosen)} class names, of which {len(set(chosen))} differ; name one at least, each once"
            )
        self.classes = tuple(chosen)
        self._columns = [known[name] for name in chosen]


class SegmentorModel(OfTraining, TrainedClassesModel):
    """A model that segments images by the classes that it was trained on, or some of them.

    Image and text embeddings are those of its encoder.
    """

    segments_by = "head"

    def __init__(self, segmentor: Any, preprocess: Preprocess, *, name: str):
        super().__init__(segmentor, preprocess, name=name)
        self.validation = Validation("segment", ("miou",), {"mask": segmentor.mask})
        self._columns = list(range(len(self.classes)))

    def class_logits(self, images: ImagesLike, **options: Any) -> Tensor:
        raise InputError(
            f"{self.name} finds classes in images and names no whole image; use segment"
        )

    def segment(
        self,
        images: ImagesLike,
        *,
        batch_size: int = 64,
        exact: bool = False,
        route: str = "tokens",
        **options: Any,
    ) -> Tensor:
        """The class of each pixel of preprocessed images (N, H, W), int64: its number among `classes`.

        `images` and errors are those of `embed_images`; InputError also for a `route`, since the head
        has one of its own.
        """
        if route != "tokens":
            raise InputError(
                f"{self.name} segments by its own head, which has no route {route!r}; leave it out"
            )
        shape = self.preprocess.shape[-2:]
        return self._answers(
            lambda x, texts: self._pixels(x, texts, shape).argmax(1), images, batch_size, exact
        )

    def score_map(self, images: ImagesLike, *, batch_size: int = 64, exact: bool = False) -> Tensor:
        """The cosines (N, K, h, w) of the positions of images with `classes`, each in the context of
        the image; float32, on the CPU. `images` and errors are those of `embed_images`."""
        return self._answers(
            lambda x, texts: at_least_float32(self.delivered(x, texts)[1][:, self._columns]),
            images,
            batch_size,
            exact,
        )

    def segment_whole(self, image: EncodedImage, *, batch_size: int = 16) -> Tensor:
        """The class of each pixel of a whole image (H, W), int64, by windows that slide over it.

        The image is scaled to a short side of S pixels, and a long side of 4 S at most. Windows of
        S x S pixels, 2/3 of that apart, cover it; the logits of pixels that are in several are
        averaged. Raises BadSample as the image does.
        """
        side = self.preprocess.side
        with evaluating(self.delivered), torch.inference_mode():
            texts = self._texts()
            return by_windows(
                image,
                lambda x: self._pixels(x.to(self.device), texts, (side, side)).cpu(),
                len(self.classes),
                side=side,
                step=max(1, int(STRIDE * side)),
                ground=self.preprocess.ground,
                batch_size=batch_size,
            )

    def _texts(self) -> Tensor | None:
        """The classes before they are in the context of an image, if they have such vectors."""
        return None if self.delivered.config.context == "pre" else self.delivered.class_texts()

    def _pixels(self, x: Tensor, texts: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        """The logits (B, K, H, W) of `classes` at each pixel of a shape (H, W)."""
        logits = at_least_float32(self.delivered(x, texts)[0])[:, self._columns]
        return F.interpolate(logits, shape, mode="bilinear", align_corners=False)

    def _answers(
        self,
        answer: Callable[[Tensor, Tensor | None], Tensor],
        images: ImagesLike,
        batch_size: int,
        exact: bool,
    ) -> Tensor:
        """What `answer` gives for images (N, …), on the CPU."""
        if not self.classes:
            raise InputError(
                f"{self.name} knows no classes; train it on masks that have class names"
            )
        batches, count = self._batches(images, batch_size, exact)
        if not count:
            raise InputError(f"{self.name} has no image to segment; give one at least")
        with evaluating(self.delivered), torch.inference_mode():
            texts = self._texts()
            found = [answer(pixels.to(self.device), texts).cpu() for (pixels,) in batches]
        return torch.cat(found).clone()
