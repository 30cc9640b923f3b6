"""TIP-CLIP: the NULL image in the loss against loops, its floors, its gradient, stages and
threshold."""

import math

import numpy as np
import pytest
import torch
from tests.factories import AT, make_method
from tests.training.helpers import make_engine, read_log
from torch.nn.functional import normalize

from diptych.data.batch import Batch, Images
from diptych.data.sample import Field, Sample, Text
from diptych.errors import InputError
from diptych.methods.adapt.visualness import floor
from diptych.objectives import info_nce
from diptych.testing import Toy


def kinds(*visual):
    return Batch(
        fields={"visual": torch.tensor(visual, dtype=torch.bool)}, keys=tuple(map(str, visual))
    )


def rows(*visual):
    """Perfect embeddings: visual rows have a direction of their own, all others that of the NULL
    image."""
    size = len(visual) + 1
    places = [at + 1 if yes else 0 for at, yes in enumerate(visual)]
    return torch.eye(size, dtype=torch.float64)[places]


def total(features, batch, temperature=None, **config):
    method = make_method("visualness", **config).double()
    if temperature is not None:
        with torch.no_grad():
            method.model.logit_scale.value.fill_(math.log(1 / temperature))
    return method.loss(features, batch, AT)


def value(losses):
    return float(losses.total.detach())


def slow_loss(image, text, scale):
    """By loops, in double: every row against every column, both ways."""
    count, found = len(image), 0.0
    for one, other in ((image, text), (text, image)):
        for i in range(count):
            logits = [scale * float(one[i] @ other[j]) for j in range(count)]
            most = max(logits)
            found -= (
                logits[i] - most - math.log(sum(math.exp(value - most) for value in logits))
            ) / (2 * count)
    return found


@pytest.mark.parametrize(
    "visual", [(1, 0, 0, 1, 0), (1, 1, 1, 1, 1), (0, 0, 0, 0, 0), (1, 0, 1, 1, 1)]
)
def test_the_loss_is_clips_with_the_null_vector_in_the_rows_of_other_texts(visual):
    generator = torch.Generator().manual_seed(0)
    image, text = (
        normalize(torch.randn(5, 8, generator=generator, dtype=torch.float64), dim=1)
        for _ in range(2)
    )
    null = normalize(torch.randn(8, generator=generator, dtype=torch.float64), dim=0)
    image = torch.stack([own if yes else null for own, yes in zip(image, visual, strict=True)])
    found = value(total({"image": image, "text": text}, kinds(*visual), temperature=0.2))
    assert found == pytest.approx(slow_loss(image, text, 5.0), rel=1e-6)
    if (
        sum(visual) >= 4
    ):  # with one NULL row or none: the plain loss, with NULL as an image as any other
        assert found == pytest.approx(float(info_nce(image, text, 5.0)), rel=1e-6)


@pytest.mark.parametrize(
    ("count", "null", "least"), [(3, 2, 0.462098), (8, 4, 0.693147), (16, 11, 1.648553)]
)
def test_the_floor_of_the_loss(count, null, least):
    """The published numbers, with all else apart and a temperature near 0; the log tells what is
    above them."""
    visual = (0,) * null + (1,) * (count - null)
    losses = total(
        {"image": rows(*visual), "text": rows(*visual)}, kinds(*visual), temperature=0.01
    )
    assert value(losses) == pytest.approx(least, abs=1e-6)
    assert float(losses.logged["above_floor"]) == pytest.approx(0, abs=1e-6)
    assert float(losses.logged["visual"]) == pytest.approx((count - null) / count)


def test_the_floor_at_clips_temperature():
    visual = (0, 0, 1)
    losses = total(
        {"image": rows(*visual), "text": rows(*visual)}, kinds(*visual), temperature=0.07
    )
    assert value(losses) == pytest.approx(0.462099, abs=1e-6)


def test_a_batch_of_null_rows_alone_has_log_n_at_least():
    """All images are one: each row's softmax over texts sums to 1, so their mean surprise is log N
    or more."""
    null = torch.eye(5, dtype=torch.float64)[[0] * 4]
    even = total({"image": null, "text": null}, kinds(0, 0, 0, 0), temperature=0.1)
    generator = torch.Generator().manual_seed(0)
    texts = normalize(torch.randn(4, 5, generator=generator, dtype=torch.float64), dim=1)
    uneven = total({"image": null, "text": texts}, kinds(0, 0, 0, 0), temperature=0.1)
    assert value(even) == pytest.approx(math.log(4))
    assert value(uneven) > math.log(4)


