"""Variations of the images of a source, written as the JSON that `data.sources.variations` reads.

    DIR/variations.json     one object per variation
    DIR/images/*.png        the images

What was done with each sample is appended to DIR/groups.jsonl, so that a run that was stopped goes
on with the sample it was at; the file is removed at the end.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.files import locked, whole_lines, write_atomic
from diptych.methods.abilities import require
from diptych.methods.robust.generative_negatives.variations import (
    VariationGenerator,
    image_variation_area,
)

FILE = "variations.json"
_JOURNAL = "groups.jsonl"


@dataclass(kw_only=True)
class Varied:
    """What `vary` has written: numbers of variations and of groups, and of what was left out by
    reason."""

    variations: int = 0
    groups: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def vary(
    source: Source,
    generator: VariationGenerator,
    model: Any,
    folder: Path,
    *,
    count: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Varied:
    """Write `count` variations of each item of each sample, with the match of their captions by
    `model` (its `match`, or the cosine of its embeddings), and their area.

    Samples that cannot be read or have no item, and items with fewer than two variations, are left
    out and counted in `dropped`. Raises InputError if `folder` holds variations, or what a run with
    other settings has begun.
    """
    if not hasattr(model, "match"):
        for ability in ("embed_images", "embed_texts"):
            require(model, ability, "diptych data vary")
    if (folder / FILE).exists():
        raise InputError(f"{folder / FILE} exists; name another folder, or remove it")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    settings = {
        "source": source.name,
        "by": generator.name,
        "model": model.name,
        "count": count,
    }
    with locked(folder, f"another run writes to {folder}; wait for it, or name another folder"):
        done = _begun(folder / _JOURNAL, settings)
        with (folder / _JOURNAL).open("a", encoding="utf-8") as file:
            for index in range(len(done), len(source)):
                done.append(_of_sample(source, index, generator, model, folder, count))
                file.write(json.dumps(done[-1]) + "\n")
                file.flush()
                if progress is not None:
                    progress(index + 1, len(source))
        return _finished(folder, done)


def _begun(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a stopped run has done with each sample; begins the journal if there is none."""
    lines = whole_lines(path)
    if not lines:
        write_atomic(path, lambda at: at.write_text(json.dumps(settings) + "\n", "utf-8"))
        return []
    if json.loads(lines[0]) != settings:
        raise InputError(
            f"{path.parent} holds variations of other settings ({lines[0].strip()}); name another folder"
        )
    return [json.loads(line) for line in lines[1:]]


def _of_sample(
    source: Source,
    index: int,
    generator: VariationGenerator,
    model: Any,
    folder: Path,
    count: int,
) -> dict[str, Any]:
    """Write the images of a sample's variations; returns their rows, and reasons of what is left
    out."""
    dropped: Counter[str] = Counter()
    rows = []
    try:
        sample = source[index]
        items = generator.items(sample)
        if not items:
            dropped["no item"] += 1
        for number, item in enumerate(items):
            found = generator(sample, item, count)
            if len(found) < 2:
                dropped["fewer than two variations"] += 1
                continue
            rows += _rows(sample, item, found, model, folder / "images", f"{index:06d}-{number}")
    except BadSample as error:
        dropped[error.reason] += 1
    return {"rows": rows, "dropped": dropped}


def _rows(
    sample: Sample, item: str, found: Sequence[Sample], model: Any, folder: Path, name: str
) -> list[dict[str, Any]]:
    """Write the images of a group; returns its rows."""
    images = [variation.images["main"].decode().convert("RGB") for variation in found]
    area = image_variation_area(np.stack([np.asarray(image) for image in images]))
    captions = [variation.captions() for variation in found]
    matches = _matches(model, images, captions)
    rows = []
    for number, (variation, image) in enumerate(zip(found, images, strict=True)):
        path = folder / f"{name}-{number}.png"
        write_atomic(path, lambda at, image=image: image.save(at, "PNG"))
        [short] = variation.captions("short")
        [desc] = variation.captions("desc")
        rows.append(
            {
                "name": f"{folder.name}/{path.name}",
                "origin_name": sample.key,
                "item": item,
                "source": getattr(sample.images["main"], "path", sample.key),
                "captions": captions[number],
                "itm_score": matches[number],
                "iva_score": area,
                "short": short,
                "desc": desc,
            }
        )
    return rows


def _matches(
    model: Any, images: Sequence[Any], captions: Sequence[Sequence[str]]
) -> list[list[float]]:
    """How well each caption matches its image."""
    texts = [text for own in captions for text in own]
    owner = [number for number, own in enumerate(captions) for _ in own]
    if hasattr(model, "match"):
        scores = model.match([images[number] for number in owner], texts)
    else:
        scores = (model.embed_images(images)[owner] * model.embed_texts(texts)).sum(1)
    return [part.tolist() for part in scores.split([len(own) for own in captions])]


def _finished(folder: Path, done: Sequence[Mapping[str, Any]]) -> Varied:
    """Write the list of variations in place of the journal."""
    rows = [row for sample in done for row in sample["rows"]]
    found = Varied(
        variations=len(rows), groups=len({(row["origin_name"], row["item"]) for row in rows})
    )
    for sample in done:
        found.dropped.update(sample["dropped"])
    if not rows:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in found.dropped.items())
        raise InputError(f"no sample could be varied ({reasons}); name data with other items")
    write_atomic(folder / FILE, lambda at: at.write_text(json.dumps(rows, indent=1), "utf-8"))
    (folder / _JOURNAL).unlink()
    return found
