"""Models on disk: the round trip, and every way in which files can fail to fit."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.factories import make_method

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
    assert torch.allclose(
        loaded.embed_images(pixels), original.embed_images(pixels).detach(), atol=1e-6
    )
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
    description["weights"] = store.checksum(run / "model.safetensors")
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
        (
            lambda s: s.update({"image_projection.weight": torch.ones(32, 32).half()}),
            "is torch.float16 where",
        ),
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


def edit(run, *path, value):
    """Change one value of model.json, named by its keys."""
    description = json.loads((run / "model.json").read_text())
    at = description
    for key in path[:-1]:
        at = at[key]
    assert at[path[-1]] != value
    at[path[-1]] = value
    (run / "model.json").write_text(json.dumps(description))


def forget_description(run):
    """Leave the weights as an older version wrote them, without the hash of their description."""
    spoil(run, lambda state: None)


CHANGES = {
    "activation": (("dual", "text", "activation"), "quick_gelu"),
    "heads": (("dual", "image", "heads"), 4),
    "pooling": (("dual", "text", "pooling"), "mean"),
    "eps": (("dual", "image", "eps"), 1e-3),
    "context": (("tokenizer", "context"), 16),
    "mean": (("preprocess", "mean"), [0.0, 0.0, 0.0]),
    "mean in both places": (("dual", "image", "mean"), [0.0, 0.0, 0.0]),
    "scale": (("dual", "logit_scale", "start"), 3.0),
    "rounding": (("stored",), "float16"),
    "method": (("method",), "siglip"),
    "option": (("config",), {"scale": 3.0}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_mean_or_activation_is_an_error(run, name):
    path, value = CHANGES[name]
    if name == "mean in both places":
        edit(run, "preprocess", "mean", value=value)
    description = json.loads((run / "model.json").read_text())
    at = description
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (run / "model.json").write_text(json.dumps(description))
    with pytest.raises(
        InputError, match=r"not the description that model.safetensors was saved with.*copy both"
    ):
        store.load(run)


def test_what_does_not_turn_weights_into_embeddings_may_be_edited(run):
    edit(run, "diptych", value="9.9")
    store.load(run)


def test_a_model_of_an_older_version_has_no_hash_and_is_loaded(run):
    forget_description(run)
    store.load(run)


def test_shipped_models_keep_the_hash_of_their_description():
    for folder in store.shipped().values():
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert file.metadata()[store.METADATA] == store.digest(
                json.loads((folder / "model.json").read_text())
            )


def test_a_changed_tokenizer_is_an_error(run):
    forget_description(run)
    merges = json.loads((run / "model.json").read_text())["tokenizer"]["merges"]
    edit(run, "tokenizer", "merges", value="\n".join(merges.split("\n")[:-1]))
    with pytest.raises(InputError, match="fingerprint differs"):
        store.load(run)


def test_an_unknown_activation_is_named(run):
    forget_description(run)
    edit(run, "dual", "text", "activation", value="gelux")
    with pytest.raises(InputError, match="activation"):
        store.load(run)


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


def paths_of(value, path=()):
    """Every place in a tree of JSON."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from paths_of(inner, (*path, key))


ODD = st.sampled_from(
    [None, True, -1, 0, 7, 1e300, 2.5, "", "vit", "\x00", [], [1], {}, {"name": "vit"}, [[["a"]]]]
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_description_that_nothing_vouches_for_is_refused_in_words_or_loads(run, data):
    if not (run / "valid").exists():
        forget_description(run)
        (run / "valid").write_text((run / "model.json").read_text())
    description = json.loads((run / "valid").read_text())
    places = [path for path in paths_of(description) if path and "merges" not in path]
    *parents, last = data.draw(st.sampled_from(places))
    at = description
    for key in parents:
        at = at[key]
    if data.draw(st.booleans()):
        del at[last]
    else:
        at[last] = data.draw(ODD)
    (run / "model.json").write_text(json.dumps(description))
    message = ""
    try:
        store.load(run)
    except InputError as error:
        message = str(error)
    assert "\n" not in message
