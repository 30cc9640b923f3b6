"""Files of diagram programs, one's own and Geometry3K's logic forms."""

import io
import json
import re
import tarfile

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.errors import InputError

SQUARE = {"A": [0, 0], "B": [300, 0], "C": [300, 300], "D": [0, 300]}
OWN = {
    "id": "one",
    "points": {**SQUARE, "O": [150, 150]},
    "polygons": [["square", "ABCD"]],
    "circles": {"O": 150},
    "lengths": {"AB": 8},
    "relations": [["inscribed", "O", "ABCD"]],
}
FORMS = {
    "id": 2102,
    "points": {"A": [1, 180], "B": [163, 0], "C": [165, 328], "Y": [165, 181], "Z": [-1, -1]},
    "lines": ["AB", "AC", "AY", "BC", "AZ"],
    "circles": {"A": None},
    "diagram_forms": [
        "Equals(LengthOf(Line(A, Y)), 17)",
        "Equals(LengthOf(Line(A, B)), \\frac{1}{2})",
        "Equals(LengthOf(Line(A, Z)), 3)",
        "Equals(LengthOf(Line(A, B)), LengthOf(Line(A, C)))",
        "PointLiesOnLine(Y, Line(B, C))",
        "Perpendicular(Line(B, Y), Line(A, Y))",
    ],
}


def written(folder, *programs):
    path = folder / "figures.jsonl"
    path.write_text("\n".join(map(json.dumps, programs)), "utf-8")
    return f"programs:{path}"


def test_a_program_of_ones_own_is_drawn_described_and_edited(tmp_path):
    source = open_source(written(tmp_path, OWN) + ":size=48:edits=all:number=5")
    assert list(source.keys()) == ["one"]
    sample = source[0]
    assert sample.captions() == ["square ABCD where circle O is inscribed in ABCD and AB = 8"]
    assert [edit.kind for edit in sample.edits] == ["letters", "number"] * 2 + ["letters"]
    images = [np.asarray(each.images["main"].decode()) for each in (sample, *sample.edits)]
    assert images[0].shape == (48, 48, 3)
    assert all(not np.array_equal(images[0], other) for other in images[1:])


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000, b" " * ((1 << 20) + 1)])
def test_a_damaged_member_of_a_tar_is_named(tmp_path, data):
    with tarfile.open(tmp_path / "forms.tar", "w") as tar:
        member = tarfile.TarInfo("one.json")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    with pytest.raises(InputError, match=r"forms.tar, one.json: no diagram program"):
        open_source(f"programs:{tmp_path}/forms.tar")


def test_marks_of_two_segments_are_exchanged(tmp_path):
    program = {"points": SQUARE, "polygons": [["square", "ABCD"]]}
    marked = {**program, "relations": [["parallel", "AB", "CD"]]}
    [edit] = open_source(written(tmp_path, marked) + ":edits=relation")[0].edits
    assert edit.captions() == ["square ABCD where AB and CD are marked equal"]


def test_logic_forms_give_segments_lengths_and_relations(tmp_path):
    source = open_source(written(tmp_path, FORMS))
    assert source[0].captions() == [
        "AB and AC are marked equal, BY and AY are marked perpendicular and AY = 17"
    ]
    assert "edits" not in source.schema()


def test_programs_without_facts_or_with_many_are_left_out(tmp_path):
    plain = {"id": "plain", "points": SQUARE, "segments": ["AB"]}
    assert list(open_source(written(tmp_path, OWN, plain)).keys()) == ["one"]
    with pytest.raises(InputError, match="no program states a fact, or all more than max_facts=2"):
        open_source(written(tmp_path, OWN, plain) + ":max_facts=2")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            {"points": SQUARE, "polygons": [["square", "ACBD"]]},
            "figures.jsonl, line 2: the sides AC and BD of polygon ACBD cross",
        ),
        ({"points": {"A": [1]}}, "line 2: a field of the program has another form"),
        ({"lines": ["AB"]}, "line 2: no diagram program; give it points"),
    ],
)
def test_a_program_that_cannot_be_drawn_is_refused_with_its_place(tmp_path, program, message):
    with pytest.raises(InputError, match=re.escape(message)):
        open_source(written(tmp_path, OWN, program))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such file of diagram programs"):
        open_source(f"programs:{tmp_path}/none.jsonl")


def test_the_pack_of_logic_forms(data_pack):
    source = open_source(
        f"programs:{data_pack('geometry3k-forms')}/val.tar:max_facts=4:edits=all:number=3"
    )
    assert len(source) > 100
    sample = source[0]
    assert sample.edits
    assert all(edit.captions() != sample.captions() for edit in sample.edits)
