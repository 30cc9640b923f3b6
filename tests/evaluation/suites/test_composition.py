"""Composition against loops and orders in full: pairs, Winoground, n-way, chance; by embedding and
by match."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Dot, Fake, Rows, row, vectors

from diptych.data.sample import Field, Sample, Text
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites._groups import Siblings
from diptych.evaluation.suites.composition import (
    chance_group,
    closest,
    composition,
    n_way,
    own_choices,
    pair_scores,
    report,
)

EDITS = {"edits": Field(kind="edit")}


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(1, 8), tied=st.booleans(), lacking=st.booleans(), seed=st.integers(0, 10**6)
)
def test_pairs_equal_loops_with_ties_and_missing_images_or_texts(count, tied, lacking, seed):
    rng = np.random.default_rng(seed)
    scores = (
        rng.integers(0, 3, (count, 2, 2)).astype(float) if tied else rng.normal(size=(count, 2, 2))
    )
    for pair in scores:
        if lacking and rng.random() < 0.5:
            pair[(1, slice(None)) if rng.random() < 0.5 else (slice(None), 1)] = np.nan
    found: dict[str, list[float]] = {}
    for (a, b), (c, d) in scores:  # a and d belong together
        whole = not any(map(math.isnan, (a, b, c, d)))
        found.setdefault("i2t_2way", []).extend(
            float(x > y) for x, y in ((a, b), (d, c)) if not math.isnan(x) and not math.isnan(y)
        )
        found.setdefault("t2i_2way", []).extend(
            float(x > y) for x, y in ((a, c), (d, b)) if not math.isnan(x) and not math.isnan(y)
        )
        if whole:
            found.setdefault("text", []).append(float(a > b and d > c))
            found.setdefault("image", []).append(float(a > c and d > b))
            found.setdefault("group", []).append(float(a > b and d > c and a > c and d > b))
    result = pair_scores(scores)
    measured = {name: value for name, value in result.items() if not name.startswith("chance_")}
    assert measured == pytest.approx({name: np.mean(hits) for name, hits in found.items() if hits})
    assert all(f"chance_{name}" in result for name in measured)


def test_the_chances_of_pairs_are_those_of_all_24_orders():
    orders = np.array(list(itertools.permutations(range(4))), float).reshape(-1, 2, 2)
    result = pair_scores(orders)
    for name in ("i2t_2way", "t2i_2way", "text", "image", "group"):
        assert result[name] == pytest.approx(result[f"chance_{name}"]), name


@pytest.mark.parametrize("n", [2, 3])
def test_the_chances_of_units_are_those_of_all_orders(n):
    orders = np.array(list(itertools.permutations(range(n * n))), np.int32).reshape(-1, n, n)
    own = orders[:, np.arange(n), np.arange(n)]
    text, image = own >= orders.max(2), own >= orders.max(1)
    result = n_way([np.eye(n)])
    assert result["chance_text_1"] == result["chance_image_1"] == pytest.approx(text.mean())
    assert result["chance_group_1"] == pytest.approx((text & image).mean())
    assert (
        result["chance_text_all"] == result["chance_image_all"] == pytest.approx(text.all(1).mean())
    )
    assert (
        result["chance_group_all"] == chance_group(n) == pytest.approx((text & image).all(1).mean())
    )


def test_the_four_way_anchor():
    logits = np.array(
        [[0.9, 0.2, 0.1, 0], [0.8, 0.7, 0.1, 0], [0.1, 0.2, 0.6, 0.65], [0, 0.1, 0.3, 0.5]]
    )
    found = n_way([logits])
    assert (found["text_1"], found["image_1"], found["group_1"]) == (0.5, 0.75, 0.25)
    assert found["text_all"] == found["image_all"] == found["group_all"] == 0
    assert found["ways"] == 4


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 5), min_size=1, max_size=4),
    tied=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_units_equal_loops_with_ties(sizes, tied, seed):
    rng = np.random.default_rng(seed)
    tables = [
        rng.integers(0, 3, (n, n)).astype(float) if tied else rng.normal(size=(n, n)) for n in sizes
    ]
    text, image, group, whole = [], [], [], []
    for table in tables:
        n = len(table)
        rows = [all(table[i, i] > table[i, j] for j in range(n) if j != i) for i in range(n)]
        columns = [all(table[i, i] > table[j, i] for j in range(n) if j != i) for i in range(n)]
        both = [a and b for a, b in zip(rows, columns, strict=True)]
        text, image, group, whole = text + rows, image + columns, group + both, [*whole, all(both)]
    found = n_way(tables)
    assert found["text_1"] == pytest.approx(np.mean(text))
    assert found["image_1"] == pytest.approx(np.mean(image))
    assert found["group_1"] == pytest.approx(np.mean(group))
    assert found["group_all"] == pytest.approx(np.mean(whole))


def test_scores_that_differ_by_rounding_alone_are_ties():
    assert pair_scores(np.array([[[1 + 1e-7, 1], [1, 1 + 1e-7]]]))["i2t_2way"] == 0
    assert n_way([np.eye(2) * 1e-7 + 1])["text_1"] == 0


def test_kinds_are_told_apart_and_several_edits_of_a_kind_make_an_n_way_choice():
    table = np.array([[5, 1, 2, 9], [0, 5, 6, 0], [0, 1, 5, 0], [0, 0, 0, 5]], float)
    found = report([table], [("", "swap", "swap", "add")])
    assert set(found["by_kind"]) == {"swap", "add"}
    assert found["by_kind"]["swap"]["n"] == 2
    assert found["by_kind"]["swap"]["i2t_2way"] == 1.0
    assert found["by_kind"]["swap"]["ways"] == 3
    assert found["by_kind"]["swap"]["text_1"] == pytest.approx(2 / 3)
    half = {"i2t_2way": 0.5, "t2i_2way": 0.5, "text": 0.0, "image": 0.0, "group": 0.0}
    assert found["by_kind"]["add"] == {"n": 1, **half}
    assert (found["n"], found["pairs"]) == (1, 3)


# ---- the suite


MAYBE = st.none() | st.integers(0, 9)


def edited(
    key: str, number: int, *edits: tuple[str, int | None, int | None], caption: str | None = None
) -> Sample:
    """A sample of image and text `number`, with edits (kind, image, text)."""
    made = [
        Sample(
            key=f"{key}/{at}",
            source="rows",
            images={} if image is None else {"main": Dot(image)},
            texts=() if text is None else [Text(text=f"t {text}")],
            kind=kind,
        )
        for at, (kind, image, text) in enumerate(edits)
    ]
    return replace(row(key, number, caption or f"t {number}"), edits=made)


@settings(max_examples=40, deadline=None)
@given(
    samples=st.lists(
        st.tuples(
            st.integers(0, 9),
            st.lists(
                st.tuples(
                    st.sampled_from(["swap", "add"]),
                    st.none() | st.integers(0, 9),
                    st.none() | st.integers(0, 9),
                ),
                min_size=1,
                max_size=3,
            ),
        ),
        min_size=1,
        max_size=5,
    ),
    by=st.sampled_from(["embed", "match"]),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_the_suite_scores_each_sample_with_its_edits(samples, by, batch_size, seed):
    model = Fake(vectors(seed))
    model.matcher = model.vectors if by == "embed" else torch.from_numpy(vectors(seed + 1)).float()
    source = Rows(
        [edited(str(at), number, *edits) for at, (number, edits) in enumerate(samples)],
        fields=EDITS,
    )
    tables, kinds = [], []
    for number, edits in samples:
        images, texts = [number, *(p for _, p, _ in edits)], [number, *(t for _, _, t in edits)]
        texts = [texts[0], *(None if text == number else text for text in texts[1:])]
        tables.append(
            np.array(
                [
                    [
                        math.nan
                        if p is None or t is None
                        else float(model.matcher[p] @ model.matcher[t])
                        for t in texts
                    ]
                    for p in images
                ]
            )
        )
        kinds.append(["", *(kind for kind, _, _ in edits)])
    result = composition(model, source, by=by, batch_size=batch_size)
    expected = report(tables, kinds)
    for name, value in expected.items():
        if name != "by_kind":
            assert result[name] == pytest.approx(value), name
    assert set(result["by_kind"]) == set(expected["by_kind"])
    for kind, values in expected["by_kind"].items():
        assert result["by_kind"][kind] == pytest.approx(values)


def test_the_protocol_tells_how_it_was_scored():
    source = Rows([edited("a", 1, ("swap", 2, 2))], fields=EDITS)
    by_embed, by_match = (
        composition(Fake(vectors(0)), source, by=by)["protocol"] for by in ("embed", "match")
    )
    assert by_embed != by_match


def test_edits_that_change_no_text_are_reported_or_half_counted():
    source = Rows(
        [edited("a", 1, ("move", 2, 1)), row("b", 2, "t 2"), edited("c", 3, ("add", 4, 4))],
        fields=EDITS,
    )
    result = composition(Fake(vectors(0)), source)
    assert result["bad"] == {"no-edit": 1}
    assert set(result["by_kind"]["move"]) == {
        "n",
        "t2i_2way",
    }  # the text is the same, so images cannot choose
    assert result["by_kind"]["add"]["group"] in (0.0, 1.0)


def test_negatives_of_a_sample_are_set_against_the_text_they_are_closest_to():
    assert closest("a red cup left of a box", ["some things", "a blue cup left of a box"]) == 1
    sample = replace(
        row("a", 1, "things 9 by a tree", "one 1 small dog"),
        texts=[
            *row("a", 1, "things 9 by a tree", "one 1 small dog").texts,
            Text(text="one 2 small dog", role="negative"),
            Text(text="One 1 small dog", role="negative"),  # no negative at all
        ],
    )
    model = Fake(vectors(0))
    source = Rows([sample], fields={"texts.negative": Field(kind="text")})
    result = composition(model, source, negatives=["negative"])
    good, bad = (
        float(model.vectors[1] @ model.vectors[1]),
        float(model.vectors[1] @ model.vectors[2]),
    )
    assert result["by_kind"] == {"negative": {"n": 1, "i2t_2way": float(good > bad)}}


def test_siblings_are_edits_of_the_first():
    samples = [
        replace(
            row(str(at), at, f"t {at}"),
            labels={"scene": at // 3 if at < 7 else -1},
            kind="move" * (at % 3),
        )
        for at in range(8)
    ]
    source = Rows(samples, fields={"labels.scene": Field(kind="int")})
    grouped = Siblings(source, "scene")
    assert list(grouped.keys()) == ["0", "3"]
    assert [edit.key for edit in grouped[1].edits] == ["4", "5"]
    model = Fake(vectors(0))
    result = composition(model, source, siblings="scene")
    tables = [(model.vectors[at : at + 3] @ model.vectors[at : at + 3].T).numpy() for at in (0, 3)]
    assert result["group_1"] == pytest.approx(n_way(tables)["group_1"])
    assert result["ways"] == 3
    with pytest.raises(InputError, match="no two samples of 'rows' share a value of label 'class'"):
        composition(model, source, siblings="class")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            "composition needs edits, siblings=LABEL or negatives=ROLE; source 'rows' gives images.main",
        ),
        ({"siblings": "clas"}, "did you mean 'class'"),
        ({"negatives": ["negativ"]}, "role of the texts of source 'rows' 'negativ'"),
        ({"by": "look", "siblings": "class"}, "way to score 'look'"),
        (
            {"by": "match", "siblings": "class"},
            "composition needs a model with match, which NoMatch has not",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_computed(settings, message):
    class NoMatch(Fake):
        match = property()

    with pytest.raises(InputError, match=message):
        evaluate(
            NoMatch(vectors(0)), Rows([row("a", 1, "t 1", label=0)]), ["composition"], **settings
        )


def test_own_choices_are_among_what_is_there():
    """A sample with two wrong texts that have no image, and two images that have no text."""
    nan = np.nan
    table = np.full((5, 5), nan)
    table[0, :3] = 0.5, 0.4, 0.3
    table[[0, 3, 4], 0] = 0.5, 0.5, 0.2  # a tie loses
    found = own_choices([table, np.eye(2)])
    assert found == {
        "text_own": 1.0,
        "image_own": 0.0,
        "chance_text_own": pytest.approx(1 / 3),
        "chance_image_own": pytest.approx(1 / 3),
    }
    assert own_choices([np.eye(2)]) == {}
    assert report([table], [("", "a", "a", "b", "b")])["by_kind"]["a"]["text_own"] == 1.0
