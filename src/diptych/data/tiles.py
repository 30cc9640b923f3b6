"""Small images of equal size in one image file, which is decoded once per process."""

from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from diptych.data.decode import decode
from diptych.data.images import FileImage
from diptych.data.png import png_of


@lru_cache(maxsize=4)
def _whole(path: str) -> Image.Image:
    return decode(FileImage(path).read())


@dataclass(frozen=True, slots=True)
class TileImage:
    """The tile `index` of the image file `path`: tiles of `side` pixels, `columns` to a row."""

    path: str
    index: int
    side: int
    columns: int

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The tile as RGB, or RGBA if the file has transparency; raises BadSample as the file
        does."""
        x = self.index % self.columns * self.side
        y = self.index // self.columns * self.side
        return _whole(self.path).crop((x, y, x + self.side, y + self.side))

    def read(self) -> bytes:
        """The tile as a PNG file."""
        return png_of(self.decode())
