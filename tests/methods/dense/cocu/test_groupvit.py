"""The tower that groups patches: assignment, segments, sizes; against loops in float64."""

import math

import pytest
import torch

from diptych.errors import InputError
from diptych.methods.dense.cocu.groupvit import (
    Grouping,
    GroupViT,
    GroupViTConfig,
    assign,
    averaging,
)
from diptych.towers.build import image_tower

SMALL = {
    "image_size": 32,
    "patch": 8,
    "width": 32,
    "heads": 2,
    "depths": (1, 1, 1),
    "groups": (4, 2),
}


def tower(**options) -> GroupViT:
    torch.manual_seed(0)
    return GroupViT(GroupViTConfig(**{**SMALL, **options})).double()


def grouping(tokens=5, groups=3, width=8) -> tuple[Grouping, torch.Tensor, torch.Tensor]:
    """A grouping whose norms and biases are random too, tokens and group tokens."""
    torch.manual_seed(1)
    made = Grouping(width, 2, groups).double()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn_like(value) * 0.3)
    return made, torch.randn(2, tokens, width).double(), torch.randn(2, groups, width).double()


def test_softmax_is_over_groups_and_the_result_exactly_one_hot():
    products = torch.tensor([[2.0, 0.0], [1.0, 3.0]], dtype=torch.float64, requires_grad=True)
    soft = products.softmax(-2)
    expected = torch.tensor([[0.7311, 0.0474], [0.2689, 0.9526]], dtype=torch.float64)
    torch.testing.assert_close(soft, expected, atol=5e-5, rtol=0)
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    (theirs,) = torch.autograd.grad((soft * weights).sum(), products)
    hard = assign(products)
    assert hard.tolist() == [[1, 0], [0, 1]]
    (own,) = torch.autograd.grad((hard * weights).sum(), products)
    torch.testing.assert_close(own, theirs)


def test_every_column_is_exactly_one_hot_in_float32():
    hard = assign(torch.randn(4, 9, 500), noise=1.0)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert (hard.sum(-2) == 1).all()


def test_groups_divide_by_their_size_and_one():
    rows = torch.tensor([[1.0, 1, 0], [0, 0, 1]])
    assert averaging(rows).tolist() == [[1 / torch.tensor(3.0)] * 2 + [0], [0, 0, 0.5]]


def test_gumbel_noise_draws_groups_by_the_softmax():
    torch.manual_seed(0)
    products = torch.tensor([1.0, 0.0, -1.0])
    drawn = assign(products[:, None].expand(3, 20_000), noise=1.0).mean(1)
    torch.testing.assert_close(drawn, products.softmax(0), atol=0.02, rtol=0)


def slow_grouping(module: Grouping, tokens, groups):
    """The grouping of one image by loops over groups and tokens."""

    def linear(layer, x):
        return layer.weight @ x + layer.bias

    def norm(layer, x):
        centred = x - x.mean()
        return centred / (centred.square().mean() + layer.eps).sqrt() * layer.weight + layer.bias

    def gelu(x):
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    def mlp(layer, x):
        return linear(layer.fc2, gelu(linear(layer.fc1, x)))

    x = [norm(module.norm_tokens, each) for each in tokens]
    normed = torch.stack([norm(module.norm_groups, each) for each in groups])
    mixed = torch.stack([mlp(module.mixer, column) for column in normed.T]).T
    asked = []
    for g in [norm(module.norm_mixed, each) for each in mixed]:
        q = linear(module.cross.q, g).reshape(2, -1)
        k = [linear(module.cross.k, each).reshape(2, -1) for each in x]
        v = [linear(module.cross.v, each).reshape(2, -1) for each in x]
        heads = []
        for head in range(2):
            raw = torch.stack([q[head] @ each[head] for each in k]) / math.sqrt(len(q[head]))
            share = raw.exp() / raw.exp().sum()
            heads.append(sum(s * each[head] for s, each in zip(share, v, strict=True)))
        g = g + linear(module.cross.out, torch.cat(heads))
        asked.append(norm(module.norm_asked, g + mlp(module.mlp_cross, norm(module.norm_cross, g))))
    products = torch.stack(
        [torch.stack([linear(module.q, g) @ linear(module.k, each) for each in x]) for g in asked]
    ) / math.sqrt(len(x[0]))
    owners = products.argmax(0).tolist()
    segments = []
    for number, g in enumerate(asked):
        members = [
            linear(module.v, each) for each, owner in zip(x, owners, strict=True) if owner == number
        ]
        total = sum(members, torch.zeros_like(g)) / (len(members) + 1)
        segment = linear(module.out, total) + g
        segments.append(segment + mlp(module.mlp_out, norm(module.norm_out, segment)))
    return torch.stack(segments), products