def test_the_floor_with_one_image_for_all_visual_texts():
    visual = (1, 1, 1, 1, 0, 0, 0, 0)
    perfect = torch.eye(2, dtype=torch.float64)[[1] * 4 + [0] * 4]
    losses = total(
        {"image": perfect, "text": perfect}, kinds(*visual), temperature=0.01, visual="common"
    )
    assert value(losses) == pytest.approx(1.386294, abs=1e-6)
    assert float(losses.logged["above_floor"]) == pytest.approx(0, abs=1e-6)
    assert float(floor(torch.tensor([0, 0, 0]))) == pytest.approx(math.log(3))


def test_the_gradient_of_the_null_vector_is_the_sum_over_its_rows():
    generator = torch.Generator().manual_seed(2)
    own, text = (
        normalize(torch.randn(5, 8, generator=generator, dtype=torch.float64), dim=1)
        for _ in range(2)
    )
    null = own[4].clone().requires_grad_()
    visual = torch.tensor([True, False, False, True, False])
    one = total(
        {"image": torch.where(visual[:, None], own, null), "text": text},
        kinds(*visual.tolist()),
        0.3,
    ).total
    [gradient] = torch.autograd.grad(one, null)
    apart = torch.where(visual[:, None], own, null).detach().requires_grad_()
    [by_row] = torch.autograd.grad(
        total({"image": apart, "text": text}, kinds(*visual.tolist()), 0.3).total, apart
    )
    torch.testing.assert_close(gradient, by_row[~visual].sum(0))


def test_gradients_are_those_of_small_steps():
    generator = torch.Generator().manual_seed(3)
    values = [
        torch.randn(4, 6, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(2)
    ]
    method = make_method("visualness").double()
    batch = kinds(1, 0, 0, 1)
    assert torch.autograd.gradcheck(
        lambda image, text: method.loss({"image": image, "text": text}, batch, AT).total, values
    )


def test_the_null_image_passes_the_tower_once_a_step_and_is_kept_with_the_model():
    method = make_method("visualness")
    seen = []
    method.model.image.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    visual = torch.tensor([False, True, False, True, False])
    pixels = torch.randint(
        0, 256, (5, 1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    batch = Batch(images={"main": Images(pixels)}, fields={"visual": visual}, keys=tuple("abcde"))
    image = method._encode_images(batch, AT)["image"]
    [given] = seen
    torch.testing.assert_close(given, torch.cat([pixels[visual, 0], method.delivered.null[None]]))
    with torch.no_grad():
        torch.testing.assert_close(image[visual], method.model.embed_images(pixels[visual, 0]))
        null = method.delivered.null_vector()
        torch.testing.assert_close(image[~visual], null.expand(3, -1))
    image[~visual].pow(3).sum().backward()
    found = {name: p.grad.clone() for name, p in method.model.image.named_parameters()}
    method.zero_grad()
    (3 * method.model.embed_images(method.delivered.null[None]).pow(3).sum()).backward()
    expected = dict(method.model.image.named_parameters())
    assert sum(float(gradient.norm()) for gradient in found.values()) > 0.1
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name].grad, atol=1e-5, rtol=1e-4)
    assert torch.equal(method.deliver().state_dict()["null"], method.delivered.null)
    assert not torch.equal(
        make_method("visualness", null_seed=1).delivered.null, method.delivered.null
    )
    shown = method.delivered.null.float()
    assert abs(shown.mean() - 127.5) < 5
    assert shown.std() == pytest.approx(
        math.sqrt((256**2 - 1) / 12), rel=0.05
    )  # uniform in 0 … 255


def test_all_visual_texts_may_have_one_image():
    method = make_method("visualness", visual="common")
    visual = torch.tensor([True, False, True])
    pixels = torch.zeros(3, 1, 3, 32, 32, dtype=torch.uint8)
    image = method._encode_images(
        Batch(images={"main": Images(pixels)}, fields={"visual": visual}, keys=tuple("abc")), AT
    )["image"]
    white = method.model.embed_images(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))[0]
    torch.testing.assert_close(image[visual], white.expand(2, -1))
    torch.testing.assert_close(image[~visual], method.delivered.null_vector()[None])


