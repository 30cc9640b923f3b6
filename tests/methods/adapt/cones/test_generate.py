"""Concepts that are drawn: by name, words and seed, and the convex case of their search."""

import pytest
import torch
from tests.factories import random_images
from tests.methods.adapt.helpers import method

from diptych.errors import InputError
from diptych.methods.adapt.cones.bank import Rows, TextSide
from diptych.methods.adapt.cones.generate import ConceptDrawer
from diptych.towers.nn.denoiser import DenoiserConfig

SMALL = DenoiserConfig(size=8, patch=4, width=32, depth=1, heads=2, steps=20)


def drawing(names=("red circle",)):
    made = method("coop")
    torch.manual_seed(0)
    model = ConceptDrawer(
        made.model.encoder.eval(), made.model.tokenizer, "a photo of a {}.", SMALL
    ).eval()
    torch.nn.init.normal_(model.denoiser.out.weight, std=0.1)
    side = TextSide(model.encoder, model.tokenizer, model.template)
    model.learn(side.concepts(names, "prompt"))
    rows, mask = side.tokens(model.tokenizer.encode([""]))
    model.empty = rows[mask]
    return model


class Linear(torch.nn.Module):
    """A noise predictor A_t E of the published convex case: linear in the rows, whatever the
    image."""

    def __init__(self, rows, width, size):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.A = torch.randn(
            20, 3 * size * size, rows * width, generator=generator, dtype=torch.float64
        )
        self.size = size

    def noised(self, x, noise, time):
        return x

    def pixels(self, x):
        return x.double()

    def forward(self, x, time, rows, mask):
        return (self.A[time] @ rows.flatten(1)[..., None])[..., 0].unflatten(
            1, (3, self.size, self.size)
        )


def test_of_a_linear_predictor_the_search_finds_the_least_squares():
    model, free, stay = drawing().double(), [2, 3], [0, 1]
    width = model.bank.embed_dim
    rows = torch.randn(4, width, generator=torch.Generator().manual_seed(1))
    model.bank.fill({"red circle": Rows(rows, [place in free for place in range(4)])})
    model.bank.double()
    model.denoiser = Linear(4, width, 8)
    generator = torch.Generator().manual_seed(2)
    x, time = torch.zeros(6, 3, 8, 8), torch.arange(6)
    noise = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [model.bank.vectors],
        max_iter=300,
        tolerance_grad=1e-12,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        rows, mask = model.bank.as_text_embeddings()
        loss = model(x, noise, time, rows.expand(6, -1, -1), mask.expand(6, -1)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    A = model.denoiser.A[time].flatten(0, 1).unflatten(1, (4, width))
    rows, _ = model.bank.as_text_embeddings()
    rest = noise.flatten() - torch.einsum("nlw,lw->n", A[:, stay], rows[0, stay].detach())
    solution = torch.linalg.lstsq(A[:, free].flatten(1), rest[:, None]).solution
    torch.testing.assert_close(
        model.bank.vectors.detach().flatten(), solution.flatten(), rtol=1e-4, atol=1e-6
    )


def test_a_painter_draws_by_name_and_seed():
    model = drawing().to_model(None, drawing().image.preprocess, "a painter")
    one, other = model.draw("red circle", 2, steps=3), model.draw("red circle", 2, steps=3)
    assert [each.size for each in one] == [(8, 8), (8, 8)]
    assert one[0].tobytes() == other[0].tobytes() != one[1].tobytes()
    assert model.draw("red circle", steps=3, seed=1)[0].tobytes() != one[0].tobytes()
    assert model.classes == model.delivered.classes == ("red circle",)
    words = model.draw("red circle", words="on the left", steps=3)[0]
    assert words.tobytes() != one[0].tobytes()
    assert model.draw("a bar", steps=3)[0].size == (8, 8)
    model.delivered.leave_text()
    assert model.draw("red circle", 2, steps=3)[0].tobytes() == one[0].tobytes()
    for how, said in (
        ({"name": "a bar"}, "'a bar' is no concept"),
        ({"name": "red circle", "words": "on the left"}, "keep_text true"),
        ({"name": "red circle", "count": 0}, "0 images"),
    ):
        with pytest.raises(InputError, match=said):
            model.draw(steps=3, **how)
    with pytest.raises(InputError, match="draws and names no images"):
        model.class_logits(random_images())