def test_grouping_is_that_of_loops():
    module, tokens, groups = grouping()
    with torch.no_grad():
        segments, products = module(tokens, groups, 0.0)
        for at in range(2):
            expected = slow_grouping(module, tokens[at], groups[at])
            torch.testing.assert_close(segments[at], expected[0])
            torch.testing.assert_close(products[at], expected[1])
    assert len(set(products.argmax(1).flatten().tolist())) > 1


def test_the_order_of_tokens_does_not_matter():
    module, tokens, groups = grouping()
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        segments, products = module(tokens, groups, 0.0)
        moved, of_moved = module(tokens[:, order], groups, 0.0)
    torch.testing.assert_close(moved, segments)
    torch.testing.assert_close(of_moved, products[..., order])


def test_segments_share_each_patch_and_are_pooled():
    made = tower().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        found = made.segments(x)
        encoded = made(x)
        _, (first, second) = made.blocks(made.embed(x))
    assert found.shares.shape == (2, 2, 4, 4)
    torch.testing.assert_close(found.shares.sum(1), torch.ones(2, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(found.shares.flatten(2), second.softmax(1) @ first.softmax(1))
    torch.testing.assert_close(found.tokens, encoded.tokens)
    torch.testing.assert_close(encoded.pooled, encoded.tokens.mean(1))
    assert encoded.grid is None


def test_noise_and_skipped_layers_are_of_training_alone():
    made = tower(path_dropout=0.5)
    x = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        still = made.eval()(x).pooled
        torch.testing.assert_close(made(x).pooled, still)
        made.train()
        assert not torch.allclose(made(x).pooled, still)
        made.noise = 0.0
        assert not torch.allclose(made(x).pooled, still)
        plain = tower(path_dropout=0.0).train()
        plain.noise = 0.0
        torch.testing.assert_close(plain(x).pooled, still)
    rates = [block.dropout.p for stage in made.stages for block in stage.transformer.layers]
    assert rates == [0.0, 0.25, 0.5]


def test_images_of_other_sizes_have_interpolated_positions():
    made = tower().eval()
    x = torch.randn(1, 3, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        assert made.segments(x).shares.shape == (1, 2, 8, 4)
    with pytest.raises(InputError, match="whole patches of 8 pixels, and an image has 36 x 32"):
        made(torch.zeros(1, 3, 36, 32))


def test_its_spec_builds_it_again():
    made = tower(groups=(6, 3))
    again = image_tower(made.spec)
    assert again.spec == made.spec
    assert [name for name, _ in again.named_parameters()] == [
        name for name, _ in made.named_parameters()
    ]
    again.double().load_state_dict(made.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": (4,)}, "3 depths and 1 groups; every stage but the last"),
        ({"depths": (1,), "groups": ()}, "are too small"),
        ({"groups": (4, 0)}, "are too small"),
        ({"patch": 64}, "holds no patch of 64"),
        ({"path_dropout": 1.0}, "path_dropout is 1.0"),
        ({"preprocess": {"size": 48}}, "image_size 32, its preprocess 48"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        tower(**options)


def test_it_has_no_stream_of_tokens_to_edit():
    with pytest.raises(InputError, match="choose image tower vit"):
        tower()(torch.zeros(1, 3, 32, 32), edit=lambda layer, tokens: tokens)
