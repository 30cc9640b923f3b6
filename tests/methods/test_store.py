"""Models on disk: the round trip, and every way in which files can fail to fit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.training.helpers import make_method

from diptych.errors import InputError
from diptych.methods import store


@pytest.fixture
def run(tmp_path):
    method = make_method()
    model = method.deliver()
    description = store.describe("clip", {}, model, method.make.tokenizer, model.image.preprocess)
    store.save_model(tmp_path, description, model.state_dict())
    return tmp_path


def test_a_saved_model_embeds_as_before(run):
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    loaded, original = store.load(run), make_method().model.eval()
    assert torch.allclose(loaded.embed_images(pixels), original.embed_images(pixels).detach(), atol=1e-6)
    assert loaded.embed_texts(["a red circle"]).shape == (1, 32)


def test_model_json_holds_names_and_plain_values_only(run):
    text = (run / "model.json").read_text()
    assert "diptych." not in text.replace("diptych-model", "")
    assert json.loads(text)["method"] == "clip"


def test_weights_stored_in_half_precision_are_float32_again(tmp_path):
    method = make_method()
    model = method.deliver()
    description = store.describe("clip", {}, model, method.make.tokenizer, model.image.preprocess)
    store.save_model(tmp_path, description, model.state_dict(), half=True)
    whole = sum(value.nbytes for value in model.state_dict().values())
    assert (tmp_path / "model.safetensors").stat().st_size < 0.7 * whole
    for name, value in store.load(tmp_path).encoder.state_dict().items():
        assert value.dtype == model.state_dict()[name].dtype
        assert torch.equal(value, model.state_dict()[name].half().float()), name


def spoil(run, change):
    state = load_file(run / "model.safetensors")
    change(state)
    save_file(state, run / "model.safetensors")
    description = json.loads((run / "model.json").read_text())
    description["weights"] = store._checksum(run / "model.safetensors")
    (run / "model.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s.pop("image_projection.weight"), "lacks image_projection.weight"),
        (lambda s: s.update(extra=torch.ones(1)), "has the unknown extra"),
        (
            lambda s: s.update({"image_projection.weight": torch.ones(3, 3)}),
            r"is \(3, 3\) where the model has \(32, 32\)",
        ),
        (lambda s: s.update({"image_projection.weight": torch.ones(32, 32).half()}), "is torch.float16 where"),
    ],
)
def test_weights_that_do_not_fit_are_named(run, change, complaint):
    spoil(run, change)
    with pytest.raises(InputError, match=complaint):
        store.load(run)


def test_swapped_weights_are_noticed_by_their_checksum(run):
    save_file({"a": torch.ones(1)}, run / "model.safetensors")
    with pytest.raises(InputError, match="checksum differs"):
        store.load(run)


def test_a_changed_tokenizer_is_an_error(run):
    description = json.loads((run / "model.json").read_text())
    description["tokenizer"]["merges"] = "\n".join(description["tokenizer"]["merges"].split("\n")[:-1])
    (run / "model.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="fingerprint differs"):
        store.load(run)


def test_changed_mean_or_activation_is_an_error(run):
    for change in ("mean", "activation"):
        description = json.loads((run / "model.json").read_text())
        if change == "mean":
            description["preprocess"]["mean"] = [0.0, 0.0, 0.0]
        else:
            description["dual"]["text"]["activation"] = "gelux"
        saved = (run / "model.json").read_text()
        (run / "model.json").write_text(json.dumps(description))
        with pytest.raises(InputError, match=change):
            store.load(run)
        (run / "model.json").write_text(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other/9"}'])
def test_a_damaged_or_foreign_model_json_is_named(run, text):
    (run / "model.json").write_text(text)
    with pytest.raises(InputError, match="model.json"):
        store.load(run)


def test_a_folder_without_model_says_what_to_name(tmp_path):
    with pytest.raises(InputError, match="no model.json"):
        store.load(tmp_path)
    with pytest.raises(InputError, match="there is no model at"):
        store.load(tmp_path / "nothing")


def test_an_unfinished_run_says_how_to_go_on(run):
    (run / "model.safetensors").unlink()
    with pytest.raises(InputError, match="--resume"):
        store.load(run)
