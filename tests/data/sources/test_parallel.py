"""Parallel texts in the forms of sentence-transformers and of OPUS."""

import gzip
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.check import check
from diptych.data.sources import open_source
from diptych.errors import InputError

LINES = "And we're at 1.7 MB.\tUnd wir sind bei 1,7 MB.\nThank you.\tDanke.\n"


def test_lines_with_tabs_are_pairs_and_the_name_has_the_languages(tmp_path):
    """TED2020-en-de-train.tsv.gz, as sentence-transformers has it."""
    path = tmp_path / "TED2020-en-de-train.tsv.gz"
    path.write_bytes(gzip.compress(LINES.encode()))
    source = open_source(f"parallel:{path}")
    assert list(source.schema()) == ["texts.caption", "texts.de"]
    assert [(s.captions(), s.captions("de")) for s in source] == [
        (["And we're at 1.7 MB."], ["Und wir sind bei 1,7 MB."]),
        (["Thank you."], ["Danke."]),
    ]
    assert list(source.keys()) == ["0", "1"]
    assert pickle.loads(pickle.dumps(source))[1] == source[1]
    assert check(source).samples == 2


def test_a_file_of_several_languages_may_lack_some(tmp_path):
    path = tmp_path / "tatoeba.tsv"
    path.write_text("a dog\tun chien\t犬\na cat\t\t猫\nalone\t\t\n", "utf-8")
    source = open_source(f"parallel:{path}:languages=en+fr+ja")
    assert [{text.role for text in sample.texts} for sample in source] == [
        {"caption", "fr", "ja"},
        {"caption", "ja"},
    ]
    assert source.schema()["texts.fr"].optional
    assert source.damage == {f"{path}:3": "columns"}


def test_files_of_languages_are_read_line_by_line(tmp_path):
    """Europarl.de-en.de and .en, as OPUS has them; a blank line has no translation."""
    (tmp_path / "Europarl.de-en.de").write_text("Danke.\n\nGuten Tag.\n", "utf-8")
    (tmp_path / "Europarl.de-en.en").write_text("Thank you.\nLost.\nGood day.\n", "utf-8")
    source = open_source(f"parallel:{tmp_path / 'Europarl.de-en'}:languages=en+de")
    assert [(s.captions(), s.captions("de")) for s in source] == [
        (["Thank you."], ["Danke."]),
        (["Good day."], ["Guten Tag."]),
    ]
    assert list(source.keys()) == ["0", "2"]
    assert len(source.damage) == 1
    same = open_source(f"parallel:{tmp_path / 'Europarl.de-en'}")
    assert same[0].captions() == ["Danke."]


def test_bad_lines_are_counted(tmp_path):
    path = tmp_path / "x.en-de.tsv"
    path.write_bytes(b"one\teins\ntwo\ncaf\xe9\tx\na\tb\tc\n")
    source = open_source(f"parallel:{path}")
    assert len(source) == 1
    assert sorted(source.damage.values()) == ["columns", "columns", "utf8"]


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1), min_size=1
    )
)
def test_any_pairs_come_back(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("pairs") / "a.en-de.tsv"
    path.write_text("".join(f"{text}\tx{text}\n" for text in texts), "utf-8", newline="\n")
    found = [(s.captions()[0], s.captions("de")[0]) for s in open_source(f"parallel:{path}")]
    # a mark of byte order at the start of a line is none of its text
    assert [second.removeprefix("x") for _, second in found] == texts


@pytest.mark.parametrize(
    ("content", "name", "options", "message"),
    [
        ("a\tb\n", "pairs.tsv", "", "not in its name; name two or more"),
        ("a\tb\n", "pairs.tsv", ":languages=en", "its languages are en; name two"),
        ("a\tb\n", "pairs.tsv", ":languages=en+en", "name two or more"),
        ("a,b\n", "pairs.tsv", ":languages=en+de", "none of its 1 lines has 2 texts"),
        ("a\tb\n", "pairs.tsv", ":language=en+de", "did you mean 'languages'"),
    ],
)
def test_what_is_no_parallel_text_is_refused(tmp_path, content, name, options, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        open_source(f"parallel:{tmp_path / name}{options}")


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\n")
    with pytest.raises(InputError, match=r"nor a\.de beside it"):
        open_source(f"parallel:{tmp_path / 'a'}:languages=en+de")
    (tmp_path / "a.de").write_text("eins\n")
    with pytest.raises(InputError, match="equally many lines"):
        open_source(f"parallel:{tmp_path / 'a'}:languages=en+de")
