"""Cards: found by folder, read without importing, third parties by entry point."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from diptych.errors import InputError
from diptych.methods import registry
from diptych.methods.base import Method

CARD = "card = {'title': 't', 'year': 1, 'kind': 'method', 'entry': 'E', 'provenance': 'code'}\n"


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
        ("card = ['title']\n", "the card of .*mine.py .line 1. is no literal dict; write card = "),
        (
            "card = {'year': 2000 + Y}\n",
            "mine.py .line 1. has 'year': 2000 . Y, which is no literal",
        ),
        ("card = {**base, 'entry': E}\n", "mine.py .line 1. has \\*\\*base, which is no literal"),
        (
            CARD.replace("1", "'last'"),
            "'year' in the card of .*mine.py is 'last'; it must be a whole",
        ),
        (
            CARD.replace("'E'", "['E']"),
            "'entry' in the card of .*mine.py is .'E'.; it must be a text",
        ),
        (
            CARD.replace("}", ", 'abilities': 'x'}"),
            "'abilities' in .*mine.py is 'x'; it must be a dict",
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
    with plugins(monkeypatch, point):
        assert registry.find("theirs").title == "Theirs"


@contextmanager
def plugins(monkeypatch, *points):
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry.cards.cache_clear()
    try:
        yield
    finally:
        registry.cards.cache_clear()


def test_a_plugin_that_is_broken_or_takes_a_name_is_left_out(tmp_path, monkeypatch, caplog):
    (tmp_path / "plain_plugin.py").write_text(CARD)
    (tmp_path / "list_plugin.py").write_text("card = ['x']\n")
    (tmp_path / "broken_plugin").mkdir()
    (tmp_path / "broken_plugin" / "__init__.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    named = {
        "clip": "plain_plugin",
        "listed": "list_plugin",
        "broken": "broken_plugin.method",
        "absent": "nowhere_at_all",
        "plain": "plain_plugin",
    }
    points = [
        importlib.metadata.EntryPoint(name, value, "diptych.methods")
        for name, value in named.items()
    ]
    with plugins(monkeypatch, *points):
        assert registry.find("clip").module == "diptych.methods.pretrain.clip"
        assert registry.find("plain").module == "plain_plugin"
        assert not {"listed", "broken", "absent"} & {*registry.cards()}
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 4
        assert all(line.endswith("; it is left out") for line in said)
        assert (
            "'clip' of diptych.methods names plain_plugin, and 'clip' is the method of" in said[0]
        )
        with pytest.raises(InputError, match="'listed' .* names list_plugin: the card of .* is no"):
            registry.find("listed")
        with pytest.raises(InputError, match="RuntimeError: no licence; mend the package"):
            registry.find("broken")
        with pytest.raises(InputError, match="names nowhere_at_all: this is not a module"):
            registry.find("absent")


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
