"""The denoiser and the painter: noise by the schedule, what is looked at, guided drawing, the sheet's convex case."""

import pytest
import torch
from tests.methods.adapt.test_prompts import method, pictures

from diptych.errors import InputError
from diptych.towers.concepts import Rows, TextSide
from diptych.towers.denoiser import Denoiser, DenoiserConfig, Drawing, kept_at

SMALL = DenoiserConfig(size=8, patch=4, width=32, depth=1, heads=2, steps=20)


def denoiser(**how):
    torch.manual_seed(0)
    made = Denoiser(16, SMALL).eval()
    torch.nn.init.normal_(made.out.weight, std=0.1)
    return made


def drawing(names=("red circle",)):
    made = method("coop")
    torch.manual_seed(0)
    model = Drawing(made.model.encoder.eval(), made.model.tokenizer, "a photo of a {}.", SMALL).eval()
    torch.nn.init.normal_(model.denoiser.out.weight, std=0.1)
    side = TextSide(model.encoder, model.tokenizer, model.template)
    model.learn(side.concepts(names, "prompt"))
    rows, mask = side.tokens(model.tokenizer.encode([""]))
    model.empty = rows[mask]
    return model


def test_pictures_fade_by_the_schedule():
    model, kept = denoiser(), kept_at(20)
    assert bool((kept.diff() < 0).all())
    x, noise = torch.ones(2, 3, 8, 8), torch.full((2, 3, 8, 8), 2.0)
    found = model.noised(x, noise, torch.tensor([0, 19]))
    for at, time in enumerate((0, 19)):
        wanted = kept[time].sqrt() + (1 - kept[time]).sqrt() * 2
        torch.testing.assert_close(found[at], torch.full((3, 8, 8), float(wanted)))
    assert model.pixels(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


def test_rows_are_looked_at_and_padding_is_not():
    model = denoiser()
    x, time = torch.randn(1, 3, 8, 8), torch.tensor([3])
    rows = torch.randn(1, 4, 16)
    mask = torch.tensor([[True, True, False, False]])
    with torch.no_grad():
        first = model(x, time, rows, mask)
        padding = rows.clone()
        padding[:, 2:] = 9.0
        assert torch.equal(model(x, time, padding, mask), first)
        torch.testing.assert_close(model(x, time, rows[:, :2], mask[:, :2]), first)
        assert not torch.allclose(model(x, time, 2 * rows, mask), first)
        assert not torch.allclose(model(x, time + 5, rows, mask), first)


def test_a_fresh_denoiser_predicts_nothing():
    torch.manual_seed(0)
    model = Denoiser(16, SMALL)
    rows, mask = torch.randn(2, 4, 16), torch.ones(2, 4, dtype=torch.bool)
    assert model(torch.randn(2, 3, 8, 8), torch.tensor([0, 9]), rows, mask).abs().max() == 0


class Linear(torch.nn.Module):
    """A noise predictor A_t E of the sheet's convex case: linear in the rows, whatever the picture."""

    def __init__(self, rows, width, size):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.A = torch.randn(20, 3 * size * size, rows * width, generator=generator, dtype=torch.float64)
        self.size = size

    def noised(self, x, noise, time):
        return x

    def pixels(self, x):
        return x.double()

    def forward(self, x, time, rows, mask):
        return (self.A[time] @ rows.flatten(1)[..., None])[..., 0].unflatten(1, (3, self.size, self.size))


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
    optimizer = torch.optim.LBFGS([model.bank.vectors], max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-14,
                                  line_search_fn="strong_wolfe")  # fmt: skip

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
    torch.testing.assert_close(model.bank.vectors.detach().flatten(), solution.flatten(), rtol=1e-4, atol=1e-6)


def test_guidance_of_one_does_without_the_empty_prompt_and_more_moves_away_from_it():
    model = denoiser()
    rows, mask = torch.randn(2, 4, 16), torch.ones(2, 4, dtype=torch.bool)
    empty = torch.randn(3, 16)

    def draw(guidance, empty=empty):
        generator = torch.Generator().manual_seed(0)
        return model.draw(rows, mask, empty, guidance=guidance, steps=5, generator=generator)

    assert torch.equal(draw(1.0), draw(1.0, empty + 1))
    assert not torch.allclose(draw(3.0), draw(3.0, empty + 1))
    same = model.draw(empty.expand(2, -1, -1), mask[:, :3], empty, guidance=7.0, steps=5,
                      generator=torch.Generator().manual_seed(0))  # fmt: skip
    plain = model.draw(empty.expand(2, -1, -1), mask[:, :3], empty, guidance=1.0, steps=5,
                       generator=torch.Generator().manual_seed(0))  # fmt: skip
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-4)
    assert draw(3.0).abs().max() <= 1


def test_who_knows_the_noise_finds_the_picture():
    model, clean = denoiser(), torch.rand(1, 3, 8, 8) * 2 - 1
    model.forward = lambda x, time, rows, mask: (x - model.kept[time].sqrt() * clean) / (1 - model.kept[time]).sqrt()
    rows, mask = torch.zeros(1, 1, 16), torch.ones(1, 1, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    found = model.draw(rows, mask, rows[0], guidance=1.0, steps=6, generator=generator)
    torch.testing.assert_close(found, clean, atol=1e-3, rtol=0)


def test_a_painter_draws_by_name_and_seed():
    model = drawing().usable(None, drawing().image.preprocess, "a painter")
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
        ({"name": "red circle", "count": 0}, "0 pictures"),
    ):
        with pytest.raises(InputError, match=said):
            model.draw(steps=3, **how)
    with pytest.raises(InputError, match="draws and names no pictures"):
        model.class_logits(pictures())


@pytest.mark.parametrize(
    ("options", "said"),
    [({"size": 10, "patch": 4}, "cut into patches of 4"), ({"depth": 0}, "depth of the denoiser is 0"),
     ({"width": 33}, "must be even")],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        DenoiserConfig(**options)
