"""Answers against loops: which belong to which question, exact, VQA's consensus, choices, and
twins."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Fake, Rows, vectors
from tests.evaluation.suites.answers_helpers import FIELDS, a, asked, q

from diptych.data.sample import BadSample, Field, Sample, Text
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.answers import answers, normal_answer, questions, vqa_accuracy

NUMBER = st.integers(0, 3)


@settings(max_examples=100, deadline=None)
@given(
    given_=st.sampled_from("ab"), right=st.lists(st.sampled_from("abc"), min_size=4, max_size=12)
)
def test_vqa_is_the_mean_over_people_left_out(given_, right):
    parts = [
        min(1, sum(other == given_ for at, other in enumerate(right) if at != left) / 3)
        for left in range(len(right))
    ]
    assert vqa_accuracy(given_, right) == pytest.approx(np.mean(parts))


def test_vqa_of_ten_people():
    """The values that the definition gives for 0 to 4 people of ten who agree."""
    found = [round(vqa_accuracy("x", ["x"] * n + ["y"] * (10 - n)), 4) for n in range(5)]
    assert found == [0, 0.3, 0.6, 0.9, 1.0]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The Dog.", "dog"),
        ("two", "2"),
        ("A T-shirt", "t shirt"),
        ("it's", "its"),
        ("1.5 m.", "1.5 m"),
        (" yes! ", "yes"),
        ("A", "a"),
        ("the A", "the a"),
    ],
)
def test_what_makes_answers_equal(text, form):
    assert normal_answer(text) == form


def test_answers_follow_their_question_or_come_in_order():
    inline = asked("x", 0, q("how many?"), a("two"), a("2"), q("where?"), a("left"))
    assert [(each.text, each.answers) for each in questions(inline)] == [
        ("how many?", ("two", "2")),
        ("where?", ("left",)),
    ]
    apart = asked("x", 0, q("how many?"), q("where?"), a("two"), a("left"))
    assert {each.text: each.answers for each in questions(apart)} == {
        "how many?": ("two",),
        "where?": ("left",),
    }
    for texts, reason in (
        ([q("a"), q("b"), a("x")], "unpaired"),
        ([a("x")], "no-question"),
        ([], "no-question"),
    ):
        with pytest.raises(BadSample) as error:
            questions(asked("x", 0, *texts))
        assert error.value.reason in (reason, "unpaired")
    choice = asked("x", 0, q("which?"), a("b"), *(Text(text=text, role="choice") for text in "abc"))
    assert questions(choice, choose=True)[0].choices == ("a", "b", "c")
    with pytest.raises(BadSample, match="right and wrong choices"):
        questions(asked("x", 0, q("which?", "b", "B."), a("b")), choose=True)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=5,
    ),
    batch_size=st.integers(1, 4),
)
def test_written_answers_equal_loops(rows, batch_size):
    """The model answers every question with the image's number."""
    model = Fake(vectors(0))
    model.written = lambda number, prompt: f"The {number}."
    samples = [
        asked(
            str(at),
            number,
            *(text for right in lists for text in (q("how many?"), *(a(str(n)) for n in right))),
        )
        for at, (number, lists) in enumerate(rows)
    ]
    every = [(number, right) for number, lists in rows for right in lists]
    exact = [number in right for number, right in every]
    result = answers(model, Rows(samples, fields=FIELDS), batch_size=batch_size)
    assert result["exact"] == pytest.approx(np.mean(exact))
    assert result["n"] == len(every)
    assert result["chance_exact"] == max(
        np.mean([n in right for _, right in every]) for n in range(4)
    )
    people = [(str(number), list(map(str, right))) for number, right in every if len(right) >= 4]
    assert result.get("vqa") == (
        pytest.approx(np.mean([vqa_accuracy(*each) for each in people])) if people else None
    )
    assert model.largest <= batch_size


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 9), st.lists(st.integers(1, 9), min_size=2, max_size=4, unique=True)
        ),
        min_size=1,
        max_size=5,
    ),
    by=st.sampled_from(["match", "embed", "log_prob"]),
    tied=st.booleans(),
    seed=st.integers(0, 99),
)
def test_chosen_answers_equal_loops(rows, by, tied, seed):
    model = Fake(np.sign(vectors(seed)) if tied else vectors(seed))
    model.matcher = (
        model.vectors if by == "embed" else torch.from_numpy(np.round(vectors(seed + 1))).float()
    )
    samples = [
        asked(str(at), number, q("which?", *(f"no {n}" for n in choices)), a(f"No {choices[0]}"))
        for at, (number, choices) in enumerate(rows)
    ]
    hits, luck = [], []
    for number, choices in rows:
        scores = [float(model.matcher[number] @ model.matcher[n]) for n in choices]
        hits.append(all(scores[0] > other + 1e-5 for other in scores[1:]))
        luck.append(1 / len(choices))
    result = answers(model, Rows(samples, fields=FIELDS), by=by, batch_size=2)
    assert result["chosen"] == pytest.approx(np.mean(hits))
    assert result["chance_chosen"] == pytest.approx(np.mean(luck))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["", "x", "y"]), st.integers(0, 3)),
        min_size=1,
        max_size=8,
    )
)
def test_kinds_of_questions_have_accuracies_of_their_own(rows):
    """The model answers with the image's number."""
    model = Fake(vectors(0))
    model.written = lambda number, prompt: str(number)
    samples = []
    for at, (number, kind, right) in enumerate(rows):
        question = Text(text="how many?", role="question", attrs={"kind": kind} if kind else {})
        samples.append(asked(str(at), number, question, a(str(right))))
    found = answers(model, Rows(samples, fields=FIELDS)).get("by_kind", {})
    assert list(found) == list(dict.fromkeys(kind for _, kind, _ in rows if kind))
    for name, each in found.items():
        mine = [(number, right) for number, kind, right in rows if kind == name]
        rights = [right for _, right in mine]
        assert each == {
            "n": len(mine),
            "exact": pytest.approx(np.mean([number == right for number, right in mine])),
            "chance_exact": pytest.approx(max(map(rights.count, rights)) / len(mine)),
        }


