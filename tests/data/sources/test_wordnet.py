"""WordNet: the form that wndb(5WN) describes, with synsets of our own wording, the pack's form, and
the pack itself."""

import gzip
import itertools
import json
import pickle
from collections import Counter

import pytest

from diptych.data.sources import open_source, wordnet
from diptych.errors import InputError

LICENCE = "  1 Words of a licence, which stand in lines that begin with two blanks.  \n  2 | and a bar  \n"
NOUN = (
    '00001740 03 n 01 thing_there_is 0 000 | whatever is there; "not a thing was left"  \n'
    "00002137 06 n 02 lamp 0 light_source 1 002 @ 00001740 n 0000 ~ 00003000 n 0000 "
    '| a device that gives light; one that can be carried; "she lit the lamp; it smoked"; '
    '"a lamp of brass"- Old Song  \n'
    "00003000 06 n 0a lantern 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 000 "
    '| a lamp in a case (said of "a storm lamp" too)  \n'
)
VERB = "00002000 30 v 01 glow 0 001 @ 00001000 v 0000 02 + 01 00 + 22 00 | give light | without a flame  \n"
ADJ = (
    "00004000 00 a 01 bright 0 001 ! 00005000 a 0101 | full of light  \n"
    "00005000 00 s 02 bluish_green 0 aglow(p) 0 001 & 00004000 a 0000 | like the sea  \n"
)
ADV = '00004000 02 r 01 brightly 0 000 | in a bright way; "it shone brightly"  \n'


@pytest.fixture
def folder(tmp_path):
    for name, text in (("noun", NOUN), ("verb", VERB), ("adj", ADJ), ("adv", ADV)):
        (tmp_path / f"data.{name}").write_text(LICENCE + text)
    return tmp_path


