"""A loaded model that answers the requests of many threads."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from diptych.data.clips import Clip, stacked
from diptych.data.decode import dimensions
from diptych.data.images import BytesImage
from diptych.data.sample import BadSample, EncodedImage
from diptych.data.templates import templates as bank
from diptych.data.video import video_form, video_size
from diptych.data.volume_files import is_volume
from diptych.errors import InputError, shortened
from diptych.inference.classify import likeliest
from diptych.models.adapted import TrainedClassesModel
from diptych.serve.batched import Batched
from diptych.serve.limits import Limits, Refused

V = TypeVar("V")

VIDEO_FACTOR = 20
"""How many times the pixels of an image all frames of an uploaded video may have."""

_REMEMBERED = 4096  # vectors of texts that are kept, for paging and for repeated words


class Recent(Generic[V]):
    """Values by key, of which those that were used last are kept, up to a total size."""

    def __init__(self, most: int, size: Callable[[V], int] = lambda value: 1):
        self._most = most
        self._size = size
        self._total = 0
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> V | None:
        """Return the value of a key, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: V) -> None:
        """Keep a value, in place of those that were not used for longest."""
        with self._lock:
            old = self._values.pop(key, None)
            self._total += self._size(value) - (0 if old is None else self._size(old))
            self._values[key] = value
            while self._total > self._most:
                self._total -= self._size(self._values.popitem(last=False)[1])


class Encoder:
    """A model with what many requests share: batches, remembered vectors, and a limit on the images
    that are decoded at once.

    Texts that arrive together are embedded in one batch, and so are images. The model is used by
    one thread at a time.
    """

    def __init__(self, model: Any, limits: Limits):
        self.model = model
        self.limits = limits
        self.reads_texts = hasattr(model, "embed_texts") and getattr(model, "reads_texts", True)
        self.reads_images = hasattr(model, "embed_images") and hasattr(model, "preprocess")
        self.names_images = self.reads_images and hasattr(model, "class_logits")
        self.of_texts = Batched(self._embed_texts)
        self.of_images = Batched(self._embed_images)
        self._vectors: Recent[Tensor] = Recent(_REMEMBERED)
        self._lock = Lock()
        self._decoding = BoundedSemaphore(limits.decoders)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return the unit vectors (N, E) of texts. Raises Refused if the model reads none."""
        if not self.reads_texts:
            raise Refused(422, "the model of this collection reads no texts; search by an image")
        found = {text: self._vectors.get(text) for text in texts}
        new = [text for text, vector in found.items() if vector is None]
        for text, vector in zip(new, self.of_texts.ask(new, self.limits.seconds), strict=True):
            self._vectors.put(text, vector)
            found[text] = vector
        return torch.stack([vector for text in texts if (vector := found[text]) is not None])

    def images(self, pixels: Sequence[Tensor]) -> Tensor:
        """Return the unit vectors (N, E) of images that `read` or `pixels` returned."""
        return torch.stack(self.of_images.ask(pixels, self.limits.seconds))

    def read(self, data: bytes, *, exact: bool) -> Tensor:
        """Decode and preprocess an uploaded image or video, guarded as in training.

        Raises Refused for what is neither, for more pixels than `Limits.pixels` by its header, of a
        video `VIDEO_FACTOR` times as many in all frames, and for volumes, whose header does not bound what
        they unpack to.
        """
        if is_volume(data):
            raise Refused(422, "a volume; upload an image file, such as JPEG or PNG")
        moves = video_form(data) is not None
        try:
            frames, width, height = video_size(data) if moves else (1, *dimensions(data))
        except BadSample as error:
            raise _unreadable(error) from None
        except InputError:
            raise Refused(422, "this server reads no videos; upload an image") from None
        most = self.limits.pixels * (VIDEO_FACTOR if moves else 1)
        if frames * width * height > most:
            what = f"video has {frames} frames of" if moves else "image has"
            raise Refused(
                422,
                f"the {what} {width} x {height} pixels, and at most {most:,} are decoded; make it smaller",
            )
        image = BytesImage(data)
        return self.pixels(Clip(image) if moves else image, exact=exact)

    def pixels(self, image: EncodedImage, *, exact: bool) -> Tensor:
        """Decode and preprocess an image. Raises Refused if it cannot be read."""
        if not self.reads_images:
            raise Refused(422, "the model of this collection reads no images; search by words")
        with self._decoding:
            try:
                return self.model.preprocess.read(image, exact=exact)
            except BadSample as error:
                raise _unreadable(error) from None

    def classify(
        self, pixels: Sequence[Tensor], names: Sequence[str], templates: Sequence[str], k: int
    ) -> list[tuple[tuple[str, float], ...]]:
        """Return the `k` likeliest of `names` for each image, with their probabilities.

        A class is the mean direction of its name in the templates, by default those of the bank
        `images`; a model that was trained on classes has prompts of its own. Raises Refused for
        names and templates that do not fit the model.
        """
        if not self.names_images:
            raise Refused(422, "the model of this collection names no images")
        own = isinstance(self.model, TrainedClassesModel)
        prompts = tuple(templates) or (() if own else bank("images"))
        with self._lock, self.errors():
            self.model.set_classes(list(names), prompts)
            logits = self.model.class_logits(stacked(pixels))
            return likeliest(logits, self.model.classes, k)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Context that turns InputError, which names a client's mistake here, into Refused, without
        the path of the model."""
        try:
            yield
        except InputError as error:
            raise Refused(422, str(error).replace(str(self.model.name), "the model")) from None

    def close(self) -> None:
        """End the threads."""
        self.of_texts.close()
        self.of_images.close()

    def _embed_texts(self, texts: list[str]) -> Sequence[Tensor]:
        with self._lock:
            return list(self.model.embed_texts(texts))

    def _embed_images(self, pixels: list[Tensor]) -> Sequence[Tensor]:
        with self._lock:
            return list(self.model.embed_images(stacked(pixels)))


def _unreadable(error: BadSample) -> Refused:
    # The detail of a file's error holds its path, that of an upload what another library said.
    why = {"bomb": "it is too large", "truncated": "it ends early", "zero-byte": "it is empty"}
    reason = why.get(error.reason, shortened(error.reason))
    return Refused(422, f"the image cannot be read ({reason}); name another one")
