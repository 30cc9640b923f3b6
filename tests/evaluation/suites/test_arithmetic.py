"""Arithmetic: queries and hits against loops, a space in which it is exact, edits as answers, words
that do not fit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Dot, Fake, Rows
from torch.nn.functional import normalize

from diptych.data.sample import Field, Sample
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.arithmetic import arithmetic, asked, hits, weighted

SETTINGS = settings(max_examples=40, deadline=None)
OBJECTS, COLOURS = ("thing 10", "thing 11", "thing 12"), ("tint 20", "tint 21")
FIELDS = {
    "labels.object": Field(kind="int", classes=OBJECTS),
    "labels.colour": Field(kind="int", classes=COLOURS),
}


def shown(thing: int, tint: int, edits=()) -> Sample:
    """Image number 2 · thing + tint; the words' numbers begin at 10 and 20."""
    return Sample(
        key=f"{thing}-{tint}",
        source="rows",
        images={"main": Dot(2 * thing + tint)},
        labels={"object": thing, "colour": tint},
        edits=edits,
    )


def rows(samples) -> Rows:
    return Rows(samples, fields=FIELDS)


def additive(seed: int = 0) -> Fake:
    """An image is the sum of its words, on orthogonal axes of equal length."""
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 8)))[0]
    vectors = np.zeros((22, 8))
    vectors[10:13], vectors[20:22] = axes[:3], axes[3:5]
    for thing in range(3):
        for tint in range(2):
            vectors[2 * thing + tint] = vectors[10 + thing] + vectors[20 + tint]
    vectors[6:10] = vectors[13:20] = 1
    return Fake(vectors)


ALL = [shown(thing, tint) for thing in range(3) for tint in range(2)]


def test_where_a_image_is_the_sum_of_its_words_every_exchange_succeeds():
    found = arithmetic(additive(), rows(ALL))
    assert (found["success"], found["success_mean"]) == (1.0, 1.0)
    assert (found["n"], found["pairs"]) == (
        6,
        18,
    )  # each image has two other things and one other tint
    assert found["chance_success"] == pytest.approx(1 / 6)
    assert found["by_label"] == {
        name: {"success": 1.0, "success_mean": 1.0} for name in ("object", "colour")
    }


def test_words_that_change_too_little_leave_the_image_nearest_to_itself():
    assert arithmetic(additive(), rows(ALL), strength=0.0)["success"] == 0
    assert arithmetic(additive(), rows(ALL), strength=0.3)["success"] == 0


def test_words_exchanged_the_wrong_way_round_lead_away():
    assert arithmetic(additive(), rows(ALL), strength=-1.0)["success"] == 0


def test_a_space_that_is_one_point_has_no_hit():
    assert arithmetic(Fake(np.ones((22, 8))), rows(ALL))["success"] == 0


def test_images_of_edits_are_answers_too():
    found = arithmetic(additive(), rows([shown(0, 0, edits=[shown(0, 1), shown(2, 0)])]))
    assert (found["n"], found["success"]) == (3, 1.0)
    assert found["pairs"] == 4  # to either edit and back


def test_exchanges_weigh_the_same_however_many_images_ask_for_them():
    """Many images of one kind, whose exchange fails, against one whose exchange succeeds."""
    model = additive()
    model.vectors[20] = model.vectors[
        21
    ]  # tints are told from each other in images but not in words
    found = arithmetic(model, rows([*ALL, shown(0, 0), shown(0, 0), shown(0, 0)]))
    assert found["by_label"]["colour"]["success"] == 0
    assert found["by_label"]["object"]["success"] == 1
    assert found["success"] == pytest.approx(
        6 / 8
    )  # things are exchanged in 3 · 2 ways, tints in 2
    assert found["success_mean"] < found["success"]  # of 27 queries 9 are of tints


def brute(images, facts, words, strength):
    """Every query as loops: (image, exchange, hit)."""
    found = []
    for i, values in enumerate(facts):
        for label, names in enumerate(words):
            for new in range(len(names)):
                wanted = (*values[:label], new, *values[label + 1 :])
                right = [j for j, other in enumerate(facts) if other == wanted]
                if new == values[label] or not right:
                    continue
                query = images[i] + strength * (names[new] - names[values[label]])
                scores = images @ query
                wrong = max(
                    (float(s) for j, s in enumerate(scores) if j not in right), default=-np.inf
                )
                best = max(float(scores[j]) for j in right)
                found.append((i, (label, values[label], new), best > wrong + 1e-5))
    return found


