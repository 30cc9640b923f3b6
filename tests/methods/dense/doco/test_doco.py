"""DoCo: its losses against the published figures and a slow reference, what its stages train, and that
inference is that of its host."""

import inspect
from dataclasses import replace

import pytest
import torch
from tests.factories import random_images
from tests.methods.dense.doco_helpers import (
    INSTRUCT,
    LM,
    PRETRAIN,
    Pages,
    made,
    pretraining,
    slow_intra,
    slow_mean,
    slow_shares,
)
from tests.methods.fuse.cg_vlm_helpers import asked, batch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from diptych.data.sample import Box
from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.dense.doco import found_pages
from diptych.methods.dense.doco.model import PageEncoder
from diptych.models.vlm import VisionLM
from diptych.objectives import info_nce
from diptych.objectives.grouping import grouping
from diptych.training.optim import freeze

TAU = 0.07
V = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
M = [[1.0, 0.2], [0.1, 1.0], [1.0, 0.8]]


def unit(rows):
    return normalize(torch.tensor([rows], dtype=torch.float64), dim=-1)


def intra(v, m, there=None, **options):
    there = torch.ones(v.shape[:2], dtype=torch.bool) if there is None else there
    return grouping(m, v, 1 / TAU, there=there, **options)


def learnt(method):
    """The names of the parameters with a gradient."""
    return {name for name, value in method.named_parameters() if value.grad is not None}


def saved(method, folder):
    options = {name: value for name, value in vars(method.config).items() if value is not None}
    model = method.model
    description = store.describe("doco", options, model, method.make.words, model.image.preprocess)
    store.save_model(folder, description, model.state_dict())
    return store.load(str(folder))


# ---- the losses


def test_intra_is_the_published_one():
    rows, columns = slow_intra(V, M, TAU)
    assert (rows, columns) == pytest.approx((0.0647106, 0.0687520), abs=1e-7)
    assert float(intra(unit(V), unit(M))) == pytest.approx(0.0667313, abs=1e-7)


def test_a_page_without_objects_has_no_intra_loss_and_no_gradient():
    v = unit(V).requires_grad_()
    loss = intra(v, unit(M), torch.tensor([[True, False, False]]))
    loss.backward()
    assert loss.item() == 0
    assert not v.grad.any()


def test_permuted_and_padded_objects_change_nothing():
    expected = float(intra(unit(V), unit(M)))
    order = [2, 0, 1]
    permuted = intra(unit([V[at] for at in order]), unit([M[at] for at in order]))
    assert float(permuted) == pytest.approx(expected, abs=1e-12)
    there = torch.tensor([[True, True, True, False, False]])
    other = [[0.9, 0.1], [-3.0, 2.0]]
    found = intra(unit([*V, *other]), unit([*M, *reversed(other)]), there)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_pages_count_alike_or_objects_do():
    v = torch.cat([unit(V), unit(M)])
    m = torch.cat([unit(M), unit(V)]).flip(2)
    there = torch.tensor([[True, True, True], [True, True, False]])
    first = sum(slow_intra(V, [row[::-1] for row in M], TAU)) / 2
    second = sum(slow_intra(M[:2], [row[::-1] for row in V[:2]], TAU)) / 2
    pages = float(intra(v, m, there))
    objects = float(intra(v, m, there, mean="texts"))
    assert pages == pytest.approx((first + second) / 2)
    assert objects == pytest.approx((3 * first + 2 * second) / 5)


def test_negatives_are_of_the_same_page_alone():
    """The other page is the same: a loss over the whole batch would be ln 2 above."""
    twice = intra(unit(V).expand(2, 3, 2), unit(M).expand(2, 3, 2))
    assert float(twice) == pytest.approx(0.0667313, abs=1e-7)


def test_of_one_page_there_is_no_inter_loss():
    assert float(info_nce(unit(V)[:, 0], unit(M)[:, 0], 1 / TAU)) == 0


# ---- the training step


def shares_of(sample):
    """The boxes of a page of 96 x 66 pixels as shares."""
    return [
        [side / size for side, size in zip(box.xyxy, (96, 66, 96, 66), strict=True)]
        for box in sample.boxes[:9]
    ]


@torch.no_grad()
def slow_vectors(method, sample, pixels):
    """The projected vectors of a page and its objects by both branches, box by box."""
    encoder = method.model.encoder
    teacher = method.teacher
    seen = encoder.encode_image(pixels)
    cells = teacher.patches(pixels.double() / 127.5 - 1)[0]
    v = [seen.pooled[0]]
    rows = [teacher.page + cells.mean((1, 2))]
    for box, word in zip(shares_of(sample), sample.boxes, strict=False):
        v.append(slow_mean(slow_shares(box, 4), seen.patches[0]))
        ids = torch.tensor(method.words.ids(word.text))
        text = teacher.mlp(teacher.table(ids) + teacher.place(torch.arange(len(ids))))
        x0, y0, x1, y1 = (torch.tensor(int(side * 1000 + 0.5)) for side in box)
        row = text.mean(0) + teacher.x(x0) + teacher.x(x1) + teacher.y(y0) + teacher.y(y1)
        row = row + teacher.w(x1 - x0) + teacher.h(y1 - y0)
        rows.append(row + slow_mean(slow_shares(box, 2), cells.flatten(1).T))
    read = teacher.norm(teacher.transformer(torch.stack(rows)[None]))[0]
    return [encoder.project_image(each) for each in v], list(method.teacher_projection(read))


