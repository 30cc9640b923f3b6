"""Banks of templates, files of them, groups."""

import json
import sys
from itertools import product

import pytest

from diptych.data.templates import BANKS, GROUPS, template_groups, templates, with_types
from diptych.data.worlds.scenes.parse import parse
from diptych.data.worlds.scenes.words import GROUNDS, PALETTES, RENDERINGS, STYLES
from diptych.errors import InputError
from diptych.evaluation.protocol import Protocol
from diptych.evaluation.suites.zeroshot import TEMPLATES


@pytest.mark.parametrize("bank", [*BANKS, *GROUPS, "imagenet", "imagenet-simple"])
def test_every_bank_has_different_templates_that_hold_a_name_once(bank):
    if bank.startswith("imagenet"):
        pytest.importorskip("open_clip")
    found = templates(bank)
    assert len(set(found)) == len(found) >= 1
    assert all(template.count("{}") == 1 for template in found)


def test_what_zeroshot_takes_by_itself_has_the_protocol_that_it_always_had():
    assert templates("images") == TEMPLATES
    protocol = Protocol(
        task="zeroshot", data="glyphs", split="192:0f", field="group", prompts=TEMPLATES
    )
    assert protocol.id() == "b2686d346d3d"


def test_imagenets_are_those_of_open_clip():
    metadata = pytest.importorskip("open_clip.zero_shot_metadata")
    names = ("cat", "Boeing 747")
    for bank, theirs in (
        ("imagenet", metadata.OPENAI_IMAGENET_TEMPLATES),
        ("imagenet-simple", metadata.SIMPLE_IMAGENET_TEMPLATES),
    ):
        for name in names:
            assert [text.replace("{}", name) for text in templates(bank)] == [
                template(name) for template in theirs
            ]
    assert set(templates("imagenet-simple")) < set(templates("imagenet"))


def test_without_open_clip_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(
        InputError, match=r"'imagenet' are open_clip_torch's; pip install 'diptych\[openclip\]'"
    ):
        templates("imagenet")
    assert templates("plain") == ("a photo of a {}.",)


def test_styles_say_what_captions_of_scenes_say():
    for name, group in template_groups("styles").items():
        style = STYLES[name]
        ways = (
            range(3) if style.lexicon < 0 else [style.lexicon]
        )  # a style's captions have words of their own
        openings = [RENDERINGS[style.rendering][way] for way in ways]
        assert 1 <= len(group) <= 4
        for template in group:
            reported = parse(template.replace("{}", "cat"))
            assert [(thing.noun, thing.count) for thing in reported.things] == [("cat", 1)]
            assert (reported.palette, reported.ground) in product(
                ("", style.palette), ("", *style.grounds)
            )
            opening, of, _ = template.partition(" of a {}")
            assert not of or opening in openings
            assert not reported.palette or any(
                PALETTES[style.palette][way] in template for way in ways
            )
            assert not reported.ground or any(
                GROUNDS[reported.ground][way] in template for way in ways
            )
            assert of or reported.palette or name == "plain"  # it names the style


def test_files_and_literals(tmp_path):
    lines, groups = tmp_path / "mine.txt", tmp_path / "groups.json"
    lines.write_bytes("\ufeffa {}\n\n  der Hund, {}  \r\n".encode())
    groups.write_text(
        json.dumps({"sketch": ["a sketch of a {}", "a {}"], "photo": ["a photo, {}"]})
    )
    assert templates(str(lines)) == ("a {}", "der Hund, {}")
    assert template_groups(str(groups)) == {
        "sketch": ("a sketch of a {}", "a {}"),
        "photo": ("a photo, {}",),
    }
    assert templates(str(groups)) == ("a sketch of a {}", "a {}", "a photo, {}")
    assert templates("a {}|one {}.txt") == ("a {}", "one {}.txt")


@pytest.mark.parametrize(
    ("spec", "text", "message"),
    [
        ("plian", None, "unknown templates 'plian'; did you mean 'plain'"),
        ("a photo", None, "unknown templates 'a photo'"),
        ("a {} | {} {}", None, r"template '\{\} \{\}' of the templates must hold \{\} once"),
        ("a {} |", None, "template '' of the templates must hold"),
        ("none.txt", None, "none.txt: no such file; check the path"),
        ("none.json", None, "none.json: no such file"),
        (
            "a.txt",
            "a {}\nphoto\n",
            r"template 'photo' of .*a\.txt must hold \{\} once, where the class name goes",
        ),
        ("a.txt", "\n", r"a\.txt: no template is given; give at least '\{\}'"),
        ("a.json", "{", "not JSON"),
        ("a.json", '["a {}"]', "no groups of templates; write"),
        ("a.json", '{"one": "a {}"}', "no groups of templates"),
        ("a.json", '{"one": []}', r"group 'one' of .*a\.json: no template is given"),
        (
            "a.json",
            '{"one": ["a {}"], "two": [3]}',
            r"template 3 of group 'two' of .*a\.json must hold",
        ),
    ],
)
def test_what_are_no_templates_is_told(tmp_path, spec, text, message):
    if text is not None:
        (tmp_path / spec).write_text(text)
        spec = str(tmp_path / spec)
    with pytest.raises(InputError, match=message):
        templates(spec)


def test_groups_may_be_given_as_they_stand():
    groups = {"sketch": ["a sketch of a {}"], "photo": ("a photo, {}", "a {}")}
    assert template_groups(groups) == {
        "sketch": ("a sketch of a {}",),
        "photo": ("a photo, {}", "a {}"),
    }
    assert template_groups(template_groups("styles")) == template_groups("styles")
    for wrong in ({}, {"one": "a {}"}, {"one": []}, {"one": ["a"]}):
        with pytest.raises(InputError, match="the templates"):
            template_groups(wrong)


def test_other_things_have_no_groups(tmp_path):
    with pytest.raises(InputError, match="unknown groups of templates 'plain'"):
        template_groups("plain")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe{}")
    (tmp_path / "b.txt").mkdir()
    for name in ("a.txt", "b.txt"):
        with pytest.raises(InputError, match="not a file of text"):
            templates(str(tmp_path / name))


def test_words_for_what_the_classes_are_make_further_templates():
    found = with_types(["a photo of a {}.", "a {}"], ["pet", "cat"])
    assert found[:5] == (
        "a photo of a {}.",
        "a photo of a {}, a type of pet.",
        "a photo of a pet: {}.",
        "a pet of a {}.",
        "a pet photo of a {}.",
    )
    assert found[9:] == (
        "a {}",
        "a pet: {}",
        "a cat: {}",
    )  # without a full stop or a photo, nothing more comes of it
    assert len(set(found)) == len(found)
    assert with_types(["a {}"], []) == ("a {}",)
