"""Hard negatives among texts against loops: anchors, edits, roles, and by log-probability."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Fake, Words, digits, vectors

from diptych.data.sample import Field, Sample, Text
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.hard_negatives import hard_negatives


class Reads:
    """Embeds texts, and finds those with a larger number more probable."""

    identity = "reads"

    def __init__(self, table: np.ndarray):
        self.fake = Fake(table)

    def embed_texts(self, texts):
        return self.fake.embed_texts(texts)

    def log_prob(self, texts, *, batch_size):
        return torch.tensor([-100.0 + digits(text) for text in texts])


NUMBER = st.integers(0, 9)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 9),
            st.lists(st.integers(0, 9), max_size=3),
            st.lists(st.integers(0, 9), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=6,
    ),
    tied=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_loops_over_anchors(rows, tied, seed):
    model = Reads(np.sign(vectors(seed)) if tied else vectors(seed))
    rows = [*rows, (0, [1], [2])]
    source = Words(
        [
            {
                "caption": f"t {own}",
                "paraphrase": [f"t {n}" for n in others],
                "negative": [f"T {n}" for n in wrong],
            }
            for own, others, wrong in rows
        ]
    )
    table, hits, margins = model.fake.vectors, [], []
    for own, others, wrong in rows:
        for text in wrong:
            anchors = {other for other in others if other not in (own, text)}
            if text != own and anchors:
                differences = [
                    float(table[a] @ table[own] - table[a] @ table[text]) for a in anchors
                ]
                hits.append(np.mean([difference > 1e-6 for difference in differences]))
                margins.append(np.mean(differences))
    result = hard_negatives(model, source)
    assert result["n"] == len(hits)
    assert result["two_way"] == pytest.approx(np.mean(hits))
    assert result["margin"] == pytest.approx(np.mean(margins), abs=1e-6)
    assert result["by_kind"]["negative"]["two_way"] == pytest.approx(np.mean(hits))


def test_without_paraphrases_other_captions_are_the_anchors():
    """As in SugarCrepe's captions: several of one image, and negatives each made from one of
    them."""
    source = Words(
        [
            {
                "caption": ["3 boys on a red bench", "people 5 wait for a bus"],
                "negative": ["4 boys on a red bench", "people 6 wait for a bus"],
            }
        ]
    )
    model = Reads(vectors(1))
    table = model.fake.vectors
    expected = [
        float(table[anchor] @ table[right]) > float(table[anchor] @ table[wrong])
        for anchor, right, wrong in ((5, 3, 4), (3, 5, 6))
    ]
    result = hard_negatives(model, source)
    assert result["two_way"] == np.mean(expected)
    assert (
        hard_negatives(model, source, role="caption", anchor="caption")["protocol"]
        == result["protocol"]
    )


def test_by_log_probability_the_more_probable_text_is_chosen_without_an_anchor():
    source = Words(
        [{"caption": "t 5", "negated": "t 3"}, {"caption": "t 1", "swapped": ["t 2", "T 1"]}]
    )
    result = hard_negatives(Reads(vectors(0)), source, by="log_prob")
    assert (result["n"], result["two_way"], result["chance_two_way"]) == (2, 0.5, 0.5)
    assert result["by_kind"]["negated"] == {"n": 1, "two_way": 1.0, "margin": 2.0}
    assert result["by_kind"]["swapped"] == {"n": 1, "two_way": 0.0, "margin": -1.0}
    with pytest.raises(InputError, match=r"2 no-anchor"):
        hard_negatives(Reads(vectors(0)), source)


def test_edits_are_wrong_texts_of_their_kind():
    class Edited(Words):
        def schema(self):
            return {**super().schema(), "edits": Field(kind="edit")}

    source = Edited([{"caption": "t 1", "paraphrase": "t 2"}])
    edit = Sample(key="e", source="words", texts=[Text(text="t 3")], kind="swap")
    source.samples[0] = replace(source.samples[0], edits=[edit])
    result = hard_negatives(Reads(vectors(0)), source)
    assert set(result["by_kind"]) == {"swap"}
    assert result["n"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negatives": ["other"]}, "role of the texts of source 'words' 'other'"),
        ({"anchor": "captio"}, "did you mean 'caption'"),
        ({"by": "match"}, "way to score 'match'"),
        (
            {},
            "hard_negatives needs edits or texts that are wrong; source 'words' gives texts.caption",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_computed(settings, message):
    model = Reads(vectors(0))
    with pytest.raises(InputError, match=message):
        evaluate(model, Words([{"caption": ["t 1", "t 2"]}]), ["hard_negatives"], **settings)
    assert not model.fake.seen
