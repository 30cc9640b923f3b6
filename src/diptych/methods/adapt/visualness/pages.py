"""Automatic labels for the sentences of documents: a sentence is visual if an image of its page
matches it.

    m = max over the page's images of <sentence, image>       visual: m > T_pos, with the image of that cosine
                                                                  not visual: m < T_neg

Sentences in between are left out as undecided; so are pages without an image. Thresholds are
cosines (0.35 and 0.18 as published, for CLIP ViT-B/32), or shares of the corpus: the top 1 % and
the bottom 5 %, which fit any model. `diptych data label` writes the table that `diptych train
visualness` reads.

A page consists of the samples that share a page's number or name, with all their images and texts;
a sample that names none is a separate page, and one that names several, as an image of several
rows, is on each of them. Texts of several sentences are split (`data.views.sentences`) [choice: the
paper uses NLTK]. Source: Verma et al. 2023 (TIP-CLIP).

Dimensions: N sentences, P images of a page.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.data.images import FileImage
from diptych.data.sample import BadSample, Source
from diptych.data.views import sentences
from diptych.errors import InputError
from diptych.files import write_atomic

AT_ONCE = 64  # pages that are embedded together


@dataclass(frozen=True)
class Bar:
    """A threshold: a cosine, or the share of the corpus above or below it."""

    value: float
    share: bool

    @classmethod
    def of(cls, text: str) -> "Bar":
        """Parse "0.35", a cosine, or "1%", a share. Raises InputError for anything else.

        >>> Bar.of("1%"), Bar.of("0.35")
        (Bar(value=0.01, share=True), Bar(value=0.35, share=False))
        """
        share = text.endswith("%")
        try:
            value = float(text.removesuffix("%")) / (100 if share else 1)
        except ValueError:
            value = float("nan")
        if not (0 < value < 1 if share else -1 <= value <= 1):
            raise InputError(
                f"{text!r} is no threshold; write a cosine, such as 0.35, or a share of the sentences, such as 1%"
            )
        return cls(value, share)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The sentences of a corpus (N) with their pages and largest cosines (N,), the image of that
    cosine as (sample, role), and both thresholds. `damaged` are images that could not be read,
    `alone` is the number of pages without one."""

    texts: Sequence[str]
    pages: Sequence[str]
    cosines: np.ndarray
    nearest: Sequence[tuple[int, str]]
    positive: float
    negative: float
    damaged: dict[str, str] = field(default_factory=dict)
    alone: int = 0

    @property
    def visual(self) -> np.ndarray:
        """Which sentences are visual (N,) bool."""
        return self.cosines > self.positive

    @property
    def other(self) -> np.ndarray:
        """Which sentences are not visual (N,) bool; undecided ones are in neither."""
        return self.cosines < self.negative


def label(
    source: Source,
    model: Any,
    *,
    positive: str = "1%",
    negative: str = "5%",
    role: str = "caption",
    page: str = "page_id",
    progress: Callable[[int, int], None] | None = None,
) -> Labelled:
    """Label the sentences of `role` of a source's pages by a model with `embed_images`,
    `embed_texts` and `preprocess`.

    `page` is the label, or the role of the text, that names a sample's page. Raises InputError if
    no page has both images and sentences, and if T_pos is below T_neg.

    >>> import diptych
    >>> from diptych.data.sources import open_source
    >>> pages = open_source("scenes:count=20:number=1:texts=caption+hypothesis")
    >>> found = label(pages, diptych.load("tiny"), positive="30%", negative="30%", role="*")
    >>> len(found.texts), int(found.visual.sum()), int(found.other.sum())
    (80, 24, 24)
    """
    bars = Bar.of(positive), Bar.of(negative)
    groups, damaged = _grouped(source, page)
    texts = []
    pages = []
    cosines = []
    nearest = []
    alone = 0
    names = list(groups)
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        read = [_read(source, model, name, groups[name], (role, page), damaged) for name in some]
        alone += sum(1 for each in read if each.said and not each.places)
        for each, similarity in _compared(
            model, [each for each in read if each.said and each.places]
        ):
            texts += each.said
            pages += [each.name] * len(each.said)
            cosines.append(similarity.max(1))
            nearest += [each.places[at] for at in similarity.argmax(1)]
        if progress:
            progress(start + len(some), len(names))
    if not texts:
        raise InputError(
            f"no page of {source.name} has both an image and a text of role {role!r}; name the field "
            "that joins samples into pages with --page, or the role with --role"
        )
    values = np.concatenate(cosines)
    high = float(np.quantile(values, 1 - bars[0].value)) if bars[0].share else bars[0].value
    low = float(np.quantile(values, bars[1].value)) if bars[1].share else bars[1].value
    if high < low:
        raise InputError(
            f"visual would be above {high:.3f} and not visual below {low:.3f}, which is more; lower "
            f"{negative!r}, or take fewer as visual than {positive!r}"
        )
    return Labelled(
        texts=texts,
        pages=pages,
        cosines=values,
        nearest=nearest,
        positive=high,
        negative=low,
        damaged=damaged,
        alone=alone,
    )


