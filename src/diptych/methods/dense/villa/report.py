"""The files that the mapping leaves in the run's folder.

    regions.jsonl   an image a line: its key, and of each region the box as shares of the image, the
                    attributes and the text
    mapping.json    counts, and where the boxes of the data say which attributes they have, precision,
                    recall and F1 of the pairs of regions and attributes

Dimensions: N images, R regions, A attributes.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.boxes import attributes_of
from diptych.data.images import size_of
from diptych.data.sample import Source
from diptych.methods.dense.villa.texts import said_in
from diptych.metrics import precision_recall_f1


def write_report(run: Any, source: Source, columns: Mapping[str, Any], method: Any) -> None:
    """Write both files of a mapping, whose `columns` are those of `ViLLA.assign`."""
    run.write("regions.jsonl", lambda path: _write_lines(path, lines(source, columns, method)))
    run.write("mapping.json", lambda path: _write_json(path, summary(source, columns, method)))


def lines(source: Source, columns: Mapping[str, Any], method: Any) -> Iterator[dict[str, Any]]:
    """The regions of each image with their attributes and texts."""
    for index, key in enumerate(source.keys()):
        sample = source[index]
        said = said_in(sample, method.config.role)
        chosen = columns["regions_sentences"][index]
        boxes = sample.arrays["regions_boxes"]
        regions = []
        for row in np.flatnonzero(sample.arrays["regions_there"]).tolist():
            held = np.flatnonzero(columns["regions_found"][index][row]).tolist()
            texts = dict.fromkeys(said[chosen[at]] for at in held)
            regions.append(
                {
                    "box": [round(float(side), 6) for side in boxes[row]],
                    "attributes": [method.names[at] for at in held],
                    "text": " . ".join(texts),
                }
            )
        yield {"key": key, "regions": regions}


def summary(source: Source, columns: Mapping[str, Any], method: Any) -> dict[str, Any]:
    """How many regions and pairs there are, and how many of the pairs are right, where that is known."""
    found = columns["regions_found"].astype(bool)
    counts = {
        "images": len(found),
        "regions": int(sum(source[at].arrays["regions_there"].sum() for at in range(len(source)))),
        "regions_with_a_text": int(columns["units"][:, :-1].sum()),
        "pairs": int(found.sum()),
        "eps": method.config.eps,
    }
    if method.config.regions != "boxes":
        return counts
    truth = np.zeros_like(found)
    classes = source.schema()["boxes"].classes
    for index in range(len(source)):
        sample = source[index]
        own = attributes_of(sample, size_of(sample.images["main"]), classes, method.matcher)
        truth[index, : len(own)] = own
    if not truth.any():
        return counts
    measured = precision_recall_f1(found, truth)
    names = ("precision", "recall", "f1")
    by_attribute = {
        name: _numbers(names, precision_recall_f1(found[..., at], truth[..., at]))
        for at, name in enumerate(method.names)
        if truth[..., at].any()
    }
    return counts | _numbers(names, measured) | {"by_attribute": by_attribute}


def _numbers(names: tuple[str, ...], values: tuple[float, ...]) -> dict[str, float | None]:
    """Numbers by their names; None for one that is not defined, which JSON has no word for."""
    return {
        name: None if math.isnan(value) else value
        for name, value in zip(names, values, strict=True)
    }


def _write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
