"""Open-I, the collection of Indiana University: radiographs and their reports in XML.

    NLMCXR/ecgen-radiology/1.xml                 AbstractText with Label="FINDINGS", "IMPRESSION", …
    NLMCXR/NLMCXR_png/CXR1_1_IM-0001-3001.png    the images that its parentImage elements name

Findings and impression are texts of these roles; other sections are left out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.sample import EncodedImage, Field, Sample, Schema, Text
from diptych.data.sources._files import inside
from diptych.data.sources._sections import ROLES
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "open-i"
_REPORTS = "ecgen-radiology"
_IMAGES = ("NLMCXR_png", "images", "")


@dataclass(frozen=True, kw_only=True)
class OpenIOptions:
    """Options of the folder: `images` is the folder of the images; `each` says whether a sample is
    an image, or a report, which has its first image if it has any."""

    images: str | None = None
    each: Literal["image", "report"] = "image"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with, or named, ecgen-radiology."""
    path = Path(spec.name)
    return is_folder(spec) and (path.name == _REPORTS or (path / _REPORTS).is_dir())


def open(spec: Spec) -> "OpenI":
    """Open `FOLDER[:images=FOLDER][:each=report]`. Raises InputError for a folder without reports, and
    without the first image."""
    options = configure(OpenIOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    folder = path if path.name == _REPORTS else path / _REPORTS
    damage: dict[str, str] = {}
    rows: list[tuple[str, dict[str, str], str]] = []
    for file in sorted(folder.glob("*.xml"), key=lambda each: (len(each.name), each.name)):
        read = _read(file)
        if isinstance(read, str):
            damage[str(file)] = read
            continue
        said, names = read
        if options.each == "report":
            rows.append((file.stem, said, names[0] if names else ""))
        else:
            rows += [(name, said, name) for name in names]
    if not rows:
        raise InputError(
            f"{folder}: none of its .xml files is a report with findings or an impression, and an "
            "image; compare them with Open-I's own"
        )
    first = next((name for _, _, name in rows if name), "")
    return OpenI(spec.name, _root(folder, first, options.images), rows, damage)


def _read(file: Path) -> tuple[dict[str, str], list[str]] | str:
    """The sections of a report and the ids of its images, or why it cannot be read."""
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError):
        return "xml"
    said = {}
    for part in root.iter("AbstractText"):
        role = part.get("Label", "").lower()
        text = " ".join("".join(part.itertext()).split())
        if role in ROLES and text:
            said[role] = text
    names = [part.get("id", "") for part in root.iter("parentImage")]
    if not all(map(inside, names)):
        return "columns"
    return (said, names) if said else "no-sections"


def _root(folder: Path, first: str, given: str | None) -> str:
    """The folder of the images."""
    places = [folder.parent / name for name in _IMAGES] if given is None else [Path(given)]
    for place in places:
        if first and (place / f"{first}.png").is_file():
            return str(place)
    if not first:
        return str(places[0])
    raise InputError(
        f"{folder}: its first image, {first}.png, is not in {places[0]}; name the folder with :images=FOLDER"
    )


class OpenI:
    """One sample for each image of each report, or for each report, in the order of their numbers.
    Reports that cannot be read, or that have no section, are counted in `damage`."""

    def __init__(
        self,
        name: str,
        root: str,
        rows: Sequence[tuple[str, Mapping[str, str], str]],
        damage: Mapping[str, str],
    ):
        self.name = name
        self.root = root
        self.damage = dict(damage)
        self._keys = Strings(key for key, _, _ in rows)
        self._texts = Strings(json.dumps(said) for _, said, _ in rows)
        self._images = Strings(image for _, _, image in rows)
        self._whole = all(image for _, _, image in rows)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        image = self._images[index]
        images: dict[str, EncodedImage] = {}
        if image:
            images["main"] = FileImage(str(Path(self.root, f"{image}.png")))
        said = json.loads(self._texts[index])
        return Sample(
            key=self._keys[index],
            source=self.name,
            images=images,
            texts=[Text(text=text, role=role) for role, text in said.items()],
        )

    def keys(self) -> Sequence[str]:
        """The ids of the images, or the numbers of the reports."""
        return self._keys

    def schema(self) -> Schema:
        """Images, findings and impression."""
        texts = {f"texts.{role}": Field(kind="text", optional=True) for role in ROLES}
        return {"images.main": Field(kind="image", optional=not self._whole)} | texts
