"""Folders of images with a class mask each, in files of the same names."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from diptych.data.compact import Strings
from diptych.data.images import FileImage
from diptych.data.masks import ClassMask, Mask
from diptych.data.sample import EncodedImage, Field, Sample, Schema
from diptych.errors import InputError, unknown


class Masked:
    """One sample for each of `names`, with the mask `class`.

    `image` and `mask` are paths below `root` with {} for the name. `numbers` are the classes of the
    numbers in the masks, by default the same; `read_mask` makes a mask of a file in another form. Names
    that lack a file are counted in `damage`. Raises InputError if all do.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        names: Sequence[str],
        *,
        image: str,
        mask: str,
        classes: Sequence[str],
        numbers: Mapping[int, int] | None = None,
        read_mask: Callable[[FileImage], EncodedImage] = Mask,
    ):
        self.name = name
        self.root = str(root)
        self.image = image
        self.mask = mask
        self.classes = tuple(classes)
        self.numbers = numbers
        self.read_mask = read_mask
        self.damage = {
            each: reason
            for each in names
            for reason, path in (("no-mask", mask), ("no-image", image))  # the last one counts
            if not (root / path.format(each)).is_file()
        }
        kept = [each for each in names if each not in self.damage]
        if not kept:
            raise InputError(
                f"{root}: none of {len(names)} names has both {image.format('NAME')} and {mask.format('NAME')}; "
                "unpack the archives whole, into this folder"
            )
        self._names = Strings(kept)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[range(len(self))[index]]
        mask = self.read_mask(FileImage(str(Path(self.root, self.mask.format(name)))))
        return Sample(
            key=name,
            source=self.name,
            images={"main": FileImage(str(Path(self.root, self.image.format(name))))},
            masks={"class": mask if self.numbers is None else ClassMask(mask, self.numbers)},
        )

    def keys(self) -> Sequence[str]:
        """The names."""
        return self._names

    def schema(self) -> Schema:
        """Images with masks."""
        return {
            "images.main": Field(kind="image"),
            "masks.class": Field(kind="mask", classes=self.classes),
        }


def check_split(root: Path, splits: Sequence[str], split: str | None) -> str:
    """The split that is named. Raises InputError for none, or for one that is not among `splits`."""
    if split is None:
        raise InputError(
            f"{root}: holds the splits {', '.join(splits)}; choose one, such as :split={splits[-1]}"
        )
    if split not in splits:
        raise unknown(f"split of {root}", split, splits)
    return split
