"""Captions of classes: which samples get them, from which bank, and what is refused."""

import json

import numpy as np
import pytest
from tests.factories import tokenizer

from diptych.data.sample import Field, Sample, Text
from diptych.data.sources import open_source
from diptych.data.sources.captioned import Captioned
from diptych.data.views import TextView
from diptych.errors import InputError
from diptych.rng import generator

BANK = {"cat": [f"cat number {n}" for n in range(10)], "dog": ["one dog", "a dog"]}


class Rows:
    """Samples of (class, caption), -1 and "" where there is none."""

    name = "rows"

    def __init__(self, rows, captions=True, classes=("cat", "dog")):
        self.rows = rows
        self.fields = {
            "labels.class": Field(kind="int", classes=classes),
            **({"texts.caption": Field(kind="text", optional=True)} if captions else {}),
        }

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        value, caption = self.rows[index]
        texts = [Text(text=caption)] if caption else []
        return Sample(key=str(index), source="rows", texts=texts, labels={"class": value})

    def keys(self):
        return [str(index) for index in range(len(self))]

    def schema(self):
        return self.fields


@pytest.fixture
def bank(tmp_path):
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(BANK))
    return str(path)


def test_a_caption_of_its_own_is_kept_and_others_come_from_the_class(bank):
    source = Captioned(Rows([(0, ""), (1, "my dog"), (1, " "), (-1, "what"), (-1, "")]), bank)
    own = [sample.captions() for sample in (source[at] for at in range(5))]
    assert own == [BANK["cat"], ["my dog"], [" ", *BANK["dog"]], ["what"], []]
    assert source.schema()["texts.caption"].optional


def test_samples_of_no_class_are_left_out_where_none_has_a_caption(bank):
    source = Captioned(Rows([(0, ""), (-1, ""), (1, "")], captions=False), bank)
    assert list(source.keys()) == ["0", "2"]
    assert source.labels("class").tolist() == [0, 1]
    assert source.schema()["texts.caption"] == Field(kind="text")


def test_each_of_k_captions_is_drawn_alike_and_one_of_its_own_always(bank):
    source = Captioned(Rows([(0, ""), (0, "a report")]), bank)
    words = tokenizer()
    view = TextView(tokenizer=words)
    drawn = [
        view(source[0], generator(0, "draw", number), 0.5)["texts.main"][0]
        for number in range(2000)
    ]
    ids = [words.encode([text])[0] for text in BANK["cat"]]
    counts = np.array([drawn.count(each) for each in ids])
    assert counts.sum() == 2000
    assert (np.abs(counts - 200) < 60).all()  # 4.5 standard deviations
    report = words.encode(["a report"])[0]
    for number in range(20):
        assert view(source[1], generator(0, "draw", number), 0.5)["texts.main"] == [report]


def test_any_source_takes_captions_beside_its_other_options(bank):
    source = open_source("glyphs:split=test:of=group:classes=flags:captions=one {} drawing")
    assert source.name.endswith(":captions=one {} drawing")
    plain = open_source("modalities:count=40:captioned=0:captions=an image of {}:part=1/2")
    assert len(plain) == 20
    name = plain.schema()["labels.class"].classes[plain[3].labels["class"]]
    assert plain[3].captions() == [f"an image of {name}"]


def test_a_bank_that_lacks_a_class_or_its_captions_is_refused(tmp_path, bank):
    short = tmp_path / "short.json"
    short.write_text('{"cat": ["a cat"]}')
    with pytest.raises(InputError, match="there is no class 'dog'"):
        Captioned(Rows([(0, "")]), str(short))
    short.write_text('{"cat": ["a cat"], "dog": []}')
    with pytest.raises(InputError, match="the class 'dog' has no sentence; write at least one"):
        Captioned(Rows([(0, "")]), str(short))
    with pytest.raises(InputError, match="have no names to find captions by"):
        Captioned(Rows([(0, "")], classes=()), bank)
    with pytest.raises(InputError, match="unknown label of rows 'klass'"):
        Captioned(Rows([(0, "")]), bank, "klass")
