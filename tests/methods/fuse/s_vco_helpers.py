"""Samples that answer questions, and a toy with edits."""

from tests.evaluation.helpers import Dot

from diptych.data.sample import Sample, Text
from diptych.testing import Toy


def qa(number, *turns, edits=(), kind=""):
    """A sample that answers questions about the image of a number; several answers by `|`."""
    texts = []
    for question, answers in turns:
        texts.append(Text(text=question, role="question"))
        texts += [Text(text=answer, role="answer") for answer in answers.split("|")]
    return Sample(
        key=f"s{number}", source="rows", images={"main": Dot(number)}, texts=texts, edits=edits, kind=kind
    )  # fmt: skip


def toy(count=3):
    return Toy(count, ("images.main", "texts.caption", "edits"))
