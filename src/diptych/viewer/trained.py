"""The sections on a run: its curves, and the worst mistakes of its model.

A classifier's mistakes are images with a wrong class, the most confident ones first; those of a
model of images and texts are images whose own texts rank lowest among all texts.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.data.sample import Sample, Source, labels_of
from diptych.data.sources import open_source
from diptych.data.sources.python import PREFIX
from diptych.errors import InputError
from diptych.evaluation.embed import Steps, Texts, embed_images, embed_texts
from diptych.evaluation.suites._labels import named_label
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.front.training import Run
from diptych.inference.classify import name_source
from diptych.lab import report as html
from diptych.lab.run_report import curves, heading
from diptych.metrics import first, ranks, similarities
from diptych.models.adapted import TrainedClassesModel
from diptych.training.config import resume_command
from diptych.viewer.cards import Links, Ref
from diptych.viewer.document import text
from diptych.viewer.subject import Progress, Section, Shelf, Subject, numbers

WORST = 24
"""The most mistakes shown."""

_CONFUSED = 20  # pairs of classes
_BATCH = 64


def of_run(run: str | Path, *, load: Callable[[Path], Any], data: str | None = None) -> Subject:
    """Return the subject of a run: the worst mistakes of its model on `data`, by default its
    validation, its curves, and the samples of these data.

    `load` loads its model. Raises InputError for an unfinished run, and for one without validation
    where no data are named.
    """
    found = Run(run)
    spec = data or found.config.get("val")
    if not spec or spec.startswith(PREFIX):
        why = "had no validation" if not spec else "had its validation from a Python program"
        raise InputError(
            f"{run} {why}; name data in which to look for its mistakes with --data SOURCE"
        )
    if not (found.folder / "model.json").is_file():
        raise InputError(
            f"{run} holds a run that is not finished; go on with: {resume_command(found.config, run)}"
        )
    source = _opened(spec, data)
    model = load(found.folder)
    title, lead = heading(found.config, found.history)
    parts = curves(found.history)
    return Subject(
        title=title,
        lead=f"{lead} Mistakes and samples are of {source.name}.",
        sources=[source],
        sections=[
            Section(id="report", title="Training", note="", html=lambda *_: "\n".join(parts))
        ],
        slow=lambda progress: [mistakes(model, source, progress)],
    )


def _opened(spec: str, data: str | None) -> Source:
    try:
        return open_source(spec)
    except InputError as error:
        if data is not None:
            raise
        raise InputError(
            f"the validation data of the run are not there ({error}); name them with --data SOURCE"
        ) from None


def mistakes(model: Any, source: Source, progress: Progress | None = None) -> Section:
    """Return the section on the worst mistakes of a model."""
    schema = source.schema()
    labelled = any(name.startswith("labels.") and schema[name].classes for name in schema)
    written = any(name.startswith("texts.") for name in schema)
    if "images.main" in schema and isinstance(model, TrainedClassesModel) and labelled:
        return _wrong_classes(model, source, model.label, progress)
    if "images.main" in schema and written and _matches(model):
        return _lost_texts(model, source, progress)
    if "images.main" in schema and labelled and hasattr(model, "class_logits"):
        return _wrong_classes(model, source, None, progress)
    why = (
        "The model ranks no texts and names no classes of these data, so that there are no mistakes "
        "to show; diptych evaluate measures what it can do."
    )
    return Section(id="mistakes", title="Worst mistakes", note=why, html=lambda *_: "")


def _matches(model: Any) -> bool:
    images = hasattr(model, "embed_images") or hasattr(model, "index")
    return images and hasattr(model, "embed_texts") and getattr(model, "reads_texts", True)


# ---- texts that rank low


@dataclass(frozen=True, kw_only=True)
class Lost:
    """An image whose own texts rank low: the best of these and its cosine, and the text that was
    ranked first with its cosine and the key of an image that it is of."""

    key: str
    rank: int
    own: str
    own_score: float
    first: str
    first_score: float
    first_key: str


def lost_texts(
    model: Any, source: Source, *, max_mistakes: int = WORST, progress: Progress | None = None
) -> tuple[list[Lost], np.ndarray]:
    """Return the images whose own texts rank lowest, the worst first, and the ranks of all.

    Texts and ranks are those of the suite `retrieval`: equal texts are one, and ties lose.
    """
    role = role_of("diptych view", source, None)
    texts = Texts()

    def facts(sample: Sample) -> tuple[str, list[int]]:
        return sample.key, sorted({texts.add(said) for said in texts_of(sample, role)})

    steps = Steps(progress, len(source))
    images = embed_images(model, source, facts, exact=False, batch_size=_BATCH, steps=steps)
    steps.total += len(texts)
    vectors = embed_texts(model, texts.written, batch_size=_BATCH, steps=steps)
    keys = [key for key, _ in images.facts]
    own = [numbers for _, numbers in images.facts]
    owner: dict[int, str] = {}
    for key, of_image in images.facts:
        for number in of_image:
            owner.setdefault(number, key)
    rank = ranks(images.vectors, vectors, own)
    worst = np.argsort(-rank, kind="stable")[: int((rank > 1).sum())][:max_mistakes]
    if not len(worst):
        return [], rank
    asked = images.vectors[torch.from_numpy(worst)]
    firsts = first(asked, vectors, [own[at] for at in worst], 1)[:, 0]
    scores = similarities(asked, vectors)
    found = []
    for row, at in enumerate(worst.tolist()):
        best = max(own[at], key=lambda number: float(scores[row, number]))
        wrong = int(firsts[row])
        found.append(
            Lost(
                key=keys[at],
                rank=int(rank[at]),
                own=texts.written[best],
                own_score=float(scores[row, best]),
                first=texts.written[wrong],
                first_score=float(scores[row, wrong]),
                first_key=owner.get(wrong, ""),
            )
        )
    return found, rank


def _lost_texts(model: Any, source: Source, progress: Progress | None) -> Section:
    found, rank = lost_texts(model, source, progress=progress)
    places = numbers(source, [key for each in found for key in (each.key, each.first_key)])

    def write(shelf: Shelf, links: Links) -> str:
        cards = []
        for each in found:
            rows = [
                (f"own, ranked {each.rank:,}, cosine {each.own_score:.3f}", text(each.own)),
                (f"ranked first, cosine {each.first_score:.3f}", text(each.first)),
            ]
            if each.first_key in places:
                of = shelf.mini(Ref(0, places[each.first_key]), links)
                rows.append(("which is of", of))
            cards.append(_mistake(shelf.mini(Ref(0, places[each.key]), links), rows))
        most = [
            (f"{(rank == 1).mean():.1%}", "own text ranked first"),
            (f"{np.median(rank):g}", "median rank"),
            (f"{len(rank):,}", "images"),
        ]
        return f'{html.figures(*most)}<div class="mistakes">{"".join(cards)}</div>'

    note = (
        f"The {len(found):,} images whose own text ranks lowest among the texts of all, by "
        f"{model.name}."
        if found
        else "The own text of every image ranks first."
    )
    return Section(id="mistakes", title="Worst mistakes", note=note, html=write)


# ---- wrong classes


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """An image with a wrong class: its own, and the likeliest with its probability."""

    key: str
    own: str
    said: str
    share: float


def wrong_classes(
    model: Any, source: Source, label: str | None = None, *, progress: Progress | None = None
) -> tuple[list[Wrong], int]:
    """Return the images with a wrong class, the most confident first, and the number of images that
    have a class among the model's."""
    schema = source.schema()
    if label is None or not (f"labels.{label}" in schema and schema[f"labels.{label}"].classes):
        label = named_label("diptych view", source, None)
    names = schema[f"labels.{label}"].classes
    trained = isinstance(model, TrainedClassesModel)
    named = name_source(
        model,
        source,
        None if trained else names,
        k=1,
        batch_size=_BATCH,
        progress=progress,
    )
    values = labels_of(source, label).tolist()
    own = {
        key: names[int(value)]
        for key, value in zip(source.keys(), values, strict=True)
        if 0 <= value < len(names)
    }
    found = []
    total = 0
    for each in named:
        right = own.get(each.key)
        if right not in named.classes:
            continue
        total += 1
        said, share = each.classes[0]
        if said != right:
            found.append(Wrong(key=each.key, own=str(right), said=said, share=share))
    found.sort(key=lambda each: -each.share)
    return found, total


