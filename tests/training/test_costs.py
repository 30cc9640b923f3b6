"""What a step costs, counted without data: against hand-counted operations, and against the memory
of real steps."""

from dataclasses import replace

import pytest
import torch
from tests.factories import AT
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from diptych.data.loader import Loader
from diptych.data.plan import Shuffled
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.methods.adapters import LowRank, add_factors
from diptych.methods.base import Method, Recipe
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.registry import method_class
from diptych.testing import Toy
from diptych.testing.costs import count_preset
from diptych.testing.subject import toys_of
from diptych.training import optim
from diptych.training.costs import Costs, count
from diptych.training.fake import unmoved
from diptych.training.gradcache import strategy
from diptych.training.layout import LIBRARIES, layout
from diptych.training.step import Step

VIT = "vit:image_size=32:patch=8:width=64:depth=3:heads=2"
TEXT = "text:width=64:depth=2:heads=2"
CONV = "conv:image_size=32"
CONTEXT = 16


def new(name: str, image: str, text: str = TEXT) -> Method:
    """A method whose texts always fill the context."""
    torch.manual_seed(0)
    toy = Toy(128)
    words = build(
        f"bpe:vocab_size=320:context={CONTEXT}:padding=max",
        (text for number in range(128) for text in toy[number].captions()),
    )
    cls = method_class(name)
    make = Make(image=image, text=text, embed_dim=32, tokenizer=None if text == NO_TOWER else words)
    return cls.of(cls.configure(cls.preset("small").config), make)


def costs_of(name: str, image: str, text: str, recipe: Recipe) -> Costs:
    return count(lambda: new(name, image, text), toys_of, recipe)


def a_batch(method: Method, size: int):
    source = toys_of(method)["train"].of_all()
    loader = Loader(source, method.views(method.stages()[0]), Shuffled(), size, steps=10)
    return next(iter(loader.epoch(0)))


def measured(method: Method, recipe: Recipe) -> int:
    """The most bytes that are allocated at a time in the second of two real steps, weights and
    batch included."""
    method.train()
    step = Step(method, recipe.precision)
    optimizer = optim.build(method, recipe, {})
    batch = a_batch(method, recipe.batch_size)

    def one() -> None:
        optimizer.zero_grad(set_to_none=True)
        strategy(recipe.chunk)(step, batch, AT)
        optimizer.step()

    one()
    optimizer.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        one()
    held = most = 0
    for event in profiled.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()  # type: ignore[attr-defined]
            most = max(most, held)
    lasting = sum(tensor.nbytes for tensor in (*method.parameters(), *method.buffers()))
    inputs = sum(images.pixels.nbytes for images in batch.images.values())
    return most + lasting + inputs + optim.state_bytes(optimizer)


@pytest.mark.parametrize(
    ("name", "image", "text", "options"),
    [
        ("clip", VIT, TEXT, {}),
        ("clip", VIT, TEXT, {"chunk": 400}),
        ("clip", VIT, TEXT, {"batch_size": 32, "optimizer": "lion"}),
        ("siglip", VIT, "text:width=128:depth=4:heads=2", {}),
        ("coca", VIT, f"{TEXT}:pooling=cls", {"optimizer": "adafactor"}),
        ("simclr", VIT, NO_TOWER, {"optimizer": "sgd"}),
        ("simclr", CONV, NO_TOWER, {}),
    ],
)
def test_memory_is_that_of_a_real_step_within_15_percent(name, image, text, options):
    recipe = replace(Recipe(batch_size=64), **options)
    costs = costs_of(name, image, text, recipe)
    planned = layout(costs, 1, chunk=recipe.chunk)
    assert planned.bytes - LIBRARIES == pytest.approx(
        measured(new(name, image, text), recipe), rel=0.15
    )


def by_hand(tokens: int, width: int, depth: int) -> int:
    """Operations of a transformer forward: 4 D² weights in attention and 8 D² behind it meet each
    token, and each token meets each other twice."""
    return depth * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)