@torch.no_grad()
def test_the_step_is_that_of_a_slow_reference():
    method = made(contrast=0.7, intra=0.5, inter=2.0).double()
    source = Pages(3)
    given = pretraining(method, source)
    losses = method.loss(method.encode(given, PRETRAIN), given, PRETRAIN)
    expected = 0.0
    pages = []
    documents = []
    for at in range(3):
        v, m = slow_vectors(method, source[at], given.image.flat[at : at + 1])
        rows, columns = slow_intra([x.tolist() for x in v], [x.tolist() for x in m], TAU)
        expected += (rows + columns) / 2 / 3
        pages.append(v[0].tolist())
        documents.append(m[0].tolist())
    assert float(losses.terms["intra"]) == pytest.approx(0.7 * 0.5 * expected, abs=1e-6)
    rows, columns = slow_intra(pages, documents, TAU)
    assert float(losses.terms["inter"]) == pytest.approx(0.7 * 2 * (rows + columns) / 2, abs=1e-6)
    assert set(losses.terms) == {"intra", "inter"}


@torch.no_grad()
def test_a_page_and_its_size_scaled_together_change_nothing_but_what_is_seen():
    method = made()
    given = pretraining(method, Pages(2))
    twice = Pages(2)
    sample = twice[0]
    larger = replace(
        sample,
        images={"main": _Scaled(sample.images["main"])},
        boxes=[replace(box, xyxy=tuple(2 * side for side in box.xyxy)) for box in sample.boxes],
    )
    view = method.views(method.stages()[0])[0]
    found = view(larger, None, None)["fields.regions"]
    assert torch.allclose(found, given.fields["regions"][0], atol=1e-6)


class _Scaled:
    def __init__(self, image):
        self.image = image

    def decode(self, at_least=None):
        found = self.image.decode()
        return found.resize((2 * found.width, 2 * found.height))

    def read(self):
        return b""


def test_the_teacher_learns_more_slowly_and_the_temperature_is_bounded():
    method = made(teacher_rate=0.2)
    [stage] = method.stages()
    assert stage.lr_scale == {"teacher": 0.2}
    given = pretraining(method, Pages(3))
    freeze(method, stage.lr_scale)
    method.loss(method.encode(given, PRETRAIN), given, PRETRAIN).total.backward()
    assert {name.split(".")[0] for name in learnt(method)} == {
        "model",
        "teacher",
        "teacher_projection",
        "scale",
    }
    with torch.no_grad():
        method.scale.value.fill_(9)
    method.scale.clamp_()
    assert method.scale().item() == pytest.approx(100)


def test_page_retrieval_counts_both_ways():
    page = torch.eye(3)
    document = torch.eye(3)[[0, 2, 1]]
    assert float(found_pages(page, document)) == pytest.approx(1 / 3)
    method = made()
    given = pretraining(method, Pages(3))
    logged = method.loss(method.encode(given, PRETRAIN), given, PRETRAIN).logged
    assert 0 <= float(logged["agreement"]) <= 1
    assert float(logged["objects"]) == float(given.fields["regions.there"].float().sum(1).mean())


# ---- the two hosts


def hosts(**config):
    """The delivered modules with and without the objective, of both hosts."""
    written = {"lm": LM, "grid": 2, "role": "ocr"}
    plain = (made(**config), made(seed=1, inter=0.0, **config))
    joint = (made(**written, **config), made(**written, contrast=0.0, **config))
    return plain, joint


