"""CoCu: its two losses, what it reads, and a run on the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.factories import AT, make_method, random_images, tokenizer

import diptych
from diptych.cli import main
from diptych.data.batch import Batch, Images, Tokens
from diptych.data.sources import open_source, rewritten
from diptych.data.tokenizers import pad_batch
from diptych.data.views import ImageView
from diptych.errors import InputError
from diptych.methods.dense.cocu import CoCu
from diptych.methods.dense.cocu.groupvit import GroupViT
from diptych.methods.dense.cocu.labels import ConceptView, multi_label_nce
from diptych.methods.make import Make
from diptych.objectives import info_nce
from diptych.towers.build import image_tower

TOWER = "cocu.groupvit:image_size=32:patch=8:width=32:heads=2:depths=(1,1,1):groups=(4,2)"
HEAD = "mlp:hidden=32:bias=true:last_bias=true"


def method(**config) -> CoCu:
    return make_method("cocu", image=TOWER, projection=HEAD, **config)  # type: ignore[return-value]


def batch(count=4, texts=4) -> Batch:
    words = tokenizer()
    said = [f"a {'red' if at % 2 else 'blue'} bar {at % 3}" for at in range(count * texts)]
    ids, lengths = pad_batch(words.encode(said), words)
    tokens = Tokens(ids.unflatten(0, (count, texts)), lengths.unflatten(0, (count, texts)))
    return Batch(
        images={"main": Images(random_images(count)[:, None])},
        texts={"main": tokens},
        fields={},
        keys=[str(at) for at in range(count)],
    )


def test_the_loss_is_that_of_captions_and_of_concepts_by_scales_of_their_own():
    made = method(weight=0.5, noise=0.0).eval()
    with torch.no_grad():
        made.concept_scale.value.fill_(1.0)
        given = batch()
        features = made.encode(given, AT)
        found = made.loss(features, given, AT)
    encoder = made.model.encoder
    ids, lengths = given.text.flat
    texts = encoder.embed_texts(ids, lengths).unflatten(0, (4, 4))
    image = encoder.embed_images(given.image.flat)
    torch.testing.assert_close(features["texts"], texts)
    caption = info_nce(image, texts[:, 0], 1 / 0.07)
    torch.testing.assert_close(found.terms["caption"], caption)
    concepts = 0.5 * multi_label_nce(image, texts[:, 1:], np.e)
    torch.testing.assert_close(found.terms["concepts"], concepts)
    torch.testing.assert_close(found.total, caption + concepts)


def test_without_weight_the_captions_alone_are_learned():
    made = method(weight=0.0, noise=0.0)
    given = batch()
    found = made.loss(made.encode(given, AT), given, AT)
    assert list(found.terms) == ["caption"]
    assert not made.concept_scale.value.requires_grad


def test_training_groups_with_noise_and_inference_without():
    made = method()
    tower = made.model.image
    assert isinstance(tower, GroupViT)
    assert tower.noise == 1.0
    x = random_images(4)
    made.eval()
    with torch.no_grad():
        assert torch.equal(tower(x).pooled, tower(x).pooled)
        made.train()
        assert not torch.equal(tower(x).pooled, tower(x).pooled)


def test_it_reads_captions_and_concepts():
    made = method(
        role="web", concepts="tag", labels=2, sampling="top", templates=("a {} | one {}",)
    )
    (stage,) = made.stages()
    images, texts = made.views(stage)
    assert isinstance(images, ImageView)
    assert isinstance(texts, ConceptView)
    assert texts.reads == ("texts.web", "texts.tag")
    assert (texts.labels, texts.sampling, [*texts.templates]) == (2, "top", ["a {}", "one {}"])
    assert "texts.tag" in made.needs(stage)


def test_files_of_templates_are_read_into_the_options(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a {}\none {}\n")
    found = CoCu.resolve_options({"templates": (str(path), "images"), "labels": 2})
    assert found == {"templates": ("a {}", "one {}", "images"), "labels": 2}
    assert CoCu.resolve_options({"labels": 2}) == {"labels": 2}
    with pytest.raises(InputError, match="unknown templates 'imagines'"):
        method(templates=("imagines",))


def test_other_towers_are_refused():
    with pytest.raises(InputError, match="cocu trains a tower that groups patches"):
        make_method("cocu", projection=HEAD)
    with pytest.raises(InputError, match="cocu trains a tower that groups patches"):
        make_method("cocu", make=Make.of(diptych.load("tiny")))


def test_the_published_size():
    """Twelve blocks of width 384 and six heads, 64 and 8 groups; heads of 4,096."""
    preset = CoCu.preset("paper")
    with torch.device("meta"):
        tower = image_tower(preset.image)
    assert [len(stage.transformer.layers) for stage in tower.stages] == [6, 3, 3]
    assert [stage.groups.shape for stage in tower.stages[:2]] == [(64, 384), (8, 384)]
    assert tower.stages[0].transformer.layers[0].attn.heads == 6
    rates = [block.dropout.p for stage in tower.stages for block in stage.transformer.layers]
    assert rates == pytest.approx(np.linspace(0, 0.1, 12).tolist())
    recipe = preset.recipe
    assert recipe.lr * recipe.min_lr == pytest.approx(4e-5)
    assert recipe.warmup * recipe.epochs == pytest.approx(2, abs=0.02)
    config = CoCu.configure(preset.config)
    assert config.projection.startswith("mlp:hidden=4096:")
    assert (config.labels, config.sampling) == (3, "clusters")


def test_training_goes_on_from_a_run():
    made = method()
    model = made.model.to_model(made.make.tokenizer, made.model.image.preprocess, "mine")
    again = make_method("cocu", seed=1, make=Make.of(model), projection=HEAD, best=2)
    assert again.model.best == 2
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_a_run_is_trained_and_segments_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "rewritten.jsonl"
    data = "scenes:count=8:number=2:described=1:size=32"
    names = ["cat", "dog", "car", "tree"]
    found = [({name: 1.0 for name in names[at % 4 :]}, [names[at % 4 :]]) for at in range(8)]
    rewritten.write(path, data, open_source(data), "tiny", found)
    run = tmp_path / "run"
    small = [f"--image-tower={TOWER}", "--text-tower=text:width=32:depth=1:heads=2"]
    small += ["--tokenizer=bpe:vocab_size=320:context=24", f"--method.projection={HEAD}"]
    train = ["train", "cocu", "--data", f"rewritten:{path}", "--steps", "2", "--batch-size", "4"]
    assert main([*train, *small, "--method.background", "0.5", "--out", str(run)]) == 0
    model = diptych.load(run)
    assert (model.best, model.background) == (5, 0.5)
    image = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), np.uint8)).save(image)
    capsys.readouterr()
    asked = ["--names", "cat,dog,background", "--template", "{}", "--background", "0.9", "--json"]
    for whole in ([], ["--whole", "--out", str(tmp_path / "maps")]):
        assert main(["segment", str(run), str(image), *asked, *whole]) == 0
        shares = json.loads(capsys.readouterr().out)["images"][0]["shares"]
        assert set(shares) == {"cat", "dog", "background"}
    assert np.array(Image.open(tmp_path / "maps" / "wide.png")).max() < 3
    assert main(["data", "show", "scenes", "--out", str(tmp_path / "a"), "--gallery", "cat"]) == 2
    assert "--gallery goes with `data rewrite`" in capsys.readouterr().err
