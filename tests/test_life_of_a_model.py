"""The life of a model in one test: import, 20 steps, save and load, evaluate. `make test-min` runs
it with the lowest versions of what diptych depends on."""

import json

import torch

import diptych

DATA = "glyphs:split=val:design=noto"
TOWER = "conv:image_size=32:widths=(16,32,64):depths=(1,1,1):pooling=max"


def test_trains_saves_loads_and_evaluates(tmp_path):
    """RELIABILITY 29."""
    trained = diptych.train(
        "clip",
        DATA,
        tmp_path / "run",
        steps=20,
        batch_size=16,
        image_tower=TOWER,
        seed=0,
        quiet=True,
    ).model
    loaded = diptych.load(tmp_path / "run")
    words = ["a red apple", "clock"]
    assert torch.equal(loaded.embed_texts(words), trained.embed_texts(words))
    assert torch.allclose(loaded.embed_texts(words).norm(dim=1), torch.ones(2), atol=1e-5)
    result = diptych.evaluate(loaded, DATA, suites=["retrieval"])["retrieval"]
    assert result["n"] == 177
    assert 0 <= result["t2i_r5"] <= 1
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 20
    assert sum(losses[-5:]) < sum(losses[:5])