def write(found: Labelled, source: Source, out: Path) -> int:
    """Write a line {"text", "image", "label", "page_id"} for each labelled sentence, and return how
    many.

    `image` is null if the label is 0, else a path relative to the folder of `out`. Images that are
    not files are written as PNG into a folder beside it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    kept = np.flatnonzero(found.visual | found.other).tolist()
    wanted = dict.fromkeys(found.nearest[at] for at in kept if found.visual[at])
    paths = {place: _path(source, place, out, number) for number, place in enumerate(wanted)}
    lines = []
    for at in kept:
        image = paths[found.nearest[at]] if found.visual[at] else None
        row = {
            "text": found.texts[at],
            "image": image,
            "label": int(found.visual[at]),
            "page_id": found.pages[at],
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_atomic(out, lambda path: path.write_text("".join(lines), encoding="utf-8"))
    return len(kept)


@dataclass(frozen=True)
class _Page:
    """The sentences of a page, its images as (sample, role), and their pixels (3, S, S)."""

    name: str
    said: list[str] = field(default_factory=list)
    places: list[tuple[int, str]] = field(default_factory=list)
    pixels: list[Any] = field(default_factory=list)


def _grouped(source: Source, page: str) -> tuple[dict[str, list[int]], dict[str, str]]:
    """The numbers of the samples of each page, in order of appearance, and the samples that cannot
    be read."""
    groups: dict[str, list[int]] = {}
    damaged: dict[str, str] = {}
    keys = source.keys()
    for index in range(len(source)):
        try:
            sample = source[index]
        except BadSample as bad:
            damaged[keys[index]] = bad.reason
            continue
        named = [str(sample.labels[page])] if page in sample.labels else sample.captions(page)
        for name in named or [sample.key]:  # several pages may show one image
            groups.setdefault(name, []).append(index)
    return groups, damaged


def _read(
    source: Source,
    model: Any,
    name: str,
    rows: Sequence[int],
    roles: tuple[str, str],
    damaged: dict[str, str],
) -> _Page:
    """Return a page: its name, the sentences of `roles[0]` except those of `roles[1]`, and the
    images that can be read."""
    found = _Page(name)
    (role, page) = roles
    for row in rows:
        sample = source[row]
        for text in sample.texts:
            if role in (text.role, "*") and text.role != page:
                parts = sentences(text.text)
                found.said.extend(parts if len(parts) > 1 else [text.text.strip()] if parts else [])
        for shown, image in sample.images.items():
            try:
                found.pixels.append(model.preprocess.read(image))
                found.places.append((row, shown))
            except BadSample as bad:
                damaged[sample.key] = bad.reason
    return found


def _compared(model: Any, pages: Sequence[_Page]) -> Iterator[tuple[_Page, np.ndarray]]:
    """Yield each page with the cosines (N, P) of its sentences and images."""
    if not pages:
        return
    images = np.asarray(
        model.embed_images(torch.stack([pixels for each in pages for pixels in each.pixels]))
    )
    texts = np.asarray(model.embed_texts([text for each in pages for text in each.said]))
    i = t = 0
    for each in pages:
        said = len(each.said)
        shown = len(each.places)
        yield each, texts[t : t + said] @ images[i : i + shown].T
        t = t + said
        i = i + shown


def _path(source: Source, place: tuple[int, str], out: Path, number: int) -> str:
    """Return the path of an image relative to the folder of `out`; an image that is no file is
    written first."""
    image = source[place[0]].images[place[1]]
    if isinstance(image, FileImage):
        return os.path.relpath(Path(image.path).resolve(), out.parent.resolve())
    folder = out.with_suffix("")
    folder.mkdir(exist_ok=True)
    path = folder / f"{number:06d}.png"
    write_atomic(path, lambda at: image.decode().save(at, "PNG"))
    return f"{folder.name}/{path.name}"
