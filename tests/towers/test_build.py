"""From specs to towers."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from diptych.errors import InputError
from diptych.towers import build
from diptych.towers.build import image_tower, kinds, text_tower
from diptych.towers.tower import ImageTower, preprocess_of


def test_the_folder_gives_the_registered_kinds():
    assert {"vit", "conv", "timm"} <= set(kinds()["image"])
    assert {"text", "hf"} <= set(kinds()["text"])


def test_a_word_and_a_plain_dict_say_the_same():
    torch.manual_seed(0)
    word = image_tower(
        "vit:image_size=16:patch=8:width=32:depth=1:heads=2:pre_norm=true:layer_scale=1e-5"
    )
    torch.manual_seed(0)
    plain = image_tower(
        {
            "name": "vit",
            "image_size": 16,
            "patch": 8,
            "width": 32,
            "depth": 1,
            "heads": 2,
            "pre_norm": True,
            "layer_scale": 1e-5,
        }
    )
    assert word.spec == plain.spec
    assert all(
        torch.equal(a, b) for a, b in zip(word.parameters(), plain.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vitt", "unknown image tower 'vitt'; did you mean 'vit'"),
        ("vit:widht=3", "unknown option of image tower 'vit' 'widht'; did you mean 'width'"),
        (
            "vit:width=abc",
            "option 'width' of image tower 'vit' is 'abc'; it must be a whole number",
        ),
        (
            "vit:pre_norm=no",
            "option 'pre_norm' of image tower 'vit' is 'no'; it must be true or false",
        ),
        (
            "vit:heads=2.5",
            "option 'heads' of image tower 'vit' is 2.5; it must be a whole number or null",
        ),
        ("vit:large", "takes no 'large'; options are written vit:key=value"),
        ({"width": 3}, "has no 'name'; it has width"),
        ("text", "unknown image tower 'text'"),
    ],
)
def test_a_wrong_spec_names_what_is_near(spec, message):
    with pytest.raises(InputError, match=message):
        image_tower(spec)


def test_the_tokenizer_decides_vocabulary_and_context_and_a_spec_may_hold_more():
    tower = text_tower("text:width=32:depth=1:context=20", vocab_size=30, context=16, pad=0, eot=2)
    assert tower.spec["context"] == 20
    assert tower.spec["vocab_size"] == 30
    assert tower.spec["eot"] == 2
    assert text_tower(tower.spec, vocab_size=30, context=16, pad=0, eot=2).spec == tower.spec


@pytest.mark.parametrize(
    "given",
    [{"vocab_size": 31}, {"context": 21}, {"eot": 3}, {"padding": "max"}],
    ids=lambda given: next(iter(given)),
)
def test_a_tower_that_does_not_fit_its_tokenizer_is_an_error(given):
    spec = text_tower("text:width=32:depth=1", vocab_size=30, context=20, pad=0, eot=2).spec
    with pytest.raises(InputError, match=f"has {next(iter(given))}="):
        text_tower(spec, **given)


def test_a_text_tower_without_a_tokenizer_needs_its_sizes():
    with pytest.raises(InputError, match="vocab_size"):
        text_tower("text:width=32")


def test_a_new_tower_needs_one_decorated_class(monkeypatch):
    monkeypatch.setattr(build, "_IMAGE", dict(build._IMAGE))

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: int = 3

    @build.image("mean")
    class Mean(ImageTower):
        def __init__(self, config):
            super().__init__(config, preprocess_of(None, size=8))
            self.width = config.width

    Mean.Config = Config
    assert image_tower("mean:width=5").spec["width"] == 5
    assert image_tower("mean").kind == "mean"


def test_building_towers_of_our_own_imports_no_foreign_library():
    code = (
        "import sys; from diptych.towers.build import image_tower, text_tower\n"
        "image_tower('vit:image_size=16:patch=8:width=64:depth=1')\n"
        "text_tower('text:width=64:depth=1', vocab_size=9, context=9)\n"
        "print([m for m in ('timm', 'transformers', 'open_clip') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
