"""Text files with a caption on each line."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.check import check
from diptych.data.sources import open_source
from diptych.errors import InputError


@pytest.fixture
def lines(tmp_path):
    return tmp_path / "lines.txt"


def test_each_filled_line_is_a_sample(lines):
    lines.write_bytes("\ufeffa dog\r\n\n  \t\nzwei Hunde, grün\n  three  ".encode())
    source = open_source(str(lines))
    assert list(source.keys()) == ["0", "1", "2"]
    assert [sample.captions() for sample in source] == [["a dog"], ["zwei Hunde, grün"], ["three"]]
    assert {name: field.kind for name, field in source.schema().items()} == {
        "texts.caption": "text"
    }
    assert source.damage == {}


def test_lines_that_are_not_utf8_are_counted(lines):
    lines.write_bytes(b"one\ncaf\xe9\nthree\n")
    source = open_source(str(lines))
    assert [sample.captions() for sample in source] == [["one"], ["three"]]
    assert source.damage == {f"{lines}:2": "utf8"}
    report = check(source)
    assert (report.samples, report.damage, report.captions.count) == (2, {"utf8": 1}, 2)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]))))
def test_any_lines_come_back(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_text("\n".join(["first", *texts]), "utf-8", newline="\n")
    found = [text for sample in open_source(str(path)) for text in sample.captions()]
    stripped = [text.removeprefix("\ufeff").strip() for text in texts]
    assert found == ["first", *filter(None, stripped)]


def test_the_texts_are_not_held_in_memory(lines):
    lines.write_text("\n".join(f"a line of {'many ' * 40} words {at}" for at in range(2000)))
    source = open_source(str(lines))
    assert source[1999].captions()[0].endswith("words 1999")
    assert len(pickle.dumps(source)) < lines.stat().st_size / 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file has no lines; it needs a text on each"),
        (b" \n\n", "the file has no lines"),
        (b"\xff\xfe\n\xff\n", "none of its 2 rows can be read .*save it as UTF-8"),
    ],
)
def test_a_file_without_a_text_is_told(lines, data, message):
    lines.write_bytes(data)
    with pytest.raises(InputError, match=message):
        open_source(str(lines))


def test_options_and_missing_files_are_told(lines):
    with pytest.raises(InputError, match="no such file"):
        open_source(str(lines))
    lines.write_text("one")
    with pytest.raises(InputError, match="unknown option of source"):
        open_source(f"{lines}:text=x")
