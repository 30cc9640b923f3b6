"""CIRR: `cap.rc2.val.json` has instructions on photographs in sets of six, `split.rc2.val.json`
their paths."""

import os
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

FORMAT = "cirr"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its name."""
    name = os.path.basename(spec.name).lower()  # noqa: PTH119  (Path may raise for long texts)
    return name.startswith("cap.rc2.") and name.endswith(".json") and not is_folder(spec)


def open(spec: Spec) -> Triples:
    """Open `cap.rc2.SPLIT.json[:images=FOLDER][:image_list=FILE]`.

    The default list of images is `split.rc2.SPLIT.json` in the same folder, or in the folder
    `image_splits` next to it.

    Raises InputError for a file of another form, a split without targets, and if list or images are
    not found.
    """
    options = configure(TripleOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    data = entries(
        path, json_of(path), {"pairid": int, "reference": str, "caption": str, "img_set": dict}
    )
    if not any("target_hard" in entry for entry in data):
        raise InputError(
            f"{path}: has no targets, which CIRR's server keeps for the test; measure on cap.rc2.val.json"
        )
    data = entries(path, data, {"target_hard": str})
    listing = beside(
        path, path.name.replace("cap.", "split.", 1), options.image_list, ["image_splits"]
    )
    images = json_of(listing)
    if (
        not isinstance(images, dict)
        or not images
        or not all(isinstance(each, str) for each in images.values())
    ):
        raise InputError(
            f"{listing}: no paths by name, such as {{'dev-0-0-img0': './dev/dev-0-0-img0.png', …}}"
        )
    members: dict[int, list[str]] = {}
    for at, entry in enumerate(data, 1):
        group = entry["img_set"]
        fits = (
            type(group.get("id")) is int
            and 0 <= group["id"] < 2**63
            and isinstance(group.get("members"), list)
        )
        if not fits or not all(isinstance(name, str) for name in group["members"]):
            raise InputError(
                f"{path}: img_set of triple {at} has no id with members; compare it with the published file"
            )
        members[group["id"]] = group["members"]
    triples = [
        Triple(
            key=str(entry["pairid"]),
            reference=entry["reference"],
            target=entry["target_hard"],
            texts=(entry["caption"],),
            group=entry["img_set"]["id"],
        )
        for entry in data
    ]
    paths = {name: below(listing, each) for name, each in images.items()}
    root, _ = root_of(
        path, [next(iter(paths.values()))], options.images, ["img_raw", "images_raw", "images"]
    )
    return Triples(spec.name, root, paths, triples, members)
