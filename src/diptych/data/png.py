"""Images to PNG files."""

import io

from PIL import Image


def png_of(image: Image.Image) -> bytes:
    """Return the image as a PNG file, at zlib's level 1, which is fast and little larger than the default.

    >>> png_of(Image.new("L", (2, 1)))[:4]
    b'\\x89PNG'
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