class Mixed(Toy):
    """Drawings with their captions, and texts without one; `label` says which are called visual, or
    nobody does."""

    def __init__(self, count=48, label=None, images=True):
        super().__init__(count, ["images.main", "texts.caption"])
        self.label, self.images = label, images

    def schema(self):
        found = {
            "images.main": Field(kind="image", optional=True),
            "texts.caption": Field(kind="text"),
        }
        return found | ({"labels.kind": Field(kind="int")} if self.label else {})

    def labels(self, name):
        return np.array([self.label(index) for index in range(self.count)])

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        visual = index % 3 == 0
        text = sample.texts[0].text if visual else f"nobody knows why {index}"
        return Sample(
            key=sample.key,
            source="mixed",
            images=sample.images if visual or self.images is True else {},
            texts=[Text(text=text)],
            labels={"kind": self.label(index)} if self.label else {},
        )


def train(folder, **streams):
    config = streams.pop("config", {})
    recipe = {"steps": 4, **streams.pop("recipe", {})}
    engine = make_engine(
        folder, method=make_method("visualness", **config), source=streams["train"], recipe=recipe
    )
    engine.feed.given = streams
    engine.method.setup(streams)
    engine.run()
    return engine


def test_stages_are_those_whose_data_is_given_and_the_last_finds_the_threshold(tmp_path):
    mixed = Mixed(images=False)
    engine = train(tmp_path / "one", train=mixed)
    assert {line["stage"] for line in read_log(tmp_path / "one")} == {"train"}
    assert float(engine.delivered().threshold) == math.inf
    engine = train(tmp_path / "all", train=mixed, human=Mixed(24, images=False), calibrate=mixed)
    log = read_log(tmp_path / "all")
    assert [line["stage"] for line in log] == ["train"] * 4 + ["human"] * 4 + ["calibrate"]
    delivered = engine.delivered()
    assert float(delivered.threshold) == log[-1]["threshold"]
    model = delivered.to_model(engine.method.make.tokenizer, delivered.image.preprocess, "mixed")
    texts = [mixed[index].captions()[0] for index in range(len(mixed))]
    wrong = (model.is_visual(texts).numpy() != (np.arange(48) % 3 == 0)).mean()
    assert log[-1]["loss"] == pytest.approx(wrong)


def test_the_threshold_reaches_averaged_weights(tmp_path):
    mixed = Mixed(images=False)
    engine = train(tmp_path, train=mixed, calibrate=mixed, recipe={"ema": 0.5})
    assert engine.delivered() is not engine.method.deliver()
    assert math.isfinite(float(engine.delivered().threshold))


def test_a_label_says_what_a_image_would_not(tmp_path):
    """Texts beside an image that are called not visual have the NULL image all the same."""
    labelled = Mixed(label=lambda index: int(index % 3 == 0))
    engine = train(tmp_path, train=labelled, config={"label": "kind"})
    assert all(line["visual"] == pytest.approx(1 / 3, abs=0.08) for line in read_log(tmp_path))
    views = engine.method.views(engine.method.stages()[0])
    for index in (0, 1):
        given = views[0](labelled[index], np.random.default_rng(0), 0.0)
        assert bool(given["images.main"].any()) == (index % 3 == 0)


@pytest.mark.parametrize(
    ("streams", "config", "message"),
    [
        (
            {"train": Toy(16)},
            {},
            "'train', has the same images.main .1., so its texts are of one kind",
        ),
        ({"train": Mixed(images=False), "calibrate": Toy(16)}, {}, "the stream 'calibrate'"),
        ({"train": Mixed(label=lambda index: 0)}, {"label": "kind"}, "the same labels.kind .0."),
        ({"train": Mixed(images=False), "humam": Toy(16)}, {}, "did you mean 'human'"),
        ({"train": Mixed(images=False)}, {"label": "kind"}, "no labels.kind"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_the_first_step(
    streams, config, message, tmp_path
):
    with pytest.raises(InputError, match=message):
        train(tmp_path, config=config, **streams)
    log = tmp_path / "metrics.jsonl"
    assert not log.exists() or '"loss"' not in log.read_text()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"null_positives": "single"}, "unknown option of method TIPCLIP 'null_positives'"),
        ({"visual": "owm"}, "did you mean 'own'"),
    ],
)
def test_bad_options_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        make_method("visualness", **config)
