"""The method: what trains, passes over the captions, gradient bounds, and the way from data to a loaded model."""

import numpy as np
import pytest
import torch
from tests.factories import AT, make_method, tokenizer
from torch.nn.functional import normalize

import diptych
from diptych.data.batch import Batch, Tokens
from diptych.data.pairs import by_text
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.make import Make
from diptych.methods.store import load
from diptych.methods.text.grounded_sentences import FEATURES, EachImageOnce, GroundedSentences
from diptych.methods.text.grounded_sentences.objectives import batch_hinge
from diptych.models.export import reason
from diptych.training.config import resolve
from diptych.training.run import run

TEXT = "grounded_sentences.gru:hidden=8:attention=4:heads=2"
WORLD = "scenes:number=1:size=32:texts=paraphrase"


def method(**config):
    return make_method(GroundedSentences, text=TEXT, **{"crops": 1, **config})


def batch(count=4, length=6):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 60, (count, 1, length), generator=generator)
    features = torch.randn(count, 32, generator=generator)
    return Batch(
        images={},
        texts={"main": Tokens(ids, torch.full((count, 1), length))},
        fields={FEATURES: features},
        keys=tuple(map(str, range(count))),
    )


def settings(tmp_path, **more):
    return resolve(
        "grounded_sentences",
        {"train": f"{WORLD}:count=24"},
        image_tower="conv:image_size=32:widths=(8,16):depths=(0,0)",
        text_tower=TEXT,
        embed_dim=32,
        config={"role": "paraphrase", "crops": 1, "cycles": 2},
        recipe={"steps": 4, "batch_size": 8},
        options={"seed": 0, "quiet": True},
        **more,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("grounded") / "run"
    run(settings(out), out)
    return out


def test_only_the_text_tower_and_the_linear_map_are_trained():
    made = method()
    trainable = {name for name, p in made.named_parameters() if p.requires_grad}
    assert all(name.startswith(("delivered.encoder.text.", "delivered.encoder.image_projection."))
               for name in trainable)  # fmt: skip
    assert made.model.image_projection.weight.shape == (32, 32)
    bound = (6 / 64) ** 0.5  # of Xavier's uniform distribution
    assert 0.9 * bound < float(made.model.image_projection.weight.detach().abs().max()) <= bound
    assert not made.train().model.image.training


def test_the_loss_is_the_hinge_of_unit_vectors_and_the_diversity_of_heads():
    made = method(margin=0.3)
    given = batch()
    with torch.no_grad():
        features = made.encode(given, AT)
        found = made.loss(features, given, AT)
        image = normalize(made.model.image_projection(given.fields[FEATURES]), dim=1)
        text = made.model.embed_texts(*given.text.flat)
    torch.testing.assert_close(features["image"], image)
    torch.testing.assert_close(features["text"], text)
    torch.testing.assert_close(found.terms["hinge"], batch_hinge(image, text, 0.3))
    assert set(found.terms) == {"hinge", "diversity"}
    one = make_method(
        GroundedSentences, text=TEXT.replace("heads=2", "heads=1"), embed_dim=16, crops=1
    )
    assert set(one.loss(one.encode(given, AT), given, AT).terms) == {"hinge"}


def test_the_attention_of_the_first_text_counts_alone_as_released():
    losses = {}
    for kind in ("all", "first"):
        made = method(distinct_attention=kind)
        given = batch()
        losses[kind] = float(
            made.loss(made.encode(given, AT), given, AT).terms["diversity"].detach()
        )
    assert losses["all"] != losses["first"]


def test_no_image_is_in_a_batch_twice_and_an_epoch_has_each_caption_once():
    source = by_text(open_source(f"{WORLD}:count=12"), "paraphrase")
    assert len(source) == 60
    batches = EachImageOnce()(source, seed=0, epoch=0, batch=8)
    assert sorted(np.concatenate(batches).tolist()) == list(range(60))
    for rows in batches:
        images = source.labels("origin")[rows]
        assert len(set(images.tolist())) == len(rows)


def test_both_networks_have_gradient_bounds_of_their_own():
    _, stage = method(clip_image=0.0025, clip_text=0.05).stages()
    assert stage.clip == {
        "delivered.encoder.image_projection": 0.0025,
        "delivered.encoder.text": 0.05,
    }
    assert stage.recipe == {"schedule": "cyclic:cycles=8", "warmup": 0.0}
    _, plain = method(cycles=0).stages()
    assert plain.clip == {}
    assert plain.recipe == {}


def test_attention_over_the_padding_cannot_be_cut_into_pieces():
    assert method().chunkable
    made = make_method(GroundedSentences, text=TEXT + ":masked=false", crops=1)
    assert not made.chunkable


def test_published_sizes():
    paper = GroundedSentences.preset("paper")
    assert (paper.embed_dim, paper.recipe.batch_size, paper.recipe.epochs) == (4096, 32, 32)
    assert (paper.recipe.lr, paper.recipe.lr * paper.recipe.min_lr) == (1e-3, pytest.approx(1e-6))
    coco = GroundedSentences.preset("coco")
    assert (coco.embed_dim, coco.recipe.lr, coco.recipe.lr * coco.recipe.min_lr) == (
        2048,
        1e-4,
        pytest.approx(1e-6),
    )
    assert {"clip_image", "clip_text"} & coco.config.keys() == set()


def test_a_run_loads_embeds_and_is_evaluated(trained):
    model = load(trained)
    assert model.spaces == ("ensemble", "snapshot1", "snapshot2")
    vectors = model.embed_texts(["a red cat", "", "a\ud800", "word " * 10_000])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    pairs = open_source("scenes:number=1:size=32:texts=caption:pair=graded:count=20")
    found = diptych.evaluate(model, pairs, ["sts", "retrieval"])
    assert found["sts"]["n"] == 20
    assert found["retrieval"]["n"] == 20
    assert load(trained, space="snapshot2").identity != model.identity
    with pytest.raises(InputError, match="no space 'snapshot3'"):
        model.space("snapshot3")


@pytest.mark.parametrize("target", ["onnx", "hf", "openclip", "sentence-transformers"])
def test_targets_that_cannot_hold_it_are_named_before_anything_is_written(trained, target):
    assert reason(load(trained), target) is not None


def test_training_goes_on_from_a_run_at_its_last_weights(trained):
    model = load(trained)
    made = GroundedSentences.of(GroundedSentences.configure({"cycles": 2}), Make.of(model))
    for name, value in model.delivered.encoder.state_dict().items():
        assert torch.equal(made.model.state_dict()[name], value), name
    assert int(made.delivered.taken) == 0


def test_features_are_those_of_a_given_model(trained):
    made = method(features=str(trained))
    own = load(trained).delivered.encoder.image.state_dict()
    for name, value in made.model.image.state_dict().items():
        assert torch.equal(value, own[name])
    with pytest.raises(InputError, match="name a model that does"):
        method(features="tiny-lm")


def test_random_features_are_warned_of(tmp_path, caplog):
    run(settings(tmp_path), tmp_path / "run")
    assert "random weights" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_method(GroundedSentences, text=TEXT, embed_dim=64), "give --embed-dim 32"),
        (lambda: method(cycles=-1), "cycles"),
        (lambda: method(crops=5), "crops"),
        (lambda: method(reduction="mean"), "reduction"),
        (
            lambda: GroundedSentences.of(GroundedSentences.configure({}), Make.of(load("tiny-lm"))),
            "no image tower",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_features_beside_a_given_model_are_refused():
    made = GroundedSentences.of(
        GroundedSentences.configure({"features": "tiny"}), Make.of(load("tiny"))
    )
    with pytest.raises(InputError, match="leave out --method.features tiny"):
        made.setup({})


def test_other_text_towers_are_trained_as_well():
    made = make_method(GroundedSentences, crops=1, words=tokenizer())
    given = batch()
    assert set(made.loss(made.encode(given, AT), given, AT).terms) == {"hinge"}
