"""Classified images as pairs: the published figures, the head on BERT's first token, the mixture of
sources, and the way from a world to a number."""

import math

import numpy as np
import pytest
import torch
from tests.factories import AT, make_batch, make_method
from torch.nn.functional import normalize

from diptych.data import descriptions
from diptych.data.sources import Concat, open_source
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.methods.domain.unimed_clip import PART, UniMedCLIP
from diptych.methods.make import Make
from diptych.methods.store import load
from diptych.objectives import info_nce
from diptych.testing import Toy
from diptych.training.config import resolve
from diptych.training.run import run

BERT = "hf:model_type=bert:width=32:depth=1:heads=2:dropout=0.0:pooling=first"
FIRST = "text:width=32:depth=1:heads=2:causal=false:pooling=first"


def method(**config):
    return make_method(UniMedCLIP, text=FIRST, **config)


def test_scale_begins_at_its_published_value_and_ends_at_a_hundred():
    scale = method().model.logit_scale
    assert float(scale().detach()) == pytest.approx(14.285714, abs=1e-5)
    for value, bound in ((9.0, 100), (-1.0, 1)):
        torch.nn.init.constant_(scale.value, value)
        scale.clamp_()
        assert float(scale().detach()) == pytest.approx(bound)


def test_collapsed_features_have_the_loss_of_chance():
    one = normalize(torch.ones(4, 8, dtype=torch.float64), dim=1)
    found = method().terms(one, one)["contrastive"]
    assert float(found.detach()) == pytest.approx(1.386294, abs=1e-6)


def test_equal_captions_leave_half_of_ln_two():
    """Pairs 0 and 1 share image and text, at scale 100."""
    eye = torch.eye(4, dtype=torch.float64)[[0, 0, 2, 3]]
    loss = info_nce(eye, eye, torch.tensor(100.0, dtype=torch.float64))
    assert float(loss) == pytest.approx(0.346574, abs=1e-6)
    assert float(loss) == pytest.approx(0.5 * math.log(2))


@pytest.mark.parametrize("alike", [True, False])
def test_the_floor_is_the_mean_log_of_how_often_a_caption_occurs(alike):
    """Whether or not the images of equal captions are equal."""
    groups = [0, 0, 0, 1, 1, 2]
    texts = torch.eye(8, dtype=torch.float64)[groups]
    images = texts.clone()
    if not alike:  # nearer to their caption than to any other, and different
        images = normalize(
            images + 0.05 * torch.eye(8, dtype=torch.float64)[[3, 4, 5, 6, 7, 7]], dim=1
        )
    expected = np.mean([math.log(groups.count(group)) for group in groups])
    loss = float(info_nce(images, texts, torch.tensor(2000.0, dtype=torch.float64)))
    assert loss == pytest.approx(expected, abs=1e-3)
    assert loss >= expected - 1e-9


def test_losses_of_ranks_with_all_keys_average_to_that_of_the_batch():
    image, text = normalize(torch.randn(2, 6, 5, dtype=torch.float64), dim=-1)
    image.requires_grad_()
    scale = torch.tensor(14.0, dtype=torch.float64)
    whole = info_nce(image, text, scale)
    [expected] = torch.autograd.grad(whole, image)
    parts = []
    for own in (slice(0, 3), slice(3, 6)):
        rest = slice(3, 6) if own.start == 0 else slice(0, 3)
        keys = {"text_keys": torch.cat([text[own], text[rest]])}
        keys["image_keys"] = torch.cat([image[own], image[rest]])
        parts.append(info_nce(image[own], text[own], scale, **keys))
    mean = sum(parts) / 2
    torch.testing.assert_close(mean, whole)
    torch.testing.assert_close(torch.autograd.grad(mean, image)[0], expected)


def reference(made, batch) -> float:
    """The loss by loops, from the last hidden states of the text tower."""
    model = made.model
    images = [
        normalize(model.project_image(model.image(x[None]).pooled), dim=-1)[0]
        for x in batch.image.flat
    ]
    first, _, last = model.text_projection
    ids, lengths = batch.text.flat
    texts = []
    for row, length in zip(ids, lengths, strict=True):
        hidden = model.text(row[None, :length], length[None]).tokens[0, 0].tolist()
        inner = [
            sum(w * h for w, h in zip(line, hidden, strict=True)) for line in first.weight.tolist()
        ]
        inner = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in inner]
        out = [
            sum(w * v for w, v in zip(line, inner, strict=True)) for line in last.weight.tolist()
        ]
        size = math.sqrt(sum(v * v for v in out))
        texts.append([v / size for v in out])
    scale = float(model.logit_scale())
    logits = [
        [scale * sum(a * b for a, b in zip(x.tolist(), t, strict=True)) for t in texts]
        for x in images
    ]
    total = 0.0
    for table in (logits, list(zip(*logits, strict=True))):
        for at, line in enumerate(table):
            total += math.log(sum(math.exp(value) for value in line)) - line[at]
    return total / (2 * len(logits))


