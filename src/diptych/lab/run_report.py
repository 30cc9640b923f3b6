"""The report of a training run, RUN/report.html: losses, learning rate, validation, samples per
second, and what a search finds with the model before and after.

It is written from the run's files: config.yaml, metrics.jsonl and the model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diptych.data.sample import BadSample, Sample, Source
from diptych.data.sources import open_source
from diptych.data.sources.python import PREFIX
from diptych.errors import InputError
from diptych.files import followed, write_atomic
from diptych.lab import report
from diptych.methods.store import load
from diptych.models.model import Model
from diptych.training import config as configs

GALLERY = 100
"""The most images of the validation that are searched."""
QUERIES = 6
HITS = 7

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Gallery:
    """Samples of the validation, and one text of each."""

    samples: Sequence[Sample]
    texts: Sequence[str]


def write(run: str | Path, val: Source | None = None) -> Path:
    """Write RUN/report.html and return its path.

    `val` is the validation of a run whose data came from a Python program and are not kept.

    Raises InputError if `run` is no finished run, or if its validation data or the model that it
    started from cannot be read.
    """
    out = followed(run)
    if not (out / "config.yaml").is_file():
        raise InputError(
            f"{run} is no run, which a report shows; name the folder of diptych train --out"
        )
    config = configs.read(out / "config.yaml")
    model = load(out)
    html = page(config, _log(out / "metrics.jsonl"), _search(config, model, val))
    path = out / "report.html"
    write_atomic(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))
    return path


def page(config: Mapping[str, Any], log: Sequence[Line], search: Sequence[str] = ()) -> str:
    """Return the page of a run from its config, the lines of its log, and parts of a search.

    >>> html = page({"method": "clip", "data": {"train": "a.csv"}}, [{"done": 0, "loss": 3.2, "seconds": 1.0}])
    >>> "<h1>clip on a.csv</h1>" in html
    True
    """
    return report.page(*heading(config, log), *_validation(log), *search, *_steps(log))


def heading(config: Mapping[str, Any], log: Sequence[Line]) -> tuple[str, str]:
    """Return the title of a run's page, and a sentence on how it was trained."""
    start = f" from {config['init']}" if config.get("init") else ", from random weights"
    adapted = f" with {config['adapt']}" if config.get("adapt") else ""
    seed = config.get("options", {}).get("seed", 0)
    steps = sum("loss" in line for line in log)
    return (
        f"{config['method']} on {', '.join(config['data'].values())}",
        f"{config['method']}{adapted}{start}: {steps:,} steps, seed {seed}.",
    )


def curves(log: Sequence[Line]) -> list[str]:
    """Return the sections of a run's log: validation, losses, rate and speed."""
    return [*_validation(log), *_steps(log)]


def _steps(log: Sequence[Line]) -> list[str]:
    return [*_losses([line for line in log if "loss" in line]), *_rates(log)]


def _log(path: Path) -> list[Line]:
    """Return the lines of metrics.jsonl. Raises InputError if it is missing or damaged."""
    try:
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy it again, or train anew") from None


# ---- curves


