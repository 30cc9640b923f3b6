"""Pairs of sentences with scores, on fixtures of the true forms of SemEval's files."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.errors import InputError

IMAGES = [
    ("A woman riding a brown horse.", "A young child riding a horse.", "1.6"),
    ('Sheep "standing" in a field', "Two sheep stand in a field .", ""),  # not annotated
    ("A black dog.", "A black dog.", "5.0"),
]
HEADLINES = [("Iran hopes nuclear talks", "Iran says talks\tcorpus\tsource", "2.400")]
BENCHMARK = (
    "main-captions\tMSRvid\t2012test\t0001\t2.500\tA girl is styling her hair.\tA girl is brushing her hair.\n"
    'main-news\theadlines\t2013\t0024\t4.000\tHe said, "no\tHe said "no" today\tLicense\tLicense\n'
    "main-news\theadlines\t2013\t0025\tx\tbroken\tscore\n"
)
SICK = (
    "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    "6\tThere is no boy playing outdoors\tA group of kids is playing\t3.3\tNEUTRAL\n"
    "7\tA brown dog attacks\tA brown dog is attacking\t4.7\tENTAILMENT\n"
)


@pytest.fixture
def folder(tmp_path):
    """STS14 as it is unpacked, with the files of all parts that are read part by part."""
    for part, rows in (("images", IMAGES), ("headlines", HEADLINES), ("ALL", IMAGES)):
        said = "".join(f"{first}\t{second}\n" for first, second, _ in rows)
        (tmp_path / f"STS.input.{part}.txt").write_text(said, "utf-8")
        (tmp_path / f"STS.gs.{part}.txt").write_text("".join(f"{row[2]}\n" for row in rows))
    (tmp_path / "00-readme.txt").write_text("SemEval-2014\n")
    return tmp_path


def test_a_folder_is_the_scored_pairs_of_its_parts(folder):
    source = open_source(str(folder))
    assert isinstance(source, Source)
    assert list(source.keys()) == ["headlines/1", "images/1", "images/3"]
    pair = source[1]
    assert [(text.role, text.text) for text in pair.texts] == [
        ("caption", "A woman riding a brown horse."),
        ("pair", "A young child riding a horse."),
    ]
    assert pair.labels == {"score": 1.6, "part": 1}
    assert source.schema()["labels.part"].classes == ("headlines", "images")
    assert source.labels("score").tolist() == [2.4, 1.6, 5.0]
    assert source.damage == {}


def test_further_columns_of_later_years_are_left_out(folder):
    assert open_source(f"{folder}:parts=headlines")[0].captions("pair") == ["Iran says talks"]


def test_parts_are_chosen_by_name(folder):
    assert len(open_source(f"{folder}:parts=images")) == 2
    assert len(open_source(f"{folder}:parts=images+headlines")) == 3
    with pytest.raises(InputError, match="images"):
        open_source(f"{folder}:parts=image")


def test_the_benchmark_keeps_its_quotes_and_counts_what_it_cannot_read(tmp_path):
    path = tmp_path / "sts-test.csv"
    path.write_text(BENCHMARK, "utf-8")
    source = open_source(str(path))
    assert [source[at].captions() for at in range(2)] == [
        ["A girl is styling her hair."],
        ['He said, "no'],
    ]
    assert source.labels("score").tolist() == [2.5, 4.0]
    assert source.schema()["labels.part"].classes == ("MSRvid", "headlines")
    assert source.damage == {"sts-test.csv:3": "score"}


def test_sick_has_relatedness_and_entailment(tmp_path):
    path = tmp_path / "SICK_test_annotated.txt"
    path.write_text(SICK, "utf-8")
    source = open_source(str(path))
    assert list(source.keys()) == ["6", "7"]
    assert source[0].labels == {"score": 3.3, "entailment": 1}
    assert source[1].captions("pair") == ["A brown dog is attacking"]


def test_other_text_files_are_lines(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_text("a cat\na dog\n")
    assert open_source(str(path))[1].captions() == ["a dog"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "STS.gs.images.txt").unlink(), "no such file"),
        (lambda folder: (folder / "STS.gs.images.txt").write_text("1\n"), "3 lines"),
        (
            lambda folder: (folder / "STS.input.images.txt").write_bytes(b"\xff\xfe a\n" * 3),
            "UTF-8",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message):
        open_source(str(folder))


def test_files_without_a_pair_are_refused(tmp_path):
    (tmp_path / "STS.input.a.txt").write_text("one sentence alone\n")
    (tmp_path / "STS.gs.a.txt").write_text("3\n")
    with pytest.raises(InputError, match="no line is two sentences"):
        open_source(str(tmp_path))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60), st.text(max_size=10))
def test_any_text_is_read_or_refused(tmp_path_factory, said, score):
    folder = tmp_path_factory.mktemp("sts")
    (folder / "STS.input.a.txt").write_text(said, "utf-8", errors="replace", newline="")
    (folder / "STS.gs.a.txt").write_text(score, "utf-8", errors="replace", newline="")
    try:
        source = open_source(str(folder))
    except InputError:
        return
    for at in range(len(source)):
        assert 0 <= source[at].labels["score"] <= 5
        assert all(text.text.strip() for text in source[at].texts)