def _wrong_classes(
    model: Any, source: Source, label: str | None, progress: Progress | None
) -> Section:
    found, total = wrong_classes(model, source, label, progress=progress)
    worst = found[:WORST]
    places = numbers(source, (each.key for each in worst))
    confused = Counter((each.own, each.said) for each in found).most_common(_CONFUSED)

    def write(shelf: Shelf, links: Links) -> str:
        cards = [
            _mistake(
                shelf.mini(Ref(0, places[each.key]), links),
                [("class", text(each.own)), (f"named, {each.share:.1%}", text(each.said))],
            )
            for each in worst
        ]
        right = (total - len(found)) / max(total, 1)
        most = [(f"{right:.1%}", "right"), (f"{len(found):,}", "wrong"), (f"{total:,}", "images")]
        rows = [(own, said, f"{count:,}") for (own, said), count in confused]
        table = html.table(("class", "named", "images"), rows)
        parts = [html.figures(*most), f'<div class="mistakes">{"".join(cards)}</div>']
        if rows:
            parts.append(f'<h3>Classes that are confused</h3><div class="card">{table}</div>')
        return "".join(parts)

    if worst:
        note = f"The {len(worst):,} images that {model.name} is most sure of, and wrong."
    elif total:
        note = "The class of every image is right."
    else:
        note = f"No image has a class that {model.name} knows."
    return Section(id="mistakes", title="Worst mistakes", note=note, html=write)


def _mistake(image: str, rows: Sequence[tuple[str, str]]) -> str:
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    return f'<div class="mistake">{image}<dl>{facts}</dl></div>'
