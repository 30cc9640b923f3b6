"""`diptych ground --reconstruct`: the image of three panels, and what is told of it."""

import json

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.data.tokenizers import build
from diptych.methods.fuse.sycoca import SyCoCa
from diptych.methods.make import Make
from diptych.methods.store import describe, save_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    words = build("bpe:vocab_size=280:context=16", ["a red bar", "two dogs"])
    image = "vit:image_size=32:patch=8:width=32:depth=1:heads=2"
    config = {"pooler": "cascade:queries=2:heads=2"}
    make = Make(
        image=image, text="text:width=32:depth=1:heads=2:pooling=cls", embed_dim=16, tokenizer=words
    )
    made = SyCoCa(SyCoCa.configure(config), make)
    folder = tmp_path_factory.mktemp("run")
    save_model(
        folder,
        describe("sycoca", config, made.model, words, made.model.image.preprocess),
        made.model.state_dict(),
    )
    return str(folder)


def test_masked_patches_are_shown_and_told(run, tmp_path, capsys):
    photo, out = tmp_path / "photo.png", tmp_path / "drawn.png"
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(colours).save(photo)
    words = ["ground", run, str(photo), "a red bar", "--reconstruct", str(out), "--masked", "0.25"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    masked = np.array(told["masked"])
    assert (masked.shape, masked.sum()) == ((4, 4), 4)
    scores = np.array(told["cosines"])
    assert scores[masked].min() > scores[~masked].max()
    picture = np.asarray(Image.open(out)).astype(float)
    side = 384
    assert picture.shape == (side, 3 * side + 2 * 12, 3)
    panels = [
        picture[6::12, at * (side + 12) + 6 : at * (side + 12) + side : 12] for at in range(3)
    ]
    assert np.array_equal(panels[0], colours)
    hidden = masked.repeat(8, 0).repeat(8, 1)
    for panel in panels[1:]:
        assert np.array_equal(panel[~hidden], colours[~hidden])
    assert (panels[1][hidden] == 128).all()
    error = ((panels[2] - colours)[hidden] / 255) ** 2
    assert told["error"] == pytest.approx(error.mean(), abs=2e-3)
    assert main(words) == 0
    assert "4 of 16 patches masked and drawn from the sentence" in capsys.readouterr().out
    assert (tmp_path / "photo-heat.png").exists()
