"""Runs whose towers another library has too."""

import json
from pathlib import Path

import pytest

import diptych
from diptych.errors import InputError
from diptych.methods.store import load
from diptych.models.export import LIMIT, export, reason, targets
from diptych.spec import parse
from diptych.towers.build import image_tower
from diptych.training.config import resolve

DATA = "scenes:number=3:count=32"
QUICK = {"steps": 1, "batch_size": 8, "quiet": True}


@pytest.mark.parametrize("target", targets())
@pytest.mark.parametrize("method", ["clip", "siglip"])
def test_towers_are_chosen_at_the_sizes_of_the_preset(method: str, target: str):
    config = resolve(method, {"train": DATA}, exportable=target)
    plain = resolve(method, {"train": DATA})
    if target == "onnx":
        assert config.image_tower == plain.image_tower
        return
    assert config.image_tower.startswith("vit:image_size=48")
    assert "width=128" in config.text_tower
    assert config.tokenizer.startswith(plain.tokenizer)
    assert image_tower(config.image_tower).width == 128


def test_a_vit_of_the_preset_keeps_its_size():
    found, plain = (
        parse(resolve("clip", {"train": DATA}, preset="paper", exportable=target).image_tower)
        for target in ("hf", None)
    )
    assert found == plain


@pytest.mark.parity
@pytest.mark.parametrize("method", ["clip", "siglip"])
def test_such_a_run_exports(method: str, tmp_path: Path):
    run = tmp_path / "run"
    made = diptych.train(method, DATA, run, exportable="hf", val=f"{DATA}:seed=1", **QUICK)
    assert reason(made.model, "hf") is None
    assert export(load(run), "hf", tmp_path / "out").images <= LIMIT
    stored = json.loads((run / "model.json").read_text())["training"]["validation"]
    assert (stored["suite"], stored["step"], stored["source"]) == ("retrieval", 1, f"{DATA}:seed=1")
    assert "Suite `retrieval`" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_tower": "conv:image_size=48"}, "name='conv' .*; leave out --image-tower"),
        (
            {"init": "tiny"},
            "hf cannot hold this model: its image tower has stem='conv'.*; leave it",
        ),
        ({"exportable": "hg"}, "unknown target of --exportable 'hg'; did you mean 'hf'"),
    ],
)
def test_what_contradicts_is_refused_before_anything_is_written(
    settings: dict[str, str], message: str, tmp_path: Path
):
    with pytest.raises(InputError, match=message) as error:
        diptych.train("clip", DATA, tmp_path / "run", **{"exportable": "hf", **settings}, **QUICK)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_model_of_images_alone_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="it embeds images alone"):
        diptych.train("simclr", DATA, tmp_path / "run", exportable="hf", **QUICK)