@SETTINGS
@given(
    seed=st.integers(0, 10_000), count=st.integers(2, 12), strength=st.sampled_from([0.5, 1.0, 2.0])
)
def test_queries_and_hits_are_those_of_the_loops(seed, count, strength):
    rng = np.random.default_rng(seed)
    sizes = (3, 2, 2)
    facts = [tuple(int(rng.integers(size)) for size in sizes) for _ in range(count)]
    images = normalize(torch.from_numpy(rng.normal(size=(count, 5))).float(), dim=1)
    words = [
        normalize(torch.from_numpy(rng.normal(size=(size, 5))).float(), dim=1) for size in sizes
    ]
    at, exchanges, right = asked(facts, sizes, 10_000, 0)
    expected = brute(images, facts, words, strength)
    assert list(zip(at.tolist(), exchanges, strict=True)) == [
        (i, exchange) for i, exchange, _ in expected
    ]
    if not expected:
        return
    change = torch.stack([words[label][new] - words[label][old] for label, old, new in exchanges])
    found = hits(images, at, change, right, strength=strength)
    assert found.tolist() == [hit for _, _, hit in expected]
    kinds = {
        exchange: [hit for _, other, hit in expected if other == exchange]
        for _, exchange, _ in expected
    }
    assert weighted(found, exchanges) == pytest.approx(
        np.mean([np.mean(values) for values in kinds.values()])
    )


def test_of_many_queries_a_seed_draws_some_in_order():
    facts = [(thing, tint) for thing in range(3) for tint in range(2)] * 3
    whole = asked(facts, (3, 2), 10_000, 0)
    some, same, other = (asked(facts, (3, 2), 20, seed) for seed in (1, 1, 2))
    assert len(whole[0]) == 54
    assert len(some[0]) == len(some[1]) == len(some[2]) == 20
    assert some[1] == same[1] != other[1]
    pairs = list(zip(whole[0].tolist(), whole[1], strict=True))
    places = [pairs.index(pair) for pair in zip(some[0].tolist(), some[1], strict=True)]
    assert places == sorted(set(places))


def test_the_protocol_knows_strength_and_words():
    base = arithmetic(additive(), rows(ALL))["protocol"]
    assert arithmetic(additive(), rows(ALL))["protocol"] == base
    for other in (
        {"strength": 2.0},
        {"templates": ("a {}",)},
        {"labels": ("object",)},
        {"seeds": (1,)},
    ):
        assert arithmetic(additive(), rows(ALL), **other)["protocol"] != base


def test_images_without_a_label_are_left_out_and_told():
    unknown = Sample(
        key="x", source="rows", images={"main": Dot(0)}, labels={"object": 1, "colour": -1}
    )
    found = arithmetic(additive(), rows([*ALL, unknown]))
    assert (found["n"], found["bad"]) == (6, {"no-label": 1})


def test_what_does_not_fit_is_named_before_anything_is_computed():
    model = additive()
    with pytest.raises(InputError, match="label with named values of source 'rows' 'colour'"):
        evaluate(
            model, Rows(ALL, fields={"labels.object": FIELDS["labels.object"]}), ["arithmetic"]
        )
    with pytest.raises(InputError, match="did you mean 'colour'"):
        evaluate(model, rows(ALL), ["arithmetic"], labels=("object", "color"))
    assert not model.seen
    with pytest.raises(
        InputError, match="no two images of 'rows' differ in one of object, colour alone"
    ):
        arithmetic(model, rows([ALL[0], ALL[3]]))


def test_scenes_have_what_it_asks_for():
    """Its edits answer: each scene's recolouring is asked for by the words of the colours."""
    source = open_source("scenes:count=6:number=1:edits=recolour+replace:size=32")
    names = [
        name
        for label in ("object", "colour")
        for name in source.schema()[f"labels.{label}"].classes
    ]
    vectors = np.random.default_rng(0).normal(size=(256, 16))

    class Guess(Fake):
        def embed_texts(self, texts):
            return self.vectors[[names.index(text) for text in texts]]

    found = evaluate(Guess(vectors, size=32), source, ["arithmetic"])["arithmetic"]
    assert found["n"] == 18
    assert found["pairs"] >= 24  # to each of two edits and back
    assert 0 <= found["success"] <= 1
