"""PIXEL's published weights: folders of their layout with random numbers, against the ViTMAE of transformers, which has
the same parts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from matplotlib import font_manager
from safetensors.torch import load_file, save_file
from tests.factories import make_method
from tests.models.pretrained import tiny
from torch.nn.functional import normalize

import diptych
from diptych.errors import InputError
from diptych.methods.make import Make
from diptych.methods.text.pixel_linguist import PixelLinguist
from diptych.methods.text.pixel_linguist.model import SentenceModel

transformers = pytest.importorskip("transformers")

D, PATCHES = 32, 64
FILE = "model.safetensors"


@pytest.fixture(scope="module")
def theirs():
    config = transformers.ViTMAEConfig(
        hidden_size=D,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=(16, 16 * PATCHES),
        patch_size=16,
        mask_ratio=0.0,
        layer_norm_eps=1e-12,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    torch.manual_seed(0)
    return tiny.stir(transformers.ViTMAEForPreTraining(config))


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("pixel-base")
    theirs.save_pretrained(place)
    values = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**values, "model_type": "pixel"}))
    return place


@pytest.fixture(scope="module")
def model(folder) -> SentenceModel:
    found = diptych.load(f"pixel_linguist:{folder}")
    assert isinstance(found, SentenceModel)
    return found


@torch.no_grad()
@pytest.mark.parity
def test_vectors_are_the_mean_of_the_states_of_transformers(model, theirs):
    """Of a strip that is full, since ViTMAE attends to all patches."""
    text = "a strip of words that is longer than sixty-four patches, " * 4
    strip = torch.from_numpy(model.render(text)).float() / 255
    order = torch.arange(PATCHES)[None].float()  # none is hidden
    states = theirs.vit(strip.expand(1, 3, -1, -1), noise=order).last_hidden_state
    wanted = normalize(states[:, 1:].mean(1), dim=-1)
    torch.testing.assert_close(model.embed_texts(text), wanted, atol=1e-5, rtol=0)


def test_of_more_positions_the_first_are_kept(folder, model, tmp_path):
    place = shutil.copytree(folder, tmp_path / "long")
    state = load_file(place / FILE)
    name = "vit.embeddings.position_embeddings"
    more = torch.cat([state[name], torch.ones(1, 7, D)], dim=1)
    save_file({**state, name: more}, place / FILE)
    long = diptych.load(f"pixel_linguist:{place}")
    assert torch.equal(long.embed_texts(["a cat"]), model.embed_texts(["a cat"]))


def test_the_model_is_saved_and_trained_on(model, tmp_path):
    model.save(tmp_path / "run")
    again = diptych.load(tmp_path / "run")
    assert torch.equal(again.embed_texts(["a cat", "two"]), model.embed_texts(["a cat", "two"]))
    made = make_method(PixelLinguist, make=Make.of(again))
    assert made.decoder is None  # it is pretrained: no stage masked
    own = made.model.encoder.image.positions
    assert torch.equal(own, model.encoder.image.positions)


def test_the_font_of_the_folder_draws(folder, model, tmp_path):
    place = shutil.copytree(folder, tmp_path / "with-font")
    shutil.copy(font_manager.findfont("DejaVu Sans"), place / "font.ttf")
    own = diptych.load(f"pixel_linguist:{place}")
    assert own.delivered.renderer.font == str(place / "font.ttf")
    assert (own.render("a cat") != model.render("a cat")).any()
    with pytest.raises(InputError, match=r"unifont; give --method.font .*font.ttf"):
        make_method(PixelLinguist, make=Make.of(own))
    made = make_method(PixelLinguist, make=Make.of(own), font=str(place / "font.ttf"))
    assert made.model.renderer == own.delivered.renderer
    shutil.copy(place / "font.ttf", place / "other.ttf")
    with pytest.raises(InputError, match="holds 2 fonts"):
        diptych.load(f"pixel_linguist:{place}")


def test_folders_that_do_not_fit_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        diptych.load(f"pixel_linguist:{tmp_path / 'none'}")
    place = shutil.copytree(folder, tmp_path / "other")
    state = load_file(place / FILE)
    lacking = {name: value for name, value in state.items() if "layernorm_after" not in name}
    save_file(lacking, place / FILE)
    with pytest.raises(
        InputError, match=r"lacks what becomes our image.transformer.layers.0.norm2"
    ):
        diptych.load(f"pixel_linguist:{place}")
    save_file({"decoder.weight": torch.zeros(1)}, place / FILE)
    with pytest.raises(InputError, match="holds no PIXEL"):
        diptych.load(f"pixel_linguist:{place}")
    save_file(state, place / FILE)
    values = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**values, "hidden_act": "relu"}))
    with pytest.raises(InputError, match="activation of"):
        diptych.load(f"pixel_linguist:{place}")