def test_operations_are_those_counted_by_hand():
    costs = costs_of("clip", VIT, TEXT, Recipe(batch_size=64))
    patches = 2 * 16 * (3 * 8 * 8) * 64
    image = patches + by_hand(17, 64, 3) + 2 * 64 * 32
    text = by_hand(CONTEXT, 64, 2) + 2 * 64 * 32
    assert costs.parts["images"].forward.per_sample == image
    assert costs.parts["texts"].forward.per_sample == text
    # Each product has two in the backward pass, but the first has no gradient of the pixels, and
    # fused attention computes its logits again.
    again = 3 * 2 * 17**2 * 64
    assert costs.parts["images"].backward.per_sample == 2 * image - patches + again
    assert costs.parts["images"].forward.fixed == 0
    assert costs.loss_flops == 3 * 2 * 64**2 * 32  # all logits once, and twice backward


def test_operations_are_those_of_a_real_step():
    costs = costs_of("clip", VIT, TEXT, Recipe(batch_size=32))
    method = new("clip", VIT).train()
    step = Step(method, "float32")
    batch = a_batch(method, 32)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        strategy(None)(step, batch, AT)
    counted = layout(costs, 1).step_flops
    again = 32 * (3 * 2 * 17**2 * 64 + 2 * 2 * CONTEXT**2 * 64)  # what fused attention adds
    assert counted - again == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_large_loss_grows_with_the_square_of_the_batch():
    small = costs_of("clip", VIT, TEXT, Recipe(batch_size=256)).loss_flops
    large = costs_of("clip", VIT, TEXT, Recipe(batch_size=4096)).loss_flops
    assert small
    assert large == pytest.approx(256 * small, rel=0.01)


def test_bfloat16_keeps_less():
    kept = {
        precision: costs_of("clip", VIT, TEXT, Recipe(batch_size=64, precision=precision))
        for precision in ("float32", "bfloat16")
    }
    half = (
        kept["bfloat16"].parts["images"].kept.per_sample
        / kept["float32"].parts["images"].kept.per_sample
    )
    assert 0.5 < half < 0.8


def test_a_preset_is_counted_at_its_own_size_and_vocabulary():
    found = count_preset("clip", "small", recipe={"batch_size": 64})
    assert found.costs.batch_size == 64
    assert found.left_out == {}
    with pytest.raises(InputError, match="preset"):
        count_preset("clip", "large")


def test_low_rank_factors_are_added_to_a_module_without_data():
    plain = nn.Module.to
    with FakeTensorMode(), unmoved():
        layers = nn.ModuleDict({"q": nn.Linear(8, 8)})
        added = add_factors(layers, "layers", LowRank(r=2, layers="q"))
    assert sum(value.numel() for value in added.parameters()) == 2 * 2 * 8
    assert nn.Module.to is plain
    with unmoved():
        moved = nn.Linear(2, 2).to(torch.float64)
    assert moved.weight.dtype == torch.float64


def test_what_is_embedded_once_is_spread_over_the_epochs():
    recipe = Recipe(epochs=5, batch_size=8)
    cls = method_class("regress")

    def regress() -> Method:
        make = Make(image=VIT, text=NO_TOWER, embed_dim=32, tokenizer=None)
        return cls.of(cls.configure(dict(cls.test_options)), make)

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        regress().model.encoder.embed_images(torch.zeros(1, 3, 32, 32))
    found = count(regress, toys_of, recipe)
    # attention is counted as one fused operation
    assert found.before_flops == pytest.approx(counter.get_total_flops() / 5, rel=0.05)
    by_steps = count(regress, toys_of, replace(recipe, steps=10))
    assert by_steps.before_flops == pytest.approx(5 * found.before_flops)
    assert costs_of("clip", VIT, TEXT, recipe).before_flops == 0
    whole = layout(found, 1).step_flops
    assert whole == layout(replace(found, before_flops=0.0), 1).step_flops + 8 * found.before_flops
