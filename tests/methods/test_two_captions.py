"""Named spaces: two CLS tokens from training to search, and a delivered module that makes its own."""

import importlib
import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import diptych
from diptych.cli import main
from diptych.errors import InputError
from diptych.methods import registry
from diptych.models.delivered import Delivered
from diptych.models.model import Model
from diptych.testing import check as suite
from diptych.towers.build import image_tower
from diptych.towers.dual import DualEncoder

HERE = Path(__file__).parent
FILE = str(HERE / "two_captions.py")
DATA = "scenes:count=40:size=32:texts=web+synthetic"


@pytest.fixture
def named(monkeypatch):
    """The method under its name, as a third party's entry point gives it."""
    point = EntryPoint("two_captions", "tests.methods.two_captions", "diptych.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registry.cards.cache_clear()
    yield importlib.import_module("tests.methods.two_captions")
    registry.cards.cache_clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("spaces") / "run"
    diptych.train(FILE, DATA, out, batch_size=20, epochs=1, quiet=True)
    return out


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator)


def test_it_resumes_saves_and_trains_on_two_ranks(named, two):
    subject = suite.Subject.of("two_captions")
    suite.cached_gradients_are_the_whole_batchs(subject)
    suite.saved_model_loads(subject)
    suite.resume_is_exact(subject)
    suite.two_ranks_train_as_one(subject, two)


def test_a_model_embeds_in_its_first_space_and_in_the_others_by_name(run, pixels):
    model = diptych.load(run)
    assert model.spaces == ("web", "synthetic")
    pooled = model.encoder.image(pixels).pooled
    assert pooled.shape[:2] == (3, 2)
    expected = torch.nn.functional.normalize(model.encoder.project_image(pooled), dim=-1)
    for number, name in enumerate(model.spaces):
        found = model.space(name)
        torch.testing.assert_close(found.embed_images(pixels), expected[:, number].detach())
        torch.testing.assert_close(found.represent(pixels).pooled, pooled[:, number].detach())
        assert torch.equal(found.embed_texts(["a cat"]), model.embed_texts(["a cat"]))
        assert found.encoder.image is model.encoder.image
    assert torch.equal(model.embed_images(pixels), model.space("web").embed_images(pixels))
    assert model.space("synthetic").space("web").identity == model.identity
    assert model.space("web").identity == model.identity != model.space("synthetic").identity


def test_classes_are_set_anew_in_each_space(run, pixels):
    model = diptych.load(run)
    model.set_classes(["cat", "dog"])
    other = model.space("synthetic")
    with pytest.raises(InputError, match="knows no classes"):
        other.class_logits(pixels)
    other.set_classes(["cat", "dog", "owl"])
    assert (model.class_logits(pixels).shape, other.class_logits(pixels).shape) == ((3, 2), (3, 3))


def test_a_query_is_in_the_space_of_the_embeddings(run, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    emb = str(tmp_path / "emb")
    assert main(["embed", str(run), DATA, "--space", "synthetic", "--out", emb]) == 0
    manifest = json.loads((tmp_path / "emb" / "diptych.json").read_text())
    assert manifest["space"] == "synthetic"
    assert manifest["identity"] == diptych.load(run, space="synthetic").identity
    capsys.readouterr()
    assert main(["search", emb, "a cat", "-k", "2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_commands_take_a_space_and_refuse_one_that_does_not_exist(run, capsys):
    words = ["evaluate", str(run), "--data", DATA, "--role", "synthetic", "--json"]
    found = {}
    for name in ("web", "synthetic"):
        assert main([*words, "--space", name]) == 0
        found[name] = json.loads(capsys.readouterr().out)["retrieval"]
        assert found[name]["space"] == name
    assert found["web"]["protocol"] == found["synthetic"]["protocol"]
    assert found["web"]["model"] != found["synthetic"]["model"]
    assert main(["info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spaces"] == ["web", "synthetic"]
    for words, message in (
        (["evaluate", run, "--data", DATA], f"{run} has no space 'wbe'; it has web, synthetic"),
        (["embed", run, DATA, "--out", run / "emb"], f"{run} has no space 'wbe'; it has web, syn"),
        (["classify", run, DATA, "--names", "cat"], f"{run} has no space 'wbe'; it has web, syn"),
        (["evaluate", "tiny", "--data", DATA], "tiny has no space 'wbe'; it has one that has no"),
        (
            ["evaluate", "tiny-lm", "--data", DATA],
            "a space is of a dual encoder, which tiny-lm is not",
        ),
    ):
        assert main([*map(str, words), "--space", "wbe"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_the_precision_is_set_in_the_space(run, pixels):
    exact = diptych.load(run, space="synthetic").embed_images(pixels)
    half = diptych.load(run, space="synthetic", precision="bfloat16")
    assert (half.precision, half.chosen_space) == ("bfloat16", "synthetic")
    assert float((half.embed_images(pixels) * exact).sum(1).min()) > 0.99
    with pytest.raises(
        InputError, match="is in bfloat16; load it in float32 by torch, then choose the space"
    ):
        diptych.load(run, precision="bfloat16").space("web")


def test_pooled_vectors_without_names_are_refused_in_one_line(run, tmp_path):
    two = "vit:image_size=32:patch=16:width=32:depth=1:cls=2"
    with pytest.raises(
        InputError, match="pools 2 vectors an image, and 0 spaces are named for them"
    ):
        diptych.train("clip", DATA, tmp_path / "clip", image_tower=two)
    one = "vit:image_size=32:patch=16:width=32:depth=1"
    for tower, spaces in ((one, ["a", "b"]), (two, ["a", "a"])):
        with pytest.raises(InputError, match="are not one for each of the"):
            DualEncoder(image_tower(tower), None, 16, spaces=spaces)
    with pytest.raises(
        InputError, match="wants a model with the spaces web, synthetic, and the one"
    ):
        diptych.train(FILE, DATA, tmp_path / "run", init="tiny")


class CommonAndSalient(Delivered):
    """Two encoders of images, each with a space."""

    spaces = ("common", "salient")

    def __init__(self):
        super().__init__()
        for name, size in (("common", 32), ("salient", 16)):
            tower = image_tower(f"vit:image_size={size}:patch=16:width=32:depth=1")
            self.add_module(name, DualEncoder(tower, None, 8))

    def space(self, name):
        return getattr(self, name)

    def to_model(self, tokenizer, preprocess, name):
        return Model(self.common, tokenizer, preprocess, name=name, delivered=self)


def test_a_delivered_module_makes_its_own_spaces(pixels):
    torch.manual_seed(0)
    module = CommonAndSalient().eval()
    model = module.to_model(None, module.common.image.preprocess, "two")
    salient = model.space("salient")
    assert (model.preprocess.size, salient.preprocess.size) == (32, 16)
    small = torch.nn.functional.interpolate(pixels.float(), size=16).byte()
    torch.testing.assert_close(salient.embed_images(small), module.salient.embed_images(small))
    torch.testing.assert_close(model.embed_images(pixels), module.common.embed_images(pixels))
    assert model.space("common").identity == model.identity != salient.identity
    with pytest.raises(InputError, match="two has no space 'rest'; it has common, salient"):
        model.space("rest")