class Operations(TorchDispatchMode):
    """The operations that are run, in order, with the shapes of what they give."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        self.found.append((str(func), getattr(given, "shape", None)))
        return given


def inference(module, pixels):
    """The operations with which pages are read, and how many floating-point ones they are."""
    read = module.see if isinstance(module, VisionLM) else module.encode_document
    with torch.no_grad(), Operations() as operations:
        read(pixels)
    with torch.no_grad(), FlopCounterMode(display=False) as count:
        read(pixels)
    return operations.found, count.get_total_flops()


def shapes_of(module):
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def test_inference_is_the_same_with_and_without_the_objective():
    pixels = random_images(1)
    for with_it, without in hosts():
        own, other = with_it.deliver(), without.deliver()
        assert shapes_of(own) == shapes_of(other)
        assert not any("teacher" in name or name == "scale.value" for name in shapes_of(own))
        operations, flops = inference(own, pixels)
        assert (operations, flops) == inference(other, pixels)
        assert len(operations) > 10
        assert flops > 0


def test_a_page_is_read_by_its_pixels_alone():
    assert list(inspect.signature(PageEncoder.encode_document).parameters) == ["self", "pixels"]
    assert list(inspect.signature(VisionLM.see).parameters) == ["self", "pixels"]


@torch.no_grad()
def test_a_run_is_an_encoder_of_whole_pages(tmp_path):
    method = made()
    model = saved(method, tmp_path)
    assert model.preprocess.resize == "squash"
    images = random_images(2)
    assert torch.equal(model.represent(images).tokens, method.model.encode_document(images).tokens)
    vectors = method.model.encoder.embed_images(images)
    assert torch.allclose(model.embed_images(images), vectors, atol=1e-6)
    assert model.encoder.text is None
    with pytest.raises(InputError, match="has no text tower"):
        model.embed_texts(["rail"])


@torch.no_grad()
def test_with_a_language_model_the_step_adds_the_log_probability_of_the_pages_texts():
    method = made(lm=LM, grid=2, max_tokens=3)
    source = Pages(2)
    given = pretraining(method, source)
    features = method.encode(given, PRETRAIN)
    losses = method.loss(features, given, PRETRAIN)
    assert set(losses.terms) == {"text", "intra", "inter"}
    words = method.model.words
    room = method.model.room
    for at in range(2):
        text = source[at].captions("ocr")[0]
        ids = [*words.ids(text), *words.after][: room - len(words.before)]
        assert int(features["words"][at]) == len(ids)
    total = features["log_prob"].sum() / features["words"].sum()
    assert float(losses.terms["text"]) == pytest.approx(-float(total))
    alone = made(lm=LM, grid=2, contrast=0.0)
    assert set(alone.encode(batch(alone, source, PRETRAIN), PRETRAIN)) == {"log_prob", "words"}
    assert alone.teacher is None


def test_with_a_language_model_the_tower_learns_from_all_terms():
    method = made(lm=LM, grid=2).train()
    assert method.model.encoder.training
    given = pretraining(method, Pages(2))
    for term in ("text", "intra", "inter"):
        method.zero_grad(set_to_none=True)
        method.loss(method.encode(given, PRETRAIN), given, PRETRAIN).terms[term].backward()
        assert any(name.startswith("model.encoder.image.") for name in learnt(method))


def test_questions_train_the_adapter_and_the_language_model():
    method = made(lm=LM, grid=2)
    method.setup({"train": Pages(2), "instructions": asked(2)})
    _, instruct = method.stages()
    freeze(method, instruct.lr_scale)
    given = batch(method, asked(3), INSTRUCT)
    losses = method.loss(method.encode(given, INSTRUCT), given, INSTRUCT)
    losses.total.backward()
    assert set(losses.terms) == {"answers"}
    parts = {".".join(name.split(".")[:2]) for name in learnt(method)}
    assert parts == {"model.adapter", "model.own"}
    assert made(lm=LM, tower_rate=0.5).stages()[1].lr_scale["model.encoder.image"] == 0.5
    method.setup({"instructions": asked(2)})
    assert [stage.name for stage in method.stages()] == ["instruct"]


def test_a_run_with_a_language_model_answers(tmp_path):
    method = made(lm=LM, grid=2, max_tokens=3)
    model = saved(method, tmp_path)
    images = random_images(2)
    assert len(model.generate(images, ["what is rail?", "what is the total?"])) == 2
    expected = method.model.encoder.encode_image(images).tokens
    assert torch.equal(model.represent(images).tokens, expected)


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"intra": 0.0, "inter": 0.0}, "without contrast there is nothing to learn"),
        ({"lm": LM, "jitter": (0.5, 2.0)}, "does not show all of its text"),
        ({"lm": LM, "template": "ask"}, "no place for a question"),
        ({"teacher": "bert:width=8"}, "write layout:width=128:depth=2"),
        ({"teacher": "layout:patch=5"}, "no whole number of them"),
        ({"teacher": "layout:text=false:layout=false:visual=false"}, "knows nothing"),
    ],
)
def test_options_that_do_not_fit(options, why):
    with pytest.raises(InputError, match=why):
        made(**options)


def test_another_stream_and_other_units_are_refused_before_training():
    method = made()
    with pytest.raises(InputError, match="unknown stream of doco 'instructions'"):
        method.setup({"instructions": Pages(2)})

    class Shares(Pages):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            boxes = [Box(xyxy=(0.1, 0.2, 0.3, 0.4), text=box.text) for box in sample.boxes]
            return replace(sample, boxes=boxes)

    with pytest.raises(InputError, match="pages: its boxes are shares, 0 to 1, and not pixels"):
        method.setup({"train": Shares(2)})
