"""Cards: found by folder, read without importing, third parties by entry point."""

import importlib.metadata
import subprocess
import sys

import pytest

from diptych.errors import InputError
from diptych.methods import registry
from diptych.methods.base import Method


def test_every_card_leads_to_its_class_and_presets():
    for name, card in registry.cards().items():
        if card.kind == "method":
            cls = registry.method_class(name)
            assert issubclass(cls, Method)
            assert {"small", "paper"} <= set(cls.presets)
            for preset in cls.presets.values():
                cls.configure(preset.config)


def test_cards_are_read_without_torch():
    program = (
        "import sys; from diptych.methods.registry import cards; assert cards(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_unknown_method_names_the_nearest():
    with pytest.raises(InputError, match="unknown method 'siglpi'; did you mean 'siglip'"):
        registry.find("siglpi")


def test_unknown_option_of_a_method_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'max_scale'"):
        registry.method_class("clip").configure({"maxscale": 3})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1\n", "no literal dict `card`"),
        ("card = {'title': 't'}\n", "lacks entry, kind, provenance, year"),
        (
            "card = {'title': 't', 'year': 1, 'kind': 'methud', 'entry': 'E', 'provenance': 'code'}\n",
            "did you mean 'method'",
        ),
    ],
)
def test_a_card_that_is_no_card_says_what_is_missing(tmp_path, text, complaint):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        registry._read(path, "mine", "pretrain", "mine")


def test_third_parties_are_found_by_entry_point_without_being_imported(tmp_path, monkeypatch):
    (tmp_path / "their_method.py").write_text(
        "card = {'title': 'Theirs', 'year': 2030, 'kind': 'method', 'entry': 'Theirs', 'provenance': 'paper'}\n"
        "raise RuntimeError('imported')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("theirs", "their_method", "diptych.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registry.cards.cache_clear()
    try:
        assert registry.find("theirs").title == "Theirs"
    finally:
        registry.cards.cache_clear()
