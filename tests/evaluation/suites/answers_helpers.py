"""Questions with answers, as samples."""

from dataclasses import replace

from tests.evaluation.helpers import row

from diptych.data.sample import Field, Sample, Text

FIELDS = {name: Field(kind="text") for name in ("texts.question", "texts.answer")}


def q(text: str, *choices: str) -> Text:
    return Text(text=text, role="question", attrs={"choices": choices} if choices else {})


def a(text: str) -> Text:
    return Text(text=text, role="answer")


def asked(key: str, number: int, *texts: Text) -> Sample:
    return replace(row(key, number), texts=texts)
