"""Cards: found by folder, read without importing, third parties by entry point."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

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
        "import sys; from diptych.methods.registry import cards; "
        "assert cards(); assert 'torch' not in sys.modules"
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
        (
            "card = {'title': 't', 'year': 1, 'kind': 'method', 'entry': 'E', 'provenance': 'mine'}\n",
            "unknown provenance in the card of .* 'mine'.*code",
        ),
        ("def f(:\n", "mine.py is not Python: invalid syntax"),
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


OWN = Path(__file__).with_name("decoupled.py")


def test_a_method_may_be_the_path_of_a_file(tmp_path, monkeypatch):
    file = shutil.copy(OWN, tmp_path / "mine.py")
    monkeypatch.chdir(tmp_path)
    card = registry.find("mine.py")
    assert (card.name, card.group, card.entry) == (str(file), "file", "Decoupled")
    assert registry.method_class("mine.py") is registry.method_class(str(file))
    assert "mine" not in registry.cards()
    with pytest.raises(
        InputError, match="their.py: there is no such file; check the path of the method"
    ):
        registry.find("their.py")


def test_a_file_that_changed_is_run_again(tmp_path):
    file = Path(shutil.copy(OWN, tmp_path / "mine.py"))
    before = registry.method_class(str(file))
    file.write_text(file.read_text().replace("scale: float = 10.0", "scale: float = 20.0"))
    os.utime(file, ns=(1, 1))
    assert (before.Config().scale, registry.method_class(str(file)).Config().scale) == (10.0, 20.0)


def test_a_class_that_the_card_has_wrong_is_told_with_the_nearest(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN.read_text().replace('"entry": "Decoupled"', '"entry": "Decopled"'))
    with pytest.raises(
        InputError, match="mine.py has as its entry: 'Decopled'; did you mean 'Decoupled'"
    ):
        registry.method_class(str(file))
