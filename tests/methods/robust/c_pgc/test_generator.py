"""The generators: their sizes, what they depend on, and PGD's free perturbation."""

import pytest
import torch

from diptych.methods.robust.c_pgc.generator import (
    FreePerturbation,
    PerturbationGenerator,
    SpatialTransformer,
)


def small(**options):
    torch.manual_seed(0)
    settings = {"layers": 3, "channels": 32, "rows": 4} | options
    return PerturbationGenerator.image(8, **settings)


@pytest.mark.parametrize(("layers", "size"), [(1, 12), (2, 24), (3, 48), (4, 96)])
def test_each_layer_doubles_the_side(layers, size):
    generator = small(layers=layers, channels=8, rows=2)
    sides = [3]
    x = generator.noise
    for layer in generator.layers:
        x = layer(x)
        sides.append(x.shape[-1])
    assert sides == [3 * 2**number for number in range(layers + 1)]
    assert generator(torch.zeros(1, 8)).shape == (3, size, size)


def test_the_published_generators_have_the_published_sizes():
    with torch.device("meta"):
        image = PerturbationGenerator.image(512, layers=6, channels=1024, rows=20)
        texts = [
            PerturbationGenerator.text(512, width, channels=256, rows=20) for width in (768, 512)
        ]
    assert [layer[0].out_channels for layer in image.layers] == [1024, 512, 256, 128, 64, 32]
    assert [layer[0].out_channels for layer in texts[0].layers] == [256, 128, 64, 32]
    assert sorted(image.attention) == sorted(texts[0].attention) == ["1", "3"]
    assert image(torch.zeros(4, 512, device="meta")).shape == (3, 384, 384)
    found = [text(torch.zeros(4, 512, device="meta")).shape for text in texts]
    assert found == [(1, 16, 48), (1, 16, 32)]
    assert [tuple(text.noise.shape[2:]) for text in texts] == [(1, 3), (1, 2)]


def test_at_first_the_condition_has_no_effect_and_later_it_has():
    generator = small()
    one, other = torch.zeros(4, 8), torch.ones(4, 8)
    assert torch.equal(generator(one), generator(other))
    torch.nn.init.normal_(generator.attention["1"].out.weight)
    assert not torch.allclose(generator(one), generator(other))


def test_conditions_are_repeated_over_the_rows():
    generator = small()
    torch.nn.init.normal_(generator.attention["1"].out.weight)
    two = torch.randn(2, 8)
    assert torch.equal(generator(two), generator(torch.cat([two, two])))
    assert generator(torch.randn(7, 8)).shape == (3, 48, 48)


def test_batch_norm_is_that_of_the_rows_in_training_and_afterwards():
    generator = small()
    condition = torch.randn(4, 8)
    assert torch.equal(generator.train()(condition), generator.eval()(condition))


def test_the_spatial_transformer_mixes_no_rows():
    torch.manual_seed(0)
    block = SpatialTransformer(32, 8).double()
    torch.nn.init.normal_(block.out.weight)
    x = torch.randn(3, 32, 2, 2, dtype=torch.float64)
    condition = torch.randn(3, 8, dtype=torch.float64)
    apart = torch.cat([block(x[i : i + 1], condition[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(block(x, condition), apart)


def test_a_free_perturbation_takes_signed_steps():
    free = FreePerturbation(torch.zeros(3), scale=0.5)
    optimizer = torch.optim.SGD(free.parameters(), lr=0.1)
    (free(torch.ones(1, 2)) * torch.tensor([4.0, -0.01, 0.0])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(free.values.detach(), torch.tensor([-0.1, 0.1, 0.0]))
