"""GeoQA and GeoQA+ in the true form of their pickles; nothing in them is ever run."""

import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation.suites.answers import questions

FIGURE = np.arange(30, dtype=np.uint8).reshape(5, 6)


def question(number, **changed):
    """A question with the fields of the published files."""
    return {
        "id": number,
        "image": FIGURE + number,
        "subject": f"如图,AB∥CD,若∠1={40 + number}°,则∠2=()",
        "choices": ["30°", "40°", "50°", "60°"],
        "label": 1,
        "answer": "解:∵AB∥CD,∴∠2=40°.",
        "formal_point": {"平行线", "同位角"},
        "problem_type": "angle",
        "token_list": ["如", "图", "N_0"],
        "numbers": [40.0],
        "choice_nums": [30.0, 40.0, 50.0, 60.0],
        "manual_program": ["g_equal", "N_0"],
    } | changed


@pytest.fixture
def write(tmp_path):
    def save(rows, protocol=4):
        path = tmp_path / "new-test.pk"
        path.write_bytes(rows if isinstance(rows, bytes) else pickle.dumps(rows, protocol))
        return str(path)

    return save


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_question_has_its_figure_its_choices_and_how_it_is_solved(write, protocol):
    coloured = np.stack([FIGURE] * 3, -1)
    rows = [question(0), question(1, image=coloured, label=3, choices=[1, 2.5, 3, 4])]
    source = open_source(write(rows, protocol))
    assert list(source.keys()) == ["0", "1"]
    assert not source.damage
    [asked] = questions(source[0], choose=True)
    assert asked.text == rows[0]["subject"]
    assert (asked.answers, asked.choices) == (("40°",), tuple(rows[0]["choices"]))
    assert {text.role: text.text for text in source[0].texts}["solution"] == rows[0]["answer"]
    assert questions(source[1])[0].answers == ("4",)
    for sample, row in zip(source, rows, strict=True):
        image = sample.images["main"].decode().convert("RGB")
        grey = row["image"] if row["image"].ndim == 3 else np.stack([row["image"]] * 3, -1)
        assert np.array_equal(np.asarray(image), grey)


def test_what_cannot_be_read_is_counted_by_its_place(write):
    rows = [
        question(0, image=None),
        question(1),
        question(2, image=FIGURE.astype(np.float64)),
        question(3, image=FIGURE[None, None]),
        question(4, image=np.asfortranarray(FIGURE)),
        question(5, label=4),
        question(6, choices=[["nested"]]),
        question(7, subject=" "),
        "not a question",
        question(9, answer=None),
    ]
    path = write(rows)
    source = open_source(path)
    assert list(source.keys()) == ["1", "9"]
    reasons = {place.rpartition(" ")[2]: reason for place, reason in source.damage.items()}
    corrupt = dict.fromkeys(("1", "3", "4", "5"), "corrupt")
    assert reasons == corrupt | dict.fromkeys(("6", "7", "8", "9"), "columns")
    assert source.schema()["texts.solution"].optional
    assert not source.schema()["texts.answer"].optional


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": 1}, "holds a dict; it needs a list of questions"),
        ([1, 2], "none of its 2 entries has `image`, `subject`, `choices` and `label`"),
        ([], "none of its 0 entries"),
        (pickle.dumps([question(0)])[:-40], "cut short, or no pickle"),
        (b"no pickle", "cut short, or no pickle"),
    ],
)
def test_a_file_of_another_form_is_refused_in_a_line(write, rows, message):
    with pytest.raises(InputError, match=message):
        open_source(write(rows))
    with pytest.raises(InputError, match="no such file"):
        open_source("missing.pk")
    with pytest.raises(InputError, match="unknown option"):
        open_source(write([question(0)]) + ":images=x")


class Code:
    """What would run a command were it unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_what_would_run_code_is_refused_and_not_run(write, tmp_path):
    with pytest.raises(InputError, match=r"wants to import '(posix|nt)\.system' and was not read"):
        open_source(write([question(0), Code(tmp_path / "ran")]))
    assert not (tmp_path / "ran").exists()


@settings(max_examples=60)
@given(st.data())
def test_damaged_bytes_give_questions_or_one_line(tmp_path_factory, data):
    content = bytearray(pickle.dumps([question(0), question(1)]))
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "train.pk"
    path.write_bytes(content)
    try:
        source = open_source(str(path))
    except InputError:
        return
    for sample in source:
        sample.images["main"].decode()
