"""The page on augmentation has each option of `Augment`, and finds each preset's settings."""

import ast
import inspect
import re
import runpy
from collections.abc import Mapping
from dataclasses import fields

import torchvision.transforms as transforms
from tests.docs.tables import DOCS, code, rows, section, text_of

from diptych.data.views import Augment, images
from diptych.errors import InputError
from diptych.methods.registry import cards, method_class

PARTS = runpy.run_path(str(DOCS / "page_parts.py"))
TABLE = rows(section("augmentation.md", "Options"))


def test_every_option_has_a_row_with_its_default():
    defaults = {each.name: each.default for each in fields(Augment)}
    written = {code(row["option"]): ast.literal_eval(code(row["default"])) for row in TABLE}
    assert written == defaults


def test_the_rows_are_in_the_order_of_the_code():
    source = inspect.getsource(images.ImageView._vary)
    beside = {"crop": "_crop_box", "rotate": "_tilt"}  # done by a function of their own
    order = [
        "turn",
        "crop",
        "rotate",
        "flip",
        "colour",
        "grey",
        "blur",
        "solarise",
        "randaugment",
        "erase",
    ]
    places = [source.index(beside.get(name, f"augment.{name}")) for name in order]
    assert places == sorted(places)
    listed = [code(row["option"]) for row in TABLE]
    assert [name for name in listed if name in order[2:]] == order[2:]


def test_the_transforms_of_torchvision_exist():
    for row in TABLE:
        for name in re.findall(r"\b([A-Z]\w+)\(", row["torchvision"]):
            assert hasattr(transforms, name), name


def test_the_table_of_presets_holds_every_augmentation():
    """An option with the fields of `Augment` that the table does not know is found here."""
    listed = {(name, option) for name, _, option, _ in PARTS["preset_augments"]()}
    options = {each.name for each in fields(Augment)}
    for name in cards():
        try:
            cls = method_class(name)
        except InputError:
            continue
        for chosen in getattr(cls, "presets", {}).values():
            config = cls.configure(dict(chosen.config))
            for each in fields(config):
                value = getattr(config, each.name)
                if isinstance(value, Mapping) and value and set(value) <= options:
                    known = (name, each.name) in listed or name in PARTS["OF_THEIR_OWN"]
                    assert known, f"docs/page_parts.py does not know {each.name} of {name}"


def test_the_table_of_presets_says_what_a_preset_has():
    made = "\n".join(PARTS["augmentations"]())
    [small] = [row["presets"] for row in rows(made) if "turn: 12.0" in row["settings"]]
    assert re.match("`small` of .*, clip, ", small)
    [erased] = [row["settings"] for row in rows(made) if "erase" in row["settings"]]
    assert "randaugment: 2" in erased


def test_methods_with_an_augmentation_of_their_own_kind_are_named():
    below = section("augmentation.md", "What presets turn on")
    for name in PARTS["OF_THEIR_OWN"]:
        assert f"[{name}](methods/{name}.md)" in below
    assert "```{augmentations}" in text_of("augmentation.md")
