"""AGD20K (`AGD20K/Seen/`, `AGD20K/Unseen/`): photographs of people who use things, and of things alone
with a map of where each verb belongs.

    trainset/exocentric/VERB/THING/*.jpg      in use                 split=train (the default)
    trainset/egocentric/VERB/THING/*.jpg      things alone           split=train:view=egocentric
    testset/egocentric/VERB/THING/*.jpg       things alone           split=test
    testset/GT/VERB/THING/*.png               their maps, as `masks.heat`

Source: Luo et al. 2022. Its folders name the labels `verb` and `object`; underscores are spaces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from diptych.data.compact import Strings, is_folder
from diptych.data.images import IMAGES, FileImage
from diptych.data.sample import BadSample, Field, Sample, Schema, Text
from diptych.data.templates import written
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "agd20k"
_IN_USE = Path("trainset") / "exocentric"
_TESTED = Path("testset") / "egocentric"
_MAPS = Path("testset") / "GT"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with the photographs of one split of the data."""
    return is_folder(spec) and any((Path(spec.name) / part).is_dir() for part in (_IN_USE, _TESTED))


@dataclass(frozen=True, kw_only=True)
class AGD20KOptions:
    """Options: `split` is train or test, `view` exocentric (in use) or egocentric (alone)."""

    split: Literal["train", "test"] = "train"
    view: Literal["exocentric", "egocentric"] | None = None


def open(spec: Spec) -> "AGD20K":
    """Open `FOLDER[:split=test]`. Raises InputError for a part that is not there."""
    options = configure(AGD20KOptions, spec.options, f"source {spec.name!r}")
    tested = options.split == "test"
    view = options.view or ("egocentric" if tested else "exocentric")
    return AGD20K(Path(spec.name), Path(f"{options.split}set") / view, tested)


class AGD20K:
    """The photographs of a part, sorted by verb, thing and file; the path is the key.

    With `maps` each has `masks.heat`; reading one whose map is not there raises BadSample("missing").
    """

    def __init__(self, root: Path, part: Path, maps: bool):
        self.name = str(root)
        self.root = root
        self.part = part
        self.maps = maps
        if not (root / part).is_dir():
            raise InputError(f"{root} has no folder {part}; fetch it, or choose another split")
        found = sorted(
            path.relative_to(root / part)
            for path in (root / part).glob("*/*/*")
            if path.suffix.lower().lstrip(".") in IMAGES
        )
        if not found:
            raise InputError(
                f"{root / part} has no images in folders VERB/THING; fetch it again, or name another folder"
            )
        self._paths = Strings([str(path) for path in found])
        verbs = [path.parts[0] for path in found]
        things = [path.parts[1] for path in found]
        self._verbs, self._verb = np.unique(verbs, return_inverse=True)
        self._things, self._thing = np.unique(things, return_inverse=True)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        path = Path(self._paths[index])
        masks = {}
        if self.maps:
            place = (self.root / _MAPS / path).with_suffix(".png")
            if not place.is_file():
                raise BadSample("missing", f"{path} has no map {place}")
            masks["heat"] = FileImage(str(place))
        return Sample(
            key=str(path),
            source=self.name,
            images={"main": FileImage(str(self.root / self.part / path))},
            texts=[Text(text=written(path.parts[0]), role="verb")],
            labels={"verb": int(self._verb[index]), "object": int(self._thing[index])},
            masks=masks,
        )

    def keys(self) -> Sequence[str]:
        """The paths below the part."""
        return self._paths

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,)."""
        return self._verb if name == "verb" else self._thing

    def schema(self) -> Schema:
        """Photographs, verbs, both labels, and maps if there are some."""
        verbs, things = (
            tuple(written(str(name)) for name in names) for names in (self._verbs, self._things)
        )
        return {
            "images.main": Field(kind="image"),
            "texts.verb": Field(kind="text"),
            "labels.verb": Field(kind="int", classes=verbs),
            "labels.object": Field(kind="int", classes=things),
            **({"masks.heat": Field(kind="mask")} if self.maps else {}),
        }