@pytest.fixture
def pack(tmp_path):
    """The same in the pack's form, with its ids: adverbs begin with an `a` there."""
    rows = [
        {
            "id": "n00001740",
            "words": ["thing there is"],
            "gloss": "whatever is there",
            "examples": ["not a thing"],
        },
        {"id": "v00002000", "words": ["glow"], "gloss": "give light", "hypernyms": ["v00001000"]},
        {"id": "a00004000", "words": ["bright"], "gloss": "full of light"},
        {"id": "a00005000", "words": ["aglow"], "gloss": "like the sea"},
        {"id": "a00004000", "words": ["brightly"], "gloss": "in a bright way"},
        {"id": "a00004500", "words": ["dimly"], "gloss": "in a dim way"},
    ]
    with gzip.open(tmp_path / "synsets.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


def test_each_part_of_a_line_goes_to_its_place(folder):
    source = open_source(f"wordnet:{folder}")
    keys = [
        "n00001740",
        "n00002137",
        "n00003000",
        "v00002000",
        "a00004000",
        "a00005000",
        "r00004000",
    ]
    assert list(source.keys()) == [sample.key for sample in source] == keys
    lamp = source[1]
    assert lamp.captions("word") == ["lamp", "light source"]
    assert lamp.captions("gloss") == ["a device that gives light; one that can be carried"]
    assert lamp.captions("example") == ["she lit the lamp; it smoked", "a lamp of brass"]
    assert lamp.captions("entry") == [
        "lamp, light source: a device that gives light; one that can be carried. she lit the lamp; it smoked. "
        "a lamp of brass."
    ]
    assert source[2].captions("word") == ["lantern", *"bcdefghij"]  # 0a words, in hexadecimal
    assert source[2].captions("gloss") == ['a lamp in a case (said of "a storm lamp" too)']
    assert source[3].captions("gloss") == ["give light | without a flame"]
    assert source[5].captions("word") == ["bluish green", "aglow"]
    assert source.damage == {}


def test_parts_of_speech_are_labels_and_can_be_chosen(folder):
    source = open_source(f"wordnet:{folder}")
    assert (
        source.labels("pos").tolist()
        == [sample.labels["pos"] for sample in source]
        == [0, 0, 0, 1, 2, 2, 3]
    )
    assert source.schema()["labels.pos"].classes == ("noun", "verb", "adjective", "adverb")
    assert [sample.key[0] for sample in open_source(f"wordnet:{folder}:pos=verb+adverb")] == [
        "v",
        "r",
    ]


def test_a_page_is_the_entry_and_those_behind_it(folder):
    source = open_source(f"wordnet:{folder}:page=2")
    entries = [sample.captions("entry")[0] for sample in source]
    pages = [sample.captions("long")[0] for sample in source]
    assert pages == [*(f"{a} {b}" for a, b in itertools.pairwise(entries)), entries[-1]]


def test_the_schema_names_every_field_that_samples_have(folder):
    source = open_source(f"wordnet:{folder}")
    schema, seen = source.schema(), Counter()
    for sample in source:
        seen.update({f"texts.{text.role}" for text in sample.texts})
    assert set(seen) | {"labels.pos"} == set(schema)
    assert {name for name, count in seen.items() if count < len(source)} == {"texts.example"}
    assert schema["texts.example"].optional


def test_the_pack_is_read_too_and_its_adverbs_are_told_from_adjectives(pack):
    source = open_source(f"wordnet:{pack}")
    assert list(source.keys()) == [
        "n00001740",
        "v00002000",
        "a00004000",
        "a00005000",
        "r00004000",
        "r00004500",
    ]
    assert source.labels("pos").tolist() == [0, 1, 2, 2, 3, 3]
    assert source[0].captions("example") == ["not a thing"]
    assert source[1].captions("example") == []


def test_it_is_found_where_it_is_installed_or_in_the_packs(folder, pack, tmp_path, monkeypatch):
    monkeypatch.setattr(wordnet, "INSTALLED", tmp_path / "nowhere")
    monkeypatch.delenv("DIPTYCH_DATA", raising=False)
    with pytest.raises(
        InputError, match=r"apt install wordnet-base, .* set DIPTYCH_DATA to the folder that holds"
    ):
        open_source("wordnet")
    packs = tmp_path / "packs"
    packs.mkdir()
    (packs / "wordnet-glosses").symlink_to(pack)
    monkeypatch.setenv("DIPTYCH_DATA", str(packs))
    assert len(open_source("wordnet:")) > 0
    monkeypatch.setattr(wordnet, "INSTALLED", folder)
    assert len(open_source("wordnet:pos=adverb")) == 1


def test_a_line_that_is_no_synset_is_counted_and_the_rest_read(folder):
    path = folder / "data.adv"
    path.write_text(
        path.read_text() + "00004100 02 r 03 one 0 two 0 000 | too few words  \nnonsense\n"
    )
    source = open_source(f"wordnet:{folder}")
    assert len(source) == 7
    assert source.damage == {f"{path}:4": "synset", f"{path}:5": "synset"}


def test_splits_part_the_synsets_and_pickling_keeps_them(folder):
    source = open_source(f"wordnet:{folder}")
    parts = []
    for split in ("train", "val", "test"):
        try:
            parts += list(open_source(f"wordnet:{folder}:split={split}").keys())
        except InputError as error:
            assert "has no synset" in str(error)  # noqa: PT017  (of seven synsets a split may have none)
    assert sorted(parts) == sorted(source.keys())
    copy = pickle.loads(pickle.dumps(source))
    assert [sample.texts for sample in copy] == [sample.texts for sample in source]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (":pos=nuon", "did you mean 'noun'"),
        (":split=tset", "did you mean 'test'"),
        (":pages=3", "did you mean 'page'"),
        (":page=0", "at least 1"),
    ],
)
def test_bad_options_name_thing_and_remedy(folder, options, message):
    with pytest.raises(InputError, match=message):
        open_source(f"wordnet:{folder}{options}")


def test_a_folder_without_a_wordnet_or_with_half_of_one_is_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds neither data.noun nor synsets.jsonl.gz"):
        open_source(f"wordnet:{tmp_path / 'empty'}")
    (folder / "data.verb").unlink()
    with pytest.raises(InputError, match=r"data.verb is missing"):
        open_source(f"wordnet:{folder}")


def test_a_folder_here_of_the_same_name_is_a_folder(folder, tmp_path, monkeypatch):
    here = tmp_path / "here"
    (here / "wordnet").mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(InputError) as error:
        open_source("wordnet")
    assert "wordnet-base" not in str(error.value)


def test_the_whole_wordnet(data_pack):
    source = open_source(f"wordnet:{data_pack('wordnet-glosses')}")
    assert len(source) == len(set(source.keys())) == 117_659
    assert Counter(source.labels("pos").tolist()) == {0: 82_115, 1: 13_767, 2: 18_156, 3: 3_621}
    place = list(source.keys()).index("n02084071")
    assert "dog" in source[place].captions("word")
    entries = [source[at].captions("entry")[0] for at in range(place, place + 6)]
    assert source[place].captions("long") == [" ".join(entries)]
