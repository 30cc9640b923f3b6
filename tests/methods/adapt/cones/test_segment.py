"""Concepts that are segmented: the loss of masks against loops, the names' masks before any step, and
what the search trains."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.factories import make_method, random_images, small_make

from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.data.views import BoxView, RegionView
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.methods.adapt.cones import ConES
from diptych.methods.adapt.cones.segment import CellView, ConceptMasks, MasksOf, mean_rows
from diptych.methods.families.detection import terms_of_masks
from diptych.methods.store import load
from diptych.models.two_stage.boxes import Chosen
from diptych.models.two_stage.masks import mask_targets
from diptych.testing import Toy
from diptych.training.config import resolve
from diptych.training.run import run

IMAGE = "vit:image_size=32:patch=8:width=32:depth=1:heads=2"
TEXT = "text:width=32:depth=1:heads=2"
FIELDS = ("images.main", "boxes", "boxes.mask")
NAMES = ("red circle", "blue square")


def cones(task="segment", delivered=None, **config):
    parts = small_make(IMAGE, TEXT, 32)
    parts.delivered = delivered
    how = {"task": task, "head": {"width": 8, "depth": 1}, **config}
    return make_method(ConES, make=parts, **how).eval()


def segmentor(names=NAMES, count=None):
    """A segmentor whose rows are those of the names: in its bank, or from its text tower."""
    made = cones()
    module = made.model
    module.count = count
    if names:
        module.learn(made.side.module.concepts(names, "name", count))
    return module


def masks_of(module):
    model = module.to_model(None, module.image.preprocess, "a segmentor")
    if not model.classes:
        model.set_classes(NAMES)
    return model.detect(random_images(2, size=40), score_threshold=0.0, max_boxes=4, masks=True)


# ---- the loss


def test_the_loss_is_the_cross_entropy_of_cells_against_the_mean_of_rows():
    generator = torch.Generator().manual_seed(0)
    branch = ConceptMasks(5, 3, 6).double()
    maps = [torch.randn(2, 5, 4, 4, generator=generator, dtype=torch.float64)]
    rows = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    corners = [[0.1, 0.2, 0.7, 0.6], [0.0, 0.0, 0.5, 0.5], [0.3, 0.3, 1.0, 0.9]]
    boxes = torch.tensor(corners, dtype=torch.float64)
    truth = boxes + torch.tensor([0.05, 0.0, -0.05, 0.1], dtype=torch.float64)
    planes = torch.randint(0, 256, (2, 2, 8, 8), generator=generator).to(torch.uint8)
    given = Chosen(
        boxes,
        torch.tensor([0, 1, 1]),
        torch.tensor([1, 2, 0]),  # the second one is of the background
        truth,
        torch.tensor([1, -1, 0]),
    )
    batch = SimpleNamespace(
        fields={"regions.masks": planes, "regions": torch.zeros(2, 2, 4, dtype=torch.float64)}
    )
    found = terms_of_masks(MasksOf(branch, mean_rows(rows, mask)), maps, given, batch, 2)
    means = [(rows[0, 0] + rows[0, 1] + rows[0, 2]) / 3, rows[1, 0]]
    assert found["masks_count"].tolist() == [1, 1]
    for image, at, concept in ((0, 0, 1), (1, 2, 0)):
        own = boxes[at : at + 1]
        cells = branch.cells(maps, own, torch.tensor([image]))[0].detach()
        plane = planes[image, given.objects[at]][None]
        target = mask_targets(plane, truth[at : at + 1], own)[0]
        kernel = (branch.words.weight @ means[concept] + branch.words.bias).detach()
        total = 0.0
        for y in range(28):
            for x in range(28):
                logit = sum(float(cells[w, y, x] * kernel[w]) for w in range(3))
                wanted = float(target[y, x])
                total += math.log1p(math.exp(-abs(logit))) + max(logit, 0) - wanted * logit
        assert float(found["masks"][image].detach()) == pytest.approx(total / 28**2, rel=1e-9)


def test_the_loss_of_masks_alone_moves_the_rows_and_no_text_tower():
    made = cones()
    toy = Toy(4, FIELDS)
    made.setup({"train": toy})
    view = made.views(made.stages()[1])[1]
    rng = np.random.default_rng(0)
    fields = [view(toy[at], rng, None) for at in range(4)]
    pixels = torch.cat([each["images.main"] for each in fields])
    batch = SimpleNamespace(
        image=SimpleNamespace(flat=pixels),
        fields={
            name.removeprefix("fields."): torch.stack([each[name] for each in fields])
            for name in view.gives
            if name.startswith("fields.")
        }
        | {"seed": torch.arange(4)},
    )
    features = made.task.encode(batch, False)
    losses = made.task.loss(features, batch, False)
    assert set(losses.terms) == {"words", "boxes", "centre", "masks"}
    assert float(features["masks_count"].sum()) >= 4  # the boxes of the data are among them
    losses.terms["masks"].backward()
    assert made.model.bank.vectors.grad.abs().sum() > 0
    assert made.side is not None
    assert all(p.grad is None for p in made.side.module.parameters())
    batch.fields["regions.there"][:] = False
    batch.fields["cells"][..., 0] = -1
    nothing = made.task.loss(made.task.encode(batch, False), batch, False)
    assert float(nothing.terms["masks"].detach()) == 0


# ---- the views


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_cells_have_the_targets_of_boxes_that_move_with_the_image(seed):
    toy = Toy(2, FIELDS)
    module = segmentor()
    names = toy.schema()["boxes"].classes or ("a red circle", "half of it")
    how = {"preprocess": module.image.preprocess, "names": names, "flip": True}
    how["classes"] = toy.schema()["boxes"].classes
    view = CellView(regions=RegionView(max_boxes=5, masks=8, **how), grid=(4, 4))
    plain = BoxView(grid=(4, 4), **how)
    progress = None if seed is None else 0.5
    found = view(toy[1], np.random.default_rng(seed or 0), progress)
    wanted = plain(toy[1], np.random.default_rng(seed or 0), progress)
    assert torch.equal(found["images.main"], wanted["images.main"])
    assert torch.equal(found["fields.cells"], wanted["fields.regions"])
    assert set(found) == set(view.gives)
    assert "boxes.mask" in view.reads


def test_more_objects_than_fit_are_told():
    made = cones(max_boxes=1)
    toy = Toy(2, FIELDS)
    made.setup({"train": toy})
    view = made.views(made.stages()[1])[1]
    with pytest.raises(BadSample, match="raise `max_boxes`"):
        view(toy[0], np.random.default_rng(0), None)


# ---- masks


def test_before_any_step_masks_are_those_of_the_names():
    """The rows of the bank, and the text tower's, give the same bits."""
    learnt = segmentor()
    named = segmentor(names=())
    named.load_state_dict({**named.state_dict(), **_but_bank(learnt)})
    for one, two in zip(masks_of(learnt), masks_of(named), strict=True):
        assert one.masks.shape == (4, 28, 28)
        for name in ("boxes", "scores", "classes", "masks"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
        assert 0 <= float(one.masks.min()) < float(one.masks.max()) <= 1


def test_equal_rows_give_the_mask_of_one():
    one = segmentor(count=1)
    four = segmentor(count=4)
    four.load_state_dict({**four.state_dict(), **_but_bank(one)})
    with torch.no_grad():
        one.bank.vectors.normal_(generator=torch.Generator().manual_seed(3))
        four.bank.vectors.copy_(one.bank.vectors.repeat_interleave(4, 0))
        four.head.bias.copy_(one.head.bias)
    for few, many in zip(masks_of(one), masks_of(four), strict=True):
        torch.testing.assert_close(many.masks, few.masks, rtol=1e-4, atol=1e-5)


def test_each_concept_has_its_own_mask_in_a_box():
    module = segmentor()
    with torch.no_grad():
        module.bank.vectors.mul_(50)
        maps = module.maps(random_images(1, size=32))
        box = torch.tensor([[0.1, 0.1, 0.9, 0.8]]).expand(2, 4)
        masks = module.masks(maps, box, torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert not torch.allclose(masks[0], masks[1])


def _but_bank(module):
    return {key: value for key, value in module.state_dict().items() if "bank" not in key}


# ---- the stages


def test_the_search_moves_the_rows_alone_and_the_run_is_loaded(tmp_path):
    old = "scenes:number=1-2:count=8"
    new = "scenes:number=1:split=novel:count=8"
    options = {"quiet": True}
    config = {"head": {"width": 8, "depth": 1}, "base": {"steps": 2, "batch_size": 4}}
    common = {"preset": "segment", "options": options}
    run(resolve("cones", {"base": old}, init="tiny", config=config, **common), tmp_path / "head")
    recipe = {"steps": 2, "batch_size": 4}
    head = str(tmp_path / "head")
    run(resolve("cones", {"train": new}, init=head, recipe=recipe, **common), tmp_path / "run")
    first, model = load(tmp_path / "head"), load(tmp_path / "run")
    assert first.delivered.head.config.width == model.delivered.head.config.width == 8
    own = _but_bank(model.delivered)
    assert any(name.startswith("mask_head.") for name in own)
    for name, value in own.items():
        assert torch.equal(value, first.delivered.state_dict()[name]), name
    bank = model.delivered.bank
    assert not torch.equal(bank.vectors.norm(dim=1), bank.norms)
    assert model.encoder.text is None
    measured = evaluate(model, open_source(new), ["detection"])["detection"]
    assert 0 <= measured["mask_ap50"] <= 1
    assert not measured["bad"]
    with pytest.raises(InputError, match="knows no classes"):
        first.detect(random_images(1, size=64), masks=True)


def test_a_head_with_masks_detects_and_one_without_is_trained_anew():
    with_masks = cones()
    detecting = cones("detect", delivered=with_masks.model)
    assert detecting.task.trained
    for name, value in detecting.model.head.state_dict().items():
        assert torch.equal(value, with_masks.model.head.state_dict()[name]), name
    again = cones(delivered=with_masks.model)
    assert [stage.name for stage in again.stages()] == ["search"]
    for name, value in again.model.mask_head.state_dict().items():
        assert torch.equal(value, with_masks.model.mask_head.state_dict()[name]), name
    anew = cones(delivered=detecting.model)
    assert [stage.name for stage in anew.stages()] == ["base", "search"]
