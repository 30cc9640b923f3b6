"""WhitenedCSE: which views are whitened by which permutation, its loss, and its way to a model."""

import pytest
import torch
from tests.factories import AT, TEXT, make_batch, make_method

import diptych
from diptych.errors import InputError
from diptych.methods.families.sentences import anchored
from diptych.methods.make import NO_TOWER
from diptych.methods.text.whitened_cse.whitening import group_whitening
from diptych.training.step import Step


def method_of(**options):
    text = f"{TEXT}:dropout=0.1"
    config = {"image": NO_TOWER, "text": text, "embed_dim": 32, "groups": 8, **options}
    return make_method("whitened_cse", **config)


def views(count=10, passes=3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, passes, 32, dtype=torch.float64, generator=generator)


def orders(passes: int, seed: int, shared: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    drawn = [torch.randperm(32) for _ in range(1 if shared else passes)]
    return drawn * passes if shared else drawn


@pytest.mark.parametrize("grouping", ["shuffled", "shared", "fixed"])
def test_each_view_has_its_permutation(grouping):
    method = method_of(grouping=grouping)
    x = views()
    expected = orders(3, 5, grouping == "shared")
    torch.manual_seed(5)
    white = method.whitened(x)
    for v in range(3):
        order = None if grouping == "fixed" else expected[v]
        assert torch.allclose(white[:, v], group_whitening(x[:, v], 8, order), atol=1e-12)


def test_equal_views_stay_apart_by_shuffling_alone():
    x = views(passes=1).expand(-1, 3, -1)
    for grouping, equal in (("shuffled", False), ("shared", True), ("fixed", True)):
        white = method_of(grouping=grouping).whitened(x)
        assert torch.allclose(white[:, 0], white[:, 1]) is equal
    cosines = torch.cosine_similarity(white := method_of().whitened(x)[:, 0], white)
    assert (cosines > 0.5).all()


def test_flat_rows_are_cut_as_the_released_code_does():
    """Six sentences of three views: the first two sentences are whitened together."""
    x = views(count=6)
    method = method_of(layout="flat", groups=16)
    expected = orders(3, 2)
    torch.manual_seed(2)
    white = method.whitened(x)
    rows = x.reshape(18, 32)
    for part in range(3):
        own = slice(6 * part, 6 * part + 6)
        found = group_whitening(rows[own], 16, expected[part])
        assert torch.allclose(white.reshape(18, 32)[own], found, atol=1e-12)


def test_the_loss_is_that_of_whitened_views_behind_the_head():
    method = method_of(reduction="mean", symmetric=True).double()
    x = views()
    torch.manual_seed(1)
    loss = method.loss({"views": x}, make_batch(10, {}), AT).total
    torch.manual_seed(1)
    behind = torch.tanh(method.whitened(x) @ method.head[0].weight.T + method.head[0].bias)
    expected = anchored(behind, 20.0, reduction="mean", symmetric=True)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    without = anchored(method.head(x), 20.0, reduction="mean", symmetric=True)
    assert abs(loss.item() - without.item()) > 1e-3


def test_permutations_follow_the_step():
    """They are drawn by (seed, stage, step), so they are equal on ranks and after a restart."""
    method = method_of()
    step = Step(method, "float32")
    batch = make_batch(10, {}, {"main": 1})
    features = step.encode(batch, AT)
    first, again = (float(step.loss(features, batch, AT).total.detach()) for _ in range(2))
    torch.manual_seed(123)
    assert first == again == float(step.loss(features, batch, AT).total.detach())


def test_nothing_is_whitened_at_inference(tmp_path):
    config = {"groups": 4}
    model = diptych.train(
        "whitened_cse",
        "sentences:count=32",
        tmp_path,
        text_tower=f"{TEXT}:causal=false:pooling=mean:dropout=0.1",
        embed_dim=32,
        tokenizer="bpe:vocab_size=512:context=48",
        batch_size=16,
        steps=2,
        quiet=True,
        config=config,
    ).model
    both = model.embed_texts(["the king", "a drum at noon"])
    assert torch.allclose(both[:1], model.embed_texts(["the king"]), atol=1e-6)
    names = set(model.encoder.state_dict())
    assert not {name for name in names if "head" in name or "whit" in name}


def test_what_does_not_fit_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(InputError, match="5 groups do not divide 32 channels"):
        method_of(groups=5)
    assert method_of(groups=4).stages()[0].min_batch == 9
    with pytest.raises(InputError, match="batch"):
        diptych.train(
            "whitened_cse", "sentences:count=32", tmp_path, batch_size=4, config={"groups": 8}
        )