def test_twins_count_where_both_are_right():
    """Two twins: the same question, another answer; and an edit with the same answer, which is
    none."""

    def sample(number: int, own: str, other: str) -> Sample:
        edit = asked(f"{number}/e", number + 1, q("what?", "1", "2", "3"), a(other))
        return replace(
            asked(str(number), number, q("what?", "1", "2", "3"), a(own), q("why?"), a("so")),
            edits=[edit],
        )

    source = Rows([sample(1, "1", "2"), sample(5, "1", "3"), sample(3, "1", "1")], fields=FIELDS)
    model = Fake(vectors(0))
    model.written = lambda number, prompt: (
        {1: "1", 2: "2", 5: "1", 6: "2", 3: "1", 4: "1"}[number] if prompt == "what?" else ""
    )
    result = answers(model, source)
    assert result["paired"] == 0.5
    assert result["exact"] == pytest.approx(3 / 6)  # the edits' own questions count in pairs alone
    assert (result["n"], result["chance_paired"]) == (6, 0.0)
    model.matcher = torch.eye(20)[:, :10]
    model.matcher[1] = model.matcher[2] = torch.tensor([0, 1.0, 0.9, *[0] * 7])
    chosen = answers(model, source, by="match")
    assert chosen["chance_paired"] == pytest.approx(1 / 9)
    assert chosen["n"] == 3  # "why?" has no choices


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("guess", "way to answer 'guess'"),
        ("generate", "answers by generate needs a model with generate, which Mute has not"),
    ],
)
def test_a_model_that_cannot_answer_is_told(by, message):
    class Mute(Fake):
        generate = property()

    with pytest.raises(InputError, match=message):
        evaluate(
            Mute(vectors(0)),
            Rows([asked("a", 1, q("x"), a("y"))], fields=FIELDS),
            ["answers"],
            by=by,
        )


def test_a_classifier_reads_image_and_question_together():
    """The answer is the image's number for one question, and one more for the other."""

    class Fusing(Fake):
        def fuse(self, images, texts, *, batch_size):
            number = torch.tensor(
                [
                    int(at) + (text == "and then?")
                    for at, text in zip(self.numbers(images), texts, strict=True)
                ]
            )
            return torch.nn.functional.one_hot(number, 6).float()

    def source(count):
        names = ("one", "two", "three", "four", "five", "six")
        return Rows(
            [
                asked(
                    str(at),
                    at % 4,
                    q("which?"),
                    a(names[at % 4]),
                    q("and then?"),
                    a(names[at % 4 + 1]),
                )
                for at in range(count)
            ],
            fields=FIELDS,
        )

    model = Fusing(vectors(0))
    found = answers(model, source(8), by="classifier", train=source(40))
    assert (found["n"], found["exact"], found["chance_exact"]) == (16, 1.0, 0.25)
    few = answers(
        model, source(8), by="classifier", train=Rows(source(40).samples[::2], fields=FIELDS)
    )
    assert few["exact"] < 1  # answers that were never given in training are not given
    assert few["protocol"] != found["protocol"]
    with pytest.raises(InputError, match="name a source of them with --train"):
        answers(model, source(8), by="classifier")
    with pytest.raises(InputError, match="answers by generate learn nothing; leave out --train"):
        answers(model, source(8), train=source(8))


def test_the_protocol_tells_how_it_was_answered_and_questions_alone_are_not_enough():
    source = Rows([asked("a", 1, q("x 1", "y 1", "z 2"), a("y 1"))], fields=FIELDS)
    ways = ("generate", "log_prob", "match", "embed")
    assert len({answers(Fake(vectors(0)), source, by=by)["protocol"] for by in ways}) == 4
    with pytest.raises(
        InputError, match=r"answers needs texts.answer, which source 'rows' does not give"
    ):
        evaluate(
            Fake(vectors(0)),
            Rows(source.samples, fields={"texts.question": Field(kind="text")}),
            ["answers"],
        )
