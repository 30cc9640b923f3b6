"""Retrieval and zero-shot against loops on a source small enough to see through."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Fake, Rows, row, vectors

from diptych.data.sample import Field
from diptych.errors import InputError
from diptych.evaluation import cards, evaluate
from diptych.evaluation.protocol import Protocol, data_of, split_of
from diptych.evaluation.suites.retrieval import retrieval
from diptych.evaluation.suites.zeroshot import TEMPLATES, zeroshot


@settings(max_examples=40, deadline=None)
@given(
    captions=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=8),
    tied=st.booleans(),
    seed=st.integers(0, 100),
    batch_size=st.integers(1, 5),
)
def test_retrieval_equals_loops_with_several_and_shared_captions(captions, tied, seed, batch_size):
    table = np.sign(vectors(seed)) if tied else vectors(seed)
    model = Fake(table)
    source = Rows(
        [row(str(i), i, *(f"Text {n}" for n in numbers)) for i, numbers in enumerate(captions)]
    )
    result = retrieval(model, source, ks=(1, 2), batch_size=batch_size)
    texts = sorted({n for numbers in captions for n in numbers})
    score = (model.vectors[: len(captions)] @ model.vectors[texts].T).numpy()
    right = np.array([[text in numbers for text in texts] for numbers in captions])
    for name, scores, good in (("i2t", score, right), ("t2i", score.T, right.T)):
        ranks = [
            1 + sum(s >= max(line[ok]) - 1e-6 for s in line[~ok])
            for line, ok in zip(scores, good, strict=True)
        ]
        for k in (1, 2):
            assert result[f"{name}_r{k}"] == pytest.approx(np.mean([rank <= k for rank in ranks]))
        assert result[f"{name}_median_rank"] == np.median(ranks)
    assert (result["n"], result["texts"]) == (len(captions), len(texts))


def test_equal_texts_are_one_target_and_one_query():
    model = Fake(vectors(0))
    source = Rows([row("a", 1, "Dog 1"), row("b", 2, " dog 1 "), row("c", 3, "cat 3")])
    result = retrieval(model, source, ks=(1,))
    assert result["texts"] == 2
    assert model.seen == ["Dog 1", "cat 3"]
    assert result["t2i_r1"] == 1.0  # the best of a and b counts
    assert result["chance_t2i_r1"] == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_damaged_samples_are_counted_by_reason_and_their_texts_left_out():
    source = Rows(
        [
            row("a", 1, "dog 1"),
            row("b", 2, "only the broken one 2", damage="truncated"),
            row("c", 3),
            row("d", 4, "cat 4", "   "),
            replace(row("e", 5, "no image 5"), images={}),
        ]
    )
    for batch_size in (1, 2, 64):
        result = retrieval(Fake(vectors(0)), source, batch_size=batch_size)
        assert result["bad"] == {"truncated": 1, "no-caption": 1, "no-image": 1}
        assert (result["n"], result["texts"]) == (2, 2)
        assert result["i2t_r1"] == 1.0


def test_a_suite_in_a_file_is_measured_and_has_a_protocol(tmp_path):
    model, source = Fake(vectors(0)), Rows([row("a", 1, "dog 1"), row("b", 2, "cat 2")])
    path = tmp_path / "mine.py"
    path.write_text(
        "card = {'title': 'Mine', 'needs': ['images'], 'abilities': ['embed_images']}\n"
        "def mine(model, source, *, times=1, progress=None):\n"
        "    return {'n': times * len(source)}\n"
    )
    found = evaluate(model, source, [str(path)], times=3)[str(path)]
    assert (found["n"], found["bad"], found["options"]) == (6, {}, ["times=3"])
    other = evaluate(model, source, [str(path)])[str(path)]
    assert len(found["protocol"]) == 12
    assert found["protocol"] != other["protocol"]
    with pytest.raises(InputError, match="unknown evaluation setting 'tims'"):
        evaluate(model, source, [str(path)], tims=3)
    path.write_text("card = {'needs': [], 'abilities': []}\n")
    with pytest.raises(InputError, match="has no function mine; write def mine"):
        evaluate(model, source, [str(path)])
    path.write_text("")
    with pytest.raises(InputError, match="has no card; write card = "):
        evaluate(model, source, [str(path)])


def test_samples_that_were_lost_on_opening_are_counted():
    source = Rows([row("a", 1, "dog 1"), row("b", 2, "cat 2"), row("c", 3)])
    source.damage = {"line 9": "columns", "line 12": "columns"}
    result = evaluate(Fake(vectors(0)), source, ["retrieval"])["retrieval"]
    assert result["bad"] == {"columns": 2, "no-caption": 1}


def test_a_source_with_nothing_readable_is_an_error_that_says_why():
    with pytest.raises(InputError, match=r"none of the 2 samples of 'rows' can be used \(2 html\)"):
        retrieval(Fake(vectors(0)), Rows([row(key, 1, "x 1", damage="html") for key in "ab"]))


def test_batches_are_no_larger_than_asked_and_progress_ends_at_its_total():
    model, calls = Fake(vectors(0)), []
    source = Rows([row(str(i), i, f"t {i}") for i in range(7)])
    retrieval(model, source, batch_size=3, progress=lambda done, total: calls.append((done, total)))
    assert model.largest == 3
    assert calls[-1] == (14, 14)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(-1, 6), min_size=1, max_size=12), seed=st.integers(0, 100))
def test_zeroshot_equals_loops_and_leaves_unlabelled_samples_out(labels, seed):
    model = Fake(vectors(seed, 40))
    names = [f"c{n}" for n in range(7)]
    source = Rows([row(str(i), 20 + i, label=label) for i, label in enumerate(labels)], names)
    templates = ("{}", "1{} !", "2{}")  # c3 -> rows 3, 13, 23 of the table
    kept = [(20 + i, label) for i, label in enumerate(labels) if label >= 0]
    if not kept:
        with pytest.raises(InputError, match="no-label"):
            zeroshot(model, source, templates=templates)
        return
    result = zeroshot(model, source, templates=templates, batch_size=4)
    directions = []
    for n in range(7):
        mean = (model.vectors[n] + model.vectors[10 + n] + model.vectors[20 + n]) / 3
        directions.append(mean / mean.norm())
    hits: dict[int, list[int]] = {}
    top5 = []
    for number, label in kept:
        scores = [float(model.vectors[number] @ direction) for direction in directions]
        rank = 1 + sum(score >= scores[label] for n, score in enumerate(scores) if n != label)
        hits.setdefault(label, []).append(rank == 1)
        top5.append(rank <= 5)
    assert result["top1"] == pytest.approx(
        np.mean([hit for values in hits.values() for hit in values])
    )
    assert result["top5"] == pytest.approx(np.mean(top5))
    assert result["mean_per_class"] == pytest.approx(
        np.mean([np.mean(values) for values in hits.values()])
    )
    assert (result["n"], result["classes_seen"]) == (len(kept), len(hits))
    assert (result["chance_top1"], result["chance_top5"]) == (1 / 7, 5 / 7)
    assert result["bad"] == (
        {"no-label": len(labels) - len(kept)} if len(kept) < len(labels) else {}
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("/here/pets/:part=2/5", "pets:part=2/5"),
        (
            "C:\\photos\\pets:classes=base:shots=2:draw=0:part=1/3",
            "pets:classes=base:shots=2:draw=0:part=1/3",
        ),
        ("a/x.tar:part=1/2,/b/y.tar", "x.tar:part=1/2,y.tar"),
        ("a/{x,y}.tar", "{x,y}.tar"),
        ("scenes:count=5", "scenes:count=5"),
    ],
)
def test_data_is_named_without_its_folders_and_with_all_of_its_options(name, data):
    class Named:
        def __init__(self, name):
            self.name = name

    assert data_of(Named(name)) == data


BASE = Protocol(task="retrieval", data="d", split=split_of(["a", "b"]), field="caption")


@pytest.mark.parametrize(
    "change",
    [
        {"task": "zeroshot"},
        {"data": "e"},
        {"split": split_of(["a"])},
        {"split": split_of(["a", "c"])},
        {"field": "tags"},
        {"prompts": ("a {}",)},
        {"classes": ("cat",)},
        {"rule": "ties win"},
        {"decoding": "scaled"},
        {"precision": "bfloat16"},
        {"options": ("seed=1",)},
    ],
)
def test_25_the_protocol_id_changes_whenever_a_part_changes(change):
    assert replace(BASE, **change).id() != BASE.id()
    assert replace(BASE).id() == BASE.id()


def test_25_a_protocol_without_options_has_the_id_that_it_had_before_there_were_any():
    assert BASE.id() == "1dac5eee8955"


def test_25_the_id_of_a_result_changes_with_split_prompt_and_precision():
    samples = [row(str(i), i, f"t {i}", label=i % 3) for i in range(6)]

    def ids(samples=samples, precision="float32", templates=TEMPLATES, seed=0, batch_size=64):
        model = Fake(vectors(seed))
        model.precision = precision
        results = evaluate(
            model,
            Rows(samples),
            ["retrieval", "zeroshot"],
            templates=templates,
            batch_size=batch_size,
        )
        return results["retrieval"]["protocol"], results["zeroshot"]["protocol"]

    base = ids()
    assert ids(seed=1, batch_size=2) == base
    assert all(a != b for a, b in zip(ids(samples[:-1]), base, strict=True))
    assert all(a != b for a, b in zip(ids(precision="bfloat16"), base, strict=True))
    assert ids(templates=("{}",))[0] == base[0]
    assert ids(templates=("{}",))[1] != base[1]


def test_25_the_protocol_does_not_depend_on_the_folder_that_holds_the_data():
    source, moved = (Rows([row("a", 1, "t 1")]) for _ in range(2))
    source.name, moved.name = "/data/pets/test.tar,/data/more.csv", "D:\\pets\\test.tar,more.csv"
    results = [retrieval(Fake(vectors(0)), each) for each in (source, moved)]
    assert results[0]["data"] == "test.tar,more.csv"
    assert results[0]["protocol"] == results[1]["protocol"]


def test_suites_are_found_by_folder_and_read_without_torch():
    assert {
        "retrieval",
        "zeroshot",
        "probe",
        "composition",
        "sts",
        "gap",
        "continual",
        "captions",
    } <= set(cards())
    for name, card in cards().items():
        assert card["title"], name
        assert all(ability.isidentifier() for ability in card["abilities"]), name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, s: evaluate(m, s, ["retrival"]),
            "unknown suite 'retrival'; did you mean 'retrieval'",
        ),
        (lambda m, s: evaluate(m, s, ["zeroshot"], template=("{}",)), "did you mean 'templates'"),
        (
            lambda m, s: evaluate(object(), s),
            "retrieval needs a model with embed_images, which object has not",
        ),
        (lambda m, s: evaluate(m, Rows([])), "empty"),
        (lambda m, s: zeroshot(m, s, label="clas"), "did you mean 'class'"),
        (lambda m, s: zeroshot(m, s, templates=("photo",)), "must hold {} once"),
        (lambda m, s: zeroshot(m, Rows(s.samples, ())), "a label with class names"),
    ],
)
def test_bad_requests_are_named_before_anything_is_computed(call, message):
    model = Fake(vectors(0))
    with pytest.raises(InputError, match=message):
        call(model, Rows([row("a", 1, "t 1", label=0)]))
    assert not model.seen


def test_a_source_without_the_field_is_an_error_that_names_field_suite_and_source():
    class Bare(Rows):
        def schema(self):
            return {"images.main": Field(kind="image")}

    with pytest.raises(
        InputError, match="retrieval needs texts, which source 'rows' does not give"
    ):
        evaluate(Fake(vectors(0)), Bare([row("a", 1)]))


def test_every_suite_has_a_section_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    for name in cards():
        assert f"\n### {name}\n" in page, name
        assert f"--suite {name}" in page or f",{name}" in page, name


def test_a_long_text_scores_as_its_best_sentence():
    table = vectors(0)
    source = Rows(
        [
            row("a", 1, "A 1. B 2\nC 3.", "D 4"),
            row("b", 2, "E 5"),
            row("c", 3, "no number. F 6. F 6"),
        ]
    )
    result = retrieval(Fake(table), source, ks=(1,), by_sentence=True, by="best")
    owners = [[1, 2, 3, 4], [5], [0, 6, 6]]
    rows = Fake(table).vectors.numpy()
    scores = np.array(
        [
            [max(rows[image] @ rows[text] for text in owner) for owner in owners]
            for image in (1, 2, 3)
        ]
    )
    assert result["i2t_r1"] == pytest.approx((scores.argmax(1) == np.arange(3)).mean())
    assert result["t2i_r1"] == pytest.approx((scores.argmax(0) == np.arange(3)).mean())
    mean = retrieval(Fake(table), source, ks=(1,), by_sentence=True)
    assert result["protocol"] != mean["protocol"]
    with pytest.raises(InputError, match="add by_sentence"):
        evaluate(Fake(table), source, ["retrieval"], by="best")


def test_a_long_text_is_the_mean_of_its_sentences():
    table = vectors(0)
    source = Rows(
        [
            row("a", 1, "A 1. B 2\nC 3.", "D 4"),
            row("b", 2, "E 5"),
            row("c", 3, "no number. F 6. F 6"),
        ]
    )
    model, calls = Fake(table), []
    result = retrieval(
        model, source, ks=(1,), by_sentence=True, progress=lambda *done: calls.append(done)
    )
    assert model.seen == ["A 1", "B 2", "C 3", "D 4", "E 5", "no number", "F 6", "F 6"]
    assert calls[-1][0] == calls[-1][1] == 3 + 8
    owners = [[1, 2, 3, 4], [5], [0, 6, 6]]
    means = np.stack([model.vectors.numpy()[numbers].mean(0) for numbers in owners])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    scores = model.vectors.numpy()[[1, 2, 3]] @ means.T
    assert result["i2t_r1"] == pytest.approx((scores.argmax(1) == np.arange(3)).mean())
    assert result["t2i_r1"] == pytest.approx((scores.argmax(0) == np.arange(3)).mean())
    short = Rows([row("a", 1, "A 1")])
    assert (
        len({retrieval(Fake(table), short, by_sentence=how)["protocol"] for how in (True, False)})
        == 2
    )
    with pytest.raises(InputError, match="leave out either rerank or by_sentence"):
        evaluate(Fake(table), source, ["retrieval"], by_sentence=True, rerank=2)