def _validation(log: Sequence[Line]) -> list[str]:
    """Return a table of the numbers of the validation, and those of the first one's kind by
    step."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in log:
        if line.get("event") == "validation":
            for name, value in line.items():
                if name.startswith("val/") and isinstance(value, int | float):
                    found.setdefault(name.removeprefix("val/"), []).append(
                        (line["done"] + 1, value)
                    )
    if not found:
        return []
    first = next(iter(found))
    kind = first.rpartition("_")[2]  # i2t_r1 and t2i_r1 are of one kind
    drawn = [_line(name, points) for name, points in found.items() if name.endswith(kind)]
    rows = [
        (name, f"{points[0][1]:.3f} at step {points[0][0]:,}", f"{points[-1][1]:.3f}")
        for name, points in found.items()
    ]
    head = ["number", "first", "last"]
    note = "Measured on the validation data after each epoch."
    chosen = next((line for line in reversed(log) if line.get("event") == "selected"), {})
    if f"val/{first}" in chosen:
        head.append("selected")
        note += f" The model is that of epoch {chosen['epoch'] + 1}."
        rows = [(*row, f"{chosen[f'val/{row[0]}']:.3f}") for row in rows]
    curves = report.lines(drawn, x="step", y=kind, logarithmic=False)
    return [report.section("Validation", note, report.table(head, rows), curves)]


def _line(name: str, points: Sequence[tuple[float, float]]) -> report.Line:
    return report.Line(name=name, points=[(x, y, y, y) for x, y in points])


def _losses(steps: Sequence[Line]) -> list[str]:
    names = [
        "loss",
        *dict.fromkeys(key for line in steps for key in line if key.startswith("loss/")),
    ]
    parts = [
        report.curve(
            [(line["done"], line[name]) for line in steps if _is_number(line.get(name))],
            x="step",
            y=name.removeprefix("loss/"),
        )
        for name in names
    ]
    note = "The loss of each step, and its running mean; where it is a sum, each of its terms."
    return [report.section("Loss", note, *parts)]


def _rates(log: Sequence[Line]) -> list[str]:
    rates = [(line["done"], line["lr"]) for line in log if "lr" in line]
    speeds = _speeds(log)
    parts = [report.curve(rates, x="step", y="learning rate")] if rates else []
    if speeds:
        parts.append(report.curve(speeds, x="step", y="samples per second"))
    note = "The learning rate before multipliers of layers, and the speed of the steps alone."
    return [report.section("Rate and speed", note, *parts)] if parts else []


def _speeds(log: Sequence[Line]) -> list[tuple[float, float]]:
    """Return (step, samples per second) of steps that follow another one directly.

    >>> _speeds([{"done": 0, "seconds": 1.0, "samples": 8}, {"done": 1, "seconds": 3.0, "samples": 8}])
    [(1, 4.0)]
    """
    found = []
    for before, line in pairwise(log):
        if "samples" in before and "samples" in line and line["seconds"] > before["seconds"]:
            found.append((line["done"], line["samples"] / (line["seconds"] - before["seconds"])))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)  # the log writes NaN and infinities as text


# ---- what a search finds


def _search(config: Mapping[str, Any], model: Any, val: Source | None) -> list[str]:
    """Return a section of searches for texts of the validation, with the start and the end of the
    run; none without a validation of images and texts."""
    if not config.get("val") or not _searches(model):
        return []
    if val is None and config["val"].startswith(PREFIX):
        kept = "The validation was data of a Python program, which is not kept, so nothing is searched."
        return [report.section("What a search finds", kept)]
    gallery = _gallery(val or open_source(config["val"]))
    if not gallery.samples:
        return []
    queries = np.linspace(0, len(gallery.samples) - 1, QUERIES).round().astype(int)
    asked = [int(at) for at in dict.fromkeys(queries.tolist())]
    models = {"after": model}
    note = f"The nearest of {len(gallery.samples):,} images of the validation; those of the text are ringed."
    if config.get("init"):
        start = load(config["init"], weights=config.get("weights"))
        if _searches(start):
            models = {"before": start.to(model.device), "after": model}
    else:
        note += " The run began with random weights, which find images by chance."
    found = {name: _nearest(each, gallery, asked) for name, each in models.items()}
    parts = [
        report.compared(
            gallery.texts[at],
            [(name, _shown(gallery, at, hits[row])) for name, hits in found.items()],
        )
        for row, at in enumerate(asked)
    ]
    return [report.section("What a search finds", note, *parts)]


def _searches(model: Any) -> bool:
    return isinstance(model, Model) and model.encoder.text is not None


def _gallery(source: Source) -> Gallery:
    samples: list[Sample] = []
    texts = []
    for at in np.linspace(0, len(source) - 1, min(len(source), GALLERY)).round().astype(int):
        try:
            sample = source[int(at)]
            said = sample.captions("*")
            sample.images["main"].decode()
        except (BadSample, KeyError):
            continue
        if said:
            samples.append(sample)
            texts.append(said[0])
    return Gallery(samples, texts)


def _nearest(model: Model, gallery: Gallery, asked: Sequence[int]) -> Tensor:
    """Return the positions of the nearest images (Q, HITS) of texts of the gallery."""
    images = model.embed_images([sample.images["main"] for sample in gallery.samples])
    texts = model.embed_texts([gallery.texts[at] for at in asked])
    scores = model.similarity(texts, images)
    return scores.topk(min(HITS, len(gallery.samples)), dim=1).indices


def _shown(gallery: Gallery, at: int, hits: Tensor) -> list[report.Shown]:
    return [
        report.Shown(
            image=gallery.samples[hit].images["main"].decode(),
            hit=gallery.texts[hit] == gallery.texts[at],
        )
        for hit in hits.tolist()
    ]
