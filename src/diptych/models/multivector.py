"""`MultiVectorModel`: several unit vectors of an image are compared with one of a text.

    S(x, y) = max_k <g_k(x), f(y)>

Dimensions: N images, M texts, K vectors of an image, E embedding, L tokens, C classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn, Protocol, Self

import torch
from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, by_length
from diptych.errors import InputError, Missing
from diptych.metrics import similarities
from diptych.models.class_names import class_directions
from diptych.models.delivered import Validation
from diptych.models.model import Progress, evaluating
from diptych.models.pixels import ImagesLike, pixel_batches
from diptych.towers.dual import mean_of_frames
from diptych.towers.nn.parts import checksum


class VectorsOfPairs(Protocol):
    """The module of a `MultiVectorModel`; `vectors` is K, `embed_dim` is E."""

    preprocess: Preprocess
    vectors: int
    embed_dim: int

    def embed_images(self, x: Tensor) -> Tensor:
        """Unit vectors (N, K, E) of images (N, 3, H, W), uint8 or preprocessed floats."""
        ...

    def embed_texts(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Unit vectors (M, E) of texts with ids (M, L)."""
        ...


class MultiVectorModel:
    """A model that accepts images and strings and keeps several vectors of an image; `name` is what
    it was loaded from.

    It scores images with texts and classes. As no single vector has these scores, it has no
    `embed_images`: whatever asks for it raises InputError.

    >>> import diptych
    >>> model = diptych.load("hf:Salesforce/blip2-itm-vit-g")  # doctest: +SKIP
    >>> model.similarity(model.index(["dog.jpg"]), model.embed_texts(["a dog", "a cat"])).shape  # doctest: +SKIP
    torch.Size([1, 2])
    """

    validation = Validation("retrieval", ("i2t_", "t2i_"))
    shares = (1.0,)
    classes: tuple[str, ...] = ()  # what `class_logits` chooses from

    def __init__(self, delivered: nn.Module, tokenizer: Tokenizer | None, *, name: str):
        self.delivered = delivered
        self.pair: VectorsOfPairs = delivered  # type: ignore[assignment]  # the same, by what it computes
        self.tokenizer = tokenizer
        self.preprocess = self.pair.preprocess
        self.name = name

    @property
    def embed_images(self) -> NoReturn:
        raise Missing(
            f"{self.name} keeps {self.pair.vectors} vectors of an image and not one embedding; score images with "
            "texts: diptych classify, search, or evaluate with --suite retrieval, zeroshot or --by match"
        )

    @property
    def vectors(self) -> int:
        """The number K of vectors of an image."""
        return self.pair.vectors

    @property
    def reads_texts(self) -> bool:
        """Whether `embed_texts` can be called: the model came with a tokenizer."""
        return self.tokenizer is not None

    @property
    def device(self) -> torch.device:
        return next(self.delivered.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device."""
        self.delivered.to(device)
        return self

    @property
    def identity(self) -> str:
        """SHA-256 of the weights."""
        return bytes(checksum(self.delivered).tolist()).hex()

    def index(
        self,
        images: ImagesLike,
        *,
        batch_size: int = 64,
        exact: bool = False,
        progress: Progress | None = None,
    ) -> Tensor:
        """Return the index of images: unit vectors (N, K, E), float32, on the CPU.

        `images` and errors are those of `Model.embed_images`; of a clip each vector is the unit mean
        of those of its frames.
        """
        batches, count = self._batches(images, batch_size, exact, clips=True)
        none = torch.empty(0, self.pair.vectors, self.pair.embed_dim)

        def embed(x: Tensor) -> Tensor:
            if x.ndim == 4:
                return self.pair.embed_images(x)
            return mean_of_frames(self.pair.embed_images(x.flatten(0, 1)), x.shape[1])

        return self._computed(embed, batches, none, count, progress)

    def embed_texts(
        self, texts: str | Sequence[str], *, batch_size: int = 256, progress: Progress | None = None
    ) -> Tensor:
        """Embed texts as unit vectors (M, E), float32, on the CPU.

        Raises InputError if the model has no tokenizer.
        """
        if self.tokenizer is None:
            raise InputError(
                f"{self.name} came without a tokenizer and cannot embed text; load it from a folder that "
                "holds its tokenizer files"
            )
        rows = self.tokenizer.encode([texts] if isinstance(texts, str) else texts)
        batches, places = by_length(rows, self.tokenizer, batch_size)
        none = torch.empty(0, self.pair.embed_dim)
        return self._computed(self.pair.embed_texts, batches, none, len(rows), progress)[places]

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """The largest cosine (N, M) of the vectors of an image (N, K, E) with a text (M, E)."""
        return similarities(images, texts)

    def match(
        self, images: ImagesLike, texts: Sequence[str], *, batch_size: int = 64, exact: bool = False
    ) -> Tensor:
        """The similarity (N,) of image i with text i.

        Raises InputError unless there is a text for each image.
        """
        index = self.index(images, batch_size=batch_size, exact=exact)
        if len(index) != len(texts):
            raise InputError(
                f"{len(index)} images have {len(texts)} texts; give one for each image"
            )
        return (index @ self.embed_texts(texts)[:, :, None]).amax((1, 2))

    def set_classes(
        self,
        names: Sequence[str],
        templates: Sequence[str] = ("{}",),
        *,
        text_embeddings: Tensor | None = None,
        batch_size: int = 256,
    ) -> None:
        """Set the classes of `class_logits`, as `Model.set_classes` does."""
        self.classes, self._class_vectors = class_directions(
            self, names, templates, text_embeddings, self.pair.embed_dim, batch_size
        )

    def class_logits(
        self,
        images: ImagesLike,
        *,
        batch_size: int = 64,
        exact: bool = False,
        progress: Progress | None = None,
    ) -> Tensor:
        """The similarities (N, C) of images with the classes that were set, without a scale.

        `images` and errors are those of `index`; InputError also if no classes were set.
        """
        if not self.classes:
            raise InputError(
                f"{self.name} knows no classes; name them first, with set_classes or --names"
            )
        index = self.index(images, batch_size=batch_size, exact=exact, progress=progress)
        return self.similarity(index, self._class_vectors)

    def _batches(
        self, images: ImagesLike, batch_size: int, exact: bool, clips: bool = False
    ) -> tuple[Iterator[tuple[Tensor]], int]:
        """Batches of pixels, and the number of images."""
        return pixel_batches(images, self.preprocess, batch_size, exact, clips)

    def _computed(
        self,
        compute: Callable[..., Tensor],
        batches: Iterable[tuple[Tensor, ...]],
        none: Tensor,
        count: int,
        progress: Progress | None,
    ) -> Tensor:
        """What is computed of all batches, after the empty `none`."""
        found = [none]
        done = 0
        with evaluating(self.delivered), torch.inference_mode():
            for batch in batches:
                found.append(compute(*(part.to(self.device) for part in batch)).float().cpu())
                done += len(found[-1])
                if progress:
                    progress(done, count)
        return torch.cat(found).clone()
