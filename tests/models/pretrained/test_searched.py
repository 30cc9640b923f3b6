"""What a foreign model embedded is searched by the command that `embed` prints, from any working
directory."""

import json
import shlex
from pathlib import Path

import pytest
import tiny

from diptych.cli import main
from diptych.methods.store import load
from diptych.models.pretrained import absolute


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (folder := tmp_path / "some photos").mkdir()
    for number, image in enumerate(tiny.images()):
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture
def embedded(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """`embedded(folder, model, …)`: embed from within a folder, and the command that is printed."""

    def embed(folder: Path, *words: str) -> list[str]:
        monkeypatch.chdir(folder)
        assert main(["embed", *words, str(photos), "--out", str(tmp_path / "an emb")]) == 0
        command = capsys.readouterr().out.partition("search it with: diptych ")[2]
        monkeypatch.chdir("/")
        return shlex.split(command)

    return embed


def test_an_openclip_model_is_searched_with_the_weights_that_embedded(
    nano: Path, tmp_path: Path, embedded, capsys
):
    command = embedded(nano / "nano", "openclip:nano", "--weights", "weights.pt")
    manifest = json.loads((tmp_path / "an emb" / "diptych.json").read_text())
    assert (manifest["model"], manifest["weights"]) == (
        "openclip:nano",
        str(nano / "nano" / "weights.pt"),
    )
    assert main(command) == 0
    assert "in 4 images" in capsys.readouterr().out


def test_a_folder_of_transformers_is_searched_from_anywhere(
    clip: Path, tmp_path: Path, embedded, capsys
):
    command = embedded(clip.parent, f"hf:{clip.name}")
    manifest = json.loads((tmp_path / "an emb" / "diptych.json").read_text())
    assert (manifest["model"], manifest["weights"]) == (f"hf:{clip}", None)
    assert main(command) == 0
    assert "in 4 images" in capsys.readouterr().out


@pytest.mark.parametrize("lost", ["model", "weights"])
def test_what_lies_elsewhere_now_is_asked_for_by_its_option(
    nano: Path, tmp_path: Path, embedded, capsys, lost: str
):
    command = embedded(nano / "nano", "openclip:nano", "--weights", "weights.pt")
    path = tmp_path / "an emb" / "diptych.json"
    gone = {"model": f"hf:{tmp_path / 'gone'}", "weights": str(tmp_path / "gone")}
    path.write_text(json.dumps({**json.loads(path.read_text()), lost: gone[lost]}))
    capsys.readouterr()
    assert main(command) == 2
    reported = capsys.readouterr().err
    assert str(tmp_path / "gone") in reported
    assert f"--{lost}" in reported


def test_a_spec_keeps_the_whole_path_of_a_folder_alone(clip: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(clip.parent)
    assert absolute(f"hf:{clip.name}") == f"hf:{clip}"
    assert absolute(clip.name) == str(clip)
    assert [absolute(spec) for spec in ("hf:openai/clip", "openclip:nano", "tiny")] == [
        "hf:openai/clip",
        "openclip:nano",
        "tiny",
    ]


def test_a_model_knows_the_weights_it_was_given(nano: Path, clip: Path):
    assert (
        load("openclip:nano", weights=nano / "nano" / "weights.pt").weights
        == nano / "nano" / "weights.pt"
    )
    assert load(f"hf:{clip}").weights is None