@pytest.mark.parametrize("text", [FIRST, BERT])
def test_the_loss_is_that_of_loops_from_the_first_token(text):
    if text == BERT:
        pytest.importorskip("transformers")
    made = make_method(UniMedCLIP, text=text, embed_dim=16).double().eval()
    batch = make_batch(4, {"main": 1}, {"main": 1})
    with torch.no_grad():
        found = float(made.loss(made.encode(batch, AT), batch, AT).total)
        assert found == pytest.approx(reference(made, batch), abs=1e-9)
    assert [
        layer.weight.shape for layer in made.model.text_projection if hasattr(layer, "weight")
    ] == [
        (24, 32),
        (16, 24),
    ]
    assert not any("bias" in name for name, _ in made.model.text_projection.named_parameters())


def test_gradients_of_the_head_are_those_of_differences():
    head = (
        method(text_projection="mlp:hidden=mean:norm=none:activation=gelu")
        .double()
        .model.text_projection
    )
    x = torch.randn(3, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: normalize(head(x), dim=-1), x)


def test_the_published_size_is_that_of_its_towers():
    """ViT-B/16 86,192,640, BERT without its pooler 108,891,648, head 768 · 640 + 640 · 512, the scale."""
    pytest.importorskip("transformers")
    preset = UniMedCLIP.presets["paper"]
    with torch.device("meta"):
        words = build("bpe:vocab_size=320:context=256", ["one text"] * 3)
        made = UniMedCLIP(
            UniMedCLIP.configure(preset.config),
            Make(
                image=preset.image,
                text=f"{preset.text}:vocab_size=30522",
                embed_dim=preset.embed_dim,
                tokenizer=words,
            ),
        )
    assert sum(each.numel() for each in made.parameters()) == 86_192_640 + 108_891_648 + 819_200 + 1
    assert made.model.text.context == 256


def test_sources_are_mixed_by_their_weights():
    made = method(weights=(2.0, 0.5))
    [stage] = made.stages()
    joined = made.samples(stage, "train", Concat([Toy(20), Toy(40)]))
    rows = np.concatenate(stage.plan(joined, 0, 0, 8))
    counts = np.bincount(joined.labels(PART)[rows], minlength=2)
    assert counts[0] == 40
    assert 8 <= counts[1] <= 32
    assert set(made.needs(stage)) == {"images.main", "texts.caption", f"labels.{PART}"}
    with pytest.raises(
        InputError, match=r"are of 2 sources, and --data names 1: toy; give one weight"
    ):
        made.samples(stage, "train", Toy(8))
    plain = method()
    assert plain.samples(plain.stages()[0], "train", joined) is joined


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"text_projection": "mlp"}, "mixes samples; write norm=none or norm=layer"),
        ({"text_projection": "mlp:norm=none:last_norm=plain"}, "mixes samples"),
        ({"weights": (1.0, -1.0)}, "has one below 0"),
        ({"weights": (1.0,), "distinct": "class"}, "leave out distinct and together"),
        ({"text_encode_model_name": "bert"}, "unknown option"),
    ],
)
def test_options_that_do_not_fit_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        method(**config)


def test_from_a_world_to_a_mean_over_modalities(tmp_path):
    """Pairs and classified images are trained on together, and each source is measured by itself."""
    bank = tmp_path / "bank.json"
    world = open_source("modalities").world
    names = world.classes
    texts = {name: world.texts_of("class", name, 3) for name in names}
    descriptions.write(bank, texts)
    labelled = f"modalities:captioned=0.0:start=40:count=40:captions={bank}"
    settings = resolve(
        "unimed_clip",
        {"train": f"modalities:count=40,{labelled}"},
        image_tower="conv:image_size=32:widths=(8,16):depths=(1,1)",
        text_tower="text:width=16:depth=1:heads=2:causal=false:pooling=first",
        embed_dim=16,
        config={"augment": {}, "weights": (1.0, 2.0)},
        recipe={"steps": 2, "batch_size": 16, "ema": None},
        options={"seed": 0, "quiet": True},
    )
    run(settings, tmp_path / "run")
    model = load(tmp_path / "run")
    parts = [f"modalities:modalities={name}:split=test:count=20" for name in ("ct", "mri")]
    found = evaluate(
        model,
        open_source(",".join(parts)),
        ["zeroshot"],
        prompts=str(bank),
        by_source=True,
        classnorm=True,
    )["zeroshot"]
    assert found["chance_top1"] == 0.25
    assert found["n"] == 40
    assert found["top1"] == pytest.approx(
        np.mean([each["top1"] for each in found["by_source"].values()])
    )
