"""Small versions of the images of a source, for the page."""

import io
from threading import BoundedSemaphore, Lock

from PIL import Image

from diptych.data.sample import BadSample, EncodedImage, Sample, Source
from diptych.data.sources import open_source
from diptych.embeddings.hits import fitted
from diptych.errors import InputError
from diptych.serve.encoder import Recent
from diptych.serve.limits import Refused

SIZES = (160, 320, 640, 1280)
"""The sides, in pixels, into which images are fitted."""

_CACHE = 64_000_000  # bytes of encoded images
_SMALL = 128  # an image up to this side is kept without loss: it may be pixel art


class Pictures:
    """The images of one source, by their position in it.

    An image is found by its number alone, and the source finds its file: no request holds a path.
    Raises InputError if the source cannot be opened.
    """

    def __init__(self, spec: str, decoding: BoundedSemaphore):
        self.source: Source = open_source(spec)
        self._decoding = decoding
        self._kept: Recent[tuple[bytes, str]] = Recent(_CACHE, lambda value: len(value[0]))
        self._lock = Lock()  # sources may read through one open file

    def small(
        self, position: int, key: str, size: int, box: tuple[float, ...] | None = None
    ) -> tuple[bytes, str]:
        """Return the image at a position, fitted into a square of `size` pixels or the next larger
        one of `SIZES`, with the outline of a box, as bytes with their media type.

        Raises Refused if another sample is there now than `key`, and for a damaged one.
        """
        size = min((side for side in SIZES if side >= size), default=SIZES[-1])
        kept = self._kept.get((position, size, box))
        if kept is None:
            kept = _encoded(self._picture(self.image(position, key), size, box))
            self._kept.put((position, size, box), kept)
        return kept

    def image(self, position: int, key: str, role: str = "main") -> EncodedImage:
        """Return the image of a role at a position, or the main one. Raises Refused as `small`."""
        try:
            sample = self._sample(position)
        except BadSample as error:
            raise _gone(error) from None
        if sample is None or sample.key != key:
            raise Refused(404, "the data have changed since they were embedded")
        if role not in sample.images and "main" not in sample.images:
            raise Refused(404, "this row has no image")
        return sample.images.get(role) or sample.images["main"]

    def check(self, position: int, key: str) -> None:
        """Raise InputError if another sample is at a position than when the source was embedded."""
        try:
            sample = self._sample(position)
        except BadSample as error:
            raise InputError(f"{self.source.name} cannot be read any more ({error})") from None
        if sample is None or sample.key != key:
            raise InputError(f"{self.source.name} has changed since it was embedded")

    def _sample(self, position: int) -> Sample | None:
        if position >= len(self.source):
            return None
        with self._lock:
            return self.source[position]

    def _picture(
        self, image: EncodedImage, size: int, box: tuple[float, ...] | None
    ) -> Image.Image:
        with self._decoding:
            try:
                return fitted(image, size, box)
            except BadSample as error:
                raise _gone(error) from None


def _gone(error: BadSample) -> Refused:
    return Refused(404, f"the image cannot be read any more ({error.reason})")


def _encoded(image: Image.Image) -> tuple[bytes, str]:
    data = io.BytesIO()
    if max(image.size) <= _SMALL:
        image.save(data, "PNG")
        return data.getvalue(), "image/png"
    image.save(data, "JPEG", quality=85)
    return data.getvalue(), "image/jpeg"
