"""FUNSD (Jaume et al., 2019): scanned forms, their words, and which value belongs to which key.

    training_data/annotations/0000971160.json    {"form": [{"id", "text", "box", "label", "words", "linking"}, …]}
    training_data/images/0000971160.png

A question is the text of an entity of this label, its answer that of the answers which are linked to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diptych.data.sources._pages import Page, Pages, Piece, holds, open_pages
from diptych.spec import Spec, configure

FORMAT = "funsd"
LABELS = ("header", "question", "answer", "other")


@dataclass(frozen=True, kw_only=True)
class FunsdOptions:
    """Option of the folder: whether `boxes` are those of words or of whole entities."""

    boxes: Literal["words", "entities"] = "words"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with `annotations` of forms."""
    return holds(spec, "annotations", b'"form"')


def open(spec: Spec) -> Pages:
    """Open `dataset/training_data/[:boxes=entities]`. Raises InputError if no form in it can be read."""
    options = configure(FunsdOptions, spec.options, f"source {spec.name!r}")

    def read(data: Any) -> Page:
        return _page(data["form"], options.boxes)

    return open_pages(spec.name, "annotations", "images", read, LABELS)


def _page(form: Sequence[Mapping[str, Any]], boxes: str) -> Page:
    pieces = []
    for entity in form:
        if entity["label"] not in LABELS:
            raise ValueError(f"label {entity['label']}")
        for part in entity["words"] if boxes == "words" else [entity]:
            if text := part["text"].strip():
                x0, y0, x1, y1 = map(float, part["box"])
                pieces.append(Piece(text=text, box=(x0, y0, x1, y1), kind=entity["label"]))
    text = " ".join(each["text"].strip() for each in form if each["text"].strip())
    return Page(pieces=pieces, text=text, asked=_asked(form))


def _asked(form: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The texts of keys and of their values, in the order of the form."""
    entities = {entity["id"]: entity for entity in form}
    found = []
    for entity in form:
        linked = {end for pair in entity["linking"] for end in pair} - {entity["id"]}
        values = [entities[number] for number in sorted(linked) if number in entities]
        said = [each["text"].strip() for each in values if each["label"] == "answer"]
        answer = " ".join(text for text in said if text)
        key = entity["text"].strip()
        if entity["label"] == "question" and key and answer:
            found.append((key, answer))
    return found
