"""SNLI and SNLI-VE, on fixtures of their true forms."""

import json
from collections import Counter

import pytest
from PIL import Image

from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation.suites.answers import questions


def pair(number, label, **more):
    return {
        "annotator_labels": [label],
        "gold_label": label,
        "pairID": f"4705552913.jpg#{number}r1n",
        "sentence1": "Two women are embracing while holding to go packages.",
        "sentence1_binary_parse": "( ( Two women ) ( ( are embracing ) . ) )",
        "sentence1_parse": "(ROOT (S (NP (CD Two) (NNS women))))",
        "sentence2": f"The sisters are hugging goodbye ({number}).",
        "sentence2_binary_parse": "( The sisters )",
        "sentence2_parse": "(ROOT (NP (DT The)))",
        **more,
    }


SNLI = [
    pair(at, label, captionID="4705552913.jpg#2")
    for at, label in enumerate(["neutral", "-", "contradiction"])
]
VE = [
    pair(at, label, captionID="4705552913.jpg#2", Flickr30K_ID="4705552913")
    for at, label in enumerate(["entailment", "neutral"])
]


@pytest.fixture
def write(tmp_path):
    def written(name, rows):
        path = tmp_path / name
        path.write_text(
            "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        )
        return path

    return written


def put(folder):
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "4705552913.jpg")


def test_a_pair_is_a_caption_and_a_question_with_its_answer(write):
    source = open_source(str(write("snli_1.0_dev.jsonl", SNLI)))
    assert isinstance(source, Source)
    assert len(source) == 2  # nobody knows the label of one
    assert not source.damage
    assert (
        list(source.keys())
        == [sample.key for sample in source]
        == [SNLI[0]["pairID"], SNLI[2]["pairID"]]
    )
    sample = source[1]
    assert sample.captions() == [SNLI[2]["sentence1"]]
    [asked] = questions(sample, choose=True)
    assert (asked.text, asked.answers) == (SNLI[2]["sentence2"], ("contradiction",))
    assert asked.choices == ("entailment", "neutral", "contradiction")
    assert (
        source.labels("entailment").tolist()
        == [each.labels["entailment"] for each in source]
        == [1, 2]
    )
    assert "images.main" not in source.schema()


@pytest.mark.parametrize("rows", [SNLI, VE], ids=["snli", "snli-ve"])
def test_images_are_found_beside_it_or_named(write, tmp_path, rows):
    path = write("snli_ve_dev.jsonl", rows)
    put(tmp_path / "photos")
    named = open_source(f"{path}:images={tmp_path / 'photos'}")
    assert named[0].images["main"].decode().size == (4, 4)
    (tmp_path / "photos").rename(tmp_path / "flickr30k-images")
    source = open_source(str(path))
    assert source[0].images["main"].decode().size == (4, 4)
    assert "images.main" in source.schema()
    with pytest.raises(InputError, match=r"first image, 4705552913\.jpg, is not in .*nowhere"):
        open_source(f"{path}:images={tmp_path / 'nowhere'}")


def test_damage_is_counted_by_line(write):
    rows = [
        "{",
        '["a"]',
        pair(0, "neutral", sentence2=5),
        pair(1, "neutral", sentence1=" "),
        pair(2, "maybe"),
        pair(3, "neutral", Flickr30K_ID="../4"),
        VE[0],
    ]
    path = write("snli_ve_test.jsonl", rows)
    with path.open("ab") as file:
        file.write(b'{"gold_label": "\xff"}\n')
    source = open_source(str(path))
    assert len(source) == 1
    assert Counter(source.damage.values()) == {"json": 2, "columns": 4, "utf8": 1}
    assert f"{path}:3" in source.damage


def test_pairs_of_one_name_keep_keys_of_their_own(write):
    source = open_source(str(write("snli_1.0_test.jsonl", [VE[0], VE[0]])))
    assert len(set(source.keys())) == 2


def test_other_files_say_what_is_wrong(write, tmp_path):
    with pytest.raises(InputError, match="gold_label"):
        open_source(str(write("snli_mine.jsonl", [{"caption": "a dog"}])))
    with pytest.raises(InputError, match="no such file"):
        open_source(str(tmp_path / "snli_1.0_train.jsonl"))
    with pytest.raises(InputError, match="did you mean 'images'"):
        open_source(f"{write('snli_ve_dev.jsonl', VE)}:image=x")
    assert (
        len(open_source(str(write("mine.jsonl", [{"caption": "a dog"}])))) == 1
    )  # other tables are tables
