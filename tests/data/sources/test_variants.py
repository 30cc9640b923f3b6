"""The drawings by gender and skin tone, on sheets of the true form and on the pack."""

import json

import numpy as np
import pytest
from PIL import Image

from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.data.sources.variants import DESIGNS, GENDERS, TONES, instruction, split_of
from diptych.errors import InputError

TRAIN, TEST = "waving hand", next(name for name in map(str, range(99)) if split_of(name) == "test")


def rows():
    found = []
    for action, genders in ((TRAIN, GENDERS[:1]), (TEST, GENDERS)):
        for gender in genders:
            for tone in TONES:
                at = len(found)
                found.append(
                    {
                        "index": at,
                        "hexcode": f"1f{at:03x}",
                        "base": "1f",
                        "name": f"{gender} {action}",
                        "action": action,
                        "gender": gender,
                        "tone": None if tone == "none" else tone,
                        "designs": list(DESIGNS) if at else ["noto"],
                    }
                )
    return found


@pytest.fixture
def pack(tmp_path):
    """`pack(rows)` writes the list and three sheets, each tile in a colour of its own."""

    def write(data=None, designs=DESIGNS):
        for number, design in enumerate(designs):
            sheet = Image.new("RGBA", (40 * 64, 64))
            for at in range(24):
                sheet.paste((10 * at, 100 * number, 0, 255), (64 * at + 8, 8, 64 * at + 56, 56))
            sheet.save(tmp_path / f"{design}.webp", lossless=True)
        lines = data if isinstance(data, str) else "\n".join(map(json.dumps, data or rows()))
        (tmp_path / "variants.jsonl").write_text(lines)
        return tmp_path / "variants.jsonl"

    return write


def test_each_drawing_has_a_reference_of_its_action_and_hand(pack):
    source = open_source(f"{pack()}:split=train+test")
    assert isinstance(source, Source)
    assert len(source) == len(set(source.keys())) == 24 * 3 - 2
    names = source.schema()
    for sample, key in zip(source, source.keys(), strict=True):
        assert sample.key == key
        main, reference = (sample.images[role].decode() for role in ("main", "reference"))
        assert main.size == reference.size == (64, 64)
        assert main.getpixel((0, 0))[3] == 0
        (red, green, *_), (other, same, *_) = (
            each.getpixel((32, 32)) for each in (main, reference)
        )
        assert red != other
        assert green == same == 100 * sample.labels["design"]
        mine, its = rows()[red // 10], rows()[other // 10]
        assert mine["action"] == its["action"]
        differs = {name for name in ("tone", "gender") if mine[name] != its[name]}
        assert sample.kind == ("both" if len(differs) == 2 else differs.pop())
        assert names["labels.edit"].classes[sample.labels["edit"]] == sample.kind
        assert names["labels.tone"].classes[sample.labels["tone"]] == (mine["tone"] or "none")
        [said] = sample.captions("instruction")
        assert (mine["gender"] in said) == (sample.kind != "tone")
        assert sample.captions() == [
            mine["name"] + (f" with {mine['tone']} skin tone" if mine["tone"] else "")
        ]
    groups = source.labels("group")
    assert np.unique(groups, return_counts=True)[1].tolist() == [6, 5, 5, 18, 18, 18]
    assert open_source(f"{pack()}:split=train+test")[5] == source[5]


def test_splits_are_of_actions_and_hands_are_named(pack):
    path = pack()
    train, test = open_source(str(path)), open_source(f"{path}:split=test:design=noto")
    assert {sample.labels["action"] for sample in train} == {0}
    assert {(sample.labels["action"], sample.labels["design"]) for sample in test} == {(1, 0)}
    assert len(test) == 18


def test_instructions_name_what_differs():
    row = {"gender": "man", "tone": "none"}
    said = {
        (kind, form): instruction(row, kind, form)
        for kind in ("tone", "gender", "both")
        for form in (0, 1)
    }
    assert said["tone", 0] == "make it plain yellow"
    assert said["gender", 1] == "the same as a man"
    assert said["both", 1] == "the same as a man in plain yellow"
    assert len(set(said.values())) == 6
    assert instruction({**row, "tone": "dark"}, "tone", 1) == "with dark skin tone"


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"gender": "cat"}, "", "line 1 is no variant"),
        ({"tone": "blue"}, "", "line 1 is no variant"),
        ({"designs": None}, "", "line 1 is no variant"),
        ({"index": "0"}, "", "line 1 is no variant"),
        ({}, ":split=tset", "did you mean 'test'"),
        ({}, ":design=emojione", "unknown design"),
        ({}, ":split=val", "no action of split val has two drawings of one design"),
    ],
)
def test_damage_is_told(pack, change, options, message):
    data = rows()
    data[0] |= change
    with pytest.raises(InputError, match=message):
        open_source(f"{pack(data)}{options}")


def test_a_missing_sheet_and_a_broken_line_are_told(pack, tmp_path):
    path = pack(designs=DESIGNS[:1])
    with pytest.raises(InputError, match="the sheet fluent-flat.webp is not beside it"):
        open_source(str(path))
    assert len(open_source(f"{path}:design=noto:split=test")) == 18
    with pytest.raises(InputError, match="line 1 is no variant"):
        open_source(str(pack("{")))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "variants.jsonl").write_text('{"image": "a.png", "caption": "mine"}\n')
    assert open_source(str(tmp_path / "own" / "variants.jsonl")).keys()[0].startswith("a.png")


def test_the_pack_is_read_by_its_card(data_pack, monkeypatch):
    monkeypatch.setenv("DIPTYCH_DATA", str(data_pack("glyph-variants").parent))
    sizes = {
        split: open_source(f"glyph-variants:split={split}") for split in ("train", "val", "test")
    }
    assert sum(map(len, sizes.values())) > 5800
    actions = [set(source.labels("action").tolist()) for source in sizes.values()]
    assert len(set.union(*actions)) == sum(map(len, actions)) == 171
    assert sizes["test"][0].images["reference"].decode().getbbox() is not None
