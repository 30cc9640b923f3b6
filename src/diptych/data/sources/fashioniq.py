"""FashionIQ: `cap.dress.val.json` has two instructions for each pair of garments,
`split.dress.val.json` the list of all images of the category."""

import os
import re
from pathlib import Path

from diptych.data.compact import is_folder
from diptych.data.sources._files import root_of
from diptych.data.sources.records import json_of
from diptych.data.sources.triples import (
    Triple,
    TripleOptions,
    Triples,
    below,
    beside,
    entries,
)
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "fashioniq"
_ENDINGS = (".png", ".jpg", ".jpeg")


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its name, except CIRR's, which have the same form."""
    name = os.path.basename(spec.name).lower()  # noqa: PTH119  (Path may raise for long texts)
    return bool(re.fullmatch(r"cap\.(?!rc2\.)\w+\.(train|val|test)\.json", name)) and not is_folder(
        spec
    )


def open(spec: Spec) -> Triples:
    """Open `cap.TYPE.SPLIT.json[:images=FOLDER][:image_list=FILE]`.

    The default list of images is `split.TYPE.SPLIT.json` in the same folder, or in the folder
    `image_splits` next to it. An image is NAME.png or NAME.jpg.

    Raises InputError for a file of another form, a split without targets, and if list or images are
    not found.
    """
    options = configure(TripleOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    data = entries(path, json_of(path), {"candidate": str, "captions": list})
    if not any("target" in entry for entry in data):
        raise InputError(
            f"{path}: has no targets, which FashionIQ's server keeps for the test; measure on the split val"
        )
    data = entries(path, data, {"target": str})
    listing = beside(
        path, path.name.replace("cap.", "split.", 1), options.image_list, ["image_splits"]
    )
    names = json_of(listing)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{listing}: no list of images' names")
    for at, entry in enumerate(data, 1):
        if not entry["captions"] or not all(isinstance(text, str) for text in entry["captions"]):
            raise InputError(f"{path}: captions of triple {at} are {entry['captions']!r}, no texts")
    triples = [
        Triple(
            key=f"{at:05d}",
            reference=entry["candidate"],
            target=entry["target"],
            texts=tuple(entry["captions"]),
        )
        for at, entry in enumerate(data)
    ]
    root, first = root_of(
        path, [f"{names[0]}{ending}" for ending in _ENDINGS], options.images, ["images"]
    )
    paths = {name: below(listing, f"{name}{Path(first).suffix}") for name in names}
    return Triples(spec.name, root, paths, triples)
