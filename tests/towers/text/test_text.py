"""The text transformer."""

import pytest
import torch

from diptych.errors import InputError
from diptych.towers.build import text_tower
from diptych.towers.nn.edits import Insert, chain
from diptych.towers.text.text import stretch

SMALL = {"name": "text", "width": 32, "depth": 3, "heads": 4, "vocab_size": 50, "context": 12}
FORMS = [
    {},
    {"causal": False, "pooling": "mean"},
    {"causal": False, "pooling": "first"},
    {"causal": False, "pooling": "eot", "layer_scale": 0.1, "activation": "gelu_tanh"},
    {"causal": True, "pooling": "mean"},
    {"causal": False, "pooling": "last", "padding": "max", "eps": 1e-6},
]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def tower_of(**options):
    return text_tower({**SMALL, **options}).eval()


def texts(length=12):
    lengths = torch.tensor([7, 3, 5, 1])
    ids = torch.randint(1, 50, (4, length))
    ids[torch.arange(length) >= lengths[:, None]] = 0
    return ids, lengths


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_three_steps_compose_to_forward(form):
    tower, (ids, lengths) = tower_of(**form), texts()
    whole = tower(ids, lengths)
    mask = None if tower.config.causal else tower.mask(lengths, 12)
    steps = tower.finish(tower.blocks(tower.embed(ids), mask=mask), lengths)
    assert torch.equal(whole.tokens, steps.tokens)
    assert torch.equal(whole.pooled, steps.pooled)


@pytest.mark.parametrize("form", FORMS[:-1], ids=str)
def test_padding_changes_nothing(form):
    tower, (ids, lengths) = tower_of(**form), texts()
    trimmed, padded = tower(ids[:, :7], lengths), tower(ids, lengths)
    torch.testing.assert_close(trimmed.pooled, padded.pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        trimmed.tokens[trimmed.mask], padded.tokens[padded.mask], atol=1e-5, rtol=0
    )
    other = ids.masked_fill(~padded.mask, 49)
    assert torch.equal(tower(other, lengths).pooled, padded.pooled)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_text_alone_equals_the_text_in_a_batch(form):
    tower, (ids, lengths) = tower_of(**form), texts()
    torch.testing.assert_close(
        tower(ids[1:2], lengths[1:2]).pooled, tower(ids, lengths).pooled[1:2], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_spec_rebuilds_the_tower(form):
    tower, (ids, lengths) = tower_of(**form), texts()
    again = text_tower(tower.spec).eval()
    assert again.spec == tower.spec
    again.load_state_dict(tower.state_dict())
    assert torch.equal(again(ids, lengths).pooled, tower(ids, lengths).pooled)


def test_pooled_is_what_its_name_says():
    ids, lengths = texts()
    for pooling, place in (("eot", lengths - 1), ("first", torch.zeros(4, dtype=torch.long))):
        encoded = tower_of(pooling=pooling, causal=pooling == "eot")(ids, lengths)
        assert torch.equal(encoded.pooled, encoded.tokens[torch.arange(4), place])
    encoded = tower_of(pooling="mean", causal=False)(ids, lengths)
    expected = torch.stack(
        [row[:n].mean(0) for row, n in zip(encoded.tokens, lengths, strict=True)]
    )
    torch.testing.assert_close(encoded.pooled, expected)
    encoded = tower_of(pooling="last", padding="max", causal=False)(ids, lengths)
    assert torch.equal(encoded.pooled, encoded.tokens[:, -1])


def test_a_causal_tower_sees_nothing_of_what_follows_and_can_be_asked_to():
    tower, (ids, lengths) = tower_of(), texts()
    other = ids.clone()
    other[0, 6] = 1 + other[0, 6] % 49
    assert torch.equal(tower(other, lengths).tokens[0, :6], tower(ids, lengths).tokens[0, :6])
    both = tower(ids, lengths, causal=False)
    assert not torch.allclose(tower(other, lengths, causal=False).tokens[0, 0], both.tokens[0, 0])


def test_siglip_reads_its_pads_and_refuses_other_lengths():
    tower, (ids, lengths) = tower_of(causal=False, pooling="last", padding="max"), texts()
    assert tower(ids, lengths).mask is None
    assert not torch.allclose(
        tower(ids.masked_fill(ids == 0, 1), lengths).pooled, tower(ids, lengths).pooled
    )
    with pytest.raises(InputError, match="padded to 12, got 7"):
        tower(ids[:, :7], lengths)


def test_maple_prompts_equal_to_the_words_they_replace_change_nothing():
    """Prompts in place of the words 1 … b before positions are added, then replaced again in deeper
    layers."""
    tower, b = tower_of(), 2
    words = torch.tensor([[1, 7, 8, 9, 10]]).repeat(3, 1)
    words[:, 3] = torch.tensor([9, 11, 12])
    lengths = torch.tensor([5, 5, 5])
    prompt = tower.table.weight[[7, 8]].detach().clone().requires_grad_()
    embeddings = Insert(prompt, 0, 1)(0, tower.table(words))
    same = tower(None, lengths, embeddings=embeddings)
    assert torch.equal(same.pooled, tower(words, lengths).pooled)
    deep = [torch.randn(b, 32, requires_grad=True) for _ in range(2)]
    edit = chain(Insert(deep[0], 1, 1), Insert(deep[1], 2, 1))
    prompted = tower(None, lengths, embeddings=embeddings, edit=edit)
    prompted.pooled[:, 0].sum().backward()
    assert not torch.allclose(prompted.pooled, same.pooled)
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in [*deep, prompt])


def test_a_prompt_at_the_end_token_reaches_each_text_at_its_own_place():
    tower, (ids, lengths) = tower_of(depth=1), texts()
    value = torch.randn(1, 32)
    encoded = tower(ids, lengths, edit=Insert(value, 0, lengths - 1))
    plain = tower(ids, lengths)
    assert not torch.allclose(encoded.pooled, plain.pooled)
    assert torch.equal(encoded.tokens[0, :6], plain.tokens[0, :6])


def test_an_edit_that_moves_the_end_of_texts_is_an_error_and_the_steps_do_it():
    tower, (ids, lengths) = tower_of(), texts(7)
    edit = Insert(torch.randn(2, 32), 0, 0, "after")
    with pytest.raises(InputError, match="made 9 tokens of 7"):
        tower(ids, lengths, edit=edit)
    tokens = tower.blocks(edit(0, tower.embed(ids)))
    assert tower.finish(tokens, lengths + 2).pooled.shape == (4, 32)


def test_a_memory_reaches_texts_through_the_upper_layers_only():
    tower, (ids, lengths) = (
        tower_of(causal=False, pooling="first", cross=2, memory_width=20),
        texts(),
    )
    memory = torch.randn(4, 6, 20)
    states = []
    with_memory = tower(ids, lengths, memory=memory, edit=lambda layer, x: (states.append(x), x)[1])
    without = []
    plain = tower(ids, lengths, edit=lambda layer, x: (without.append(x), x)[1])
    assert torch.equal(states[2], without[2])
    assert not torch.allclose(with_memory.pooled, plain.pooled)
    keys = torch.arange(6) < 4
    masked = tower(ids, lengths, memory=memory, memory_mask=keys.expand(4, -1))
    torch.testing.assert_close(masked.pooled, tower(ids, lengths, memory=memory[:, :4]).pooled)


def test_media_time_decides_which_image_a_token_reads():
    """COSMO: a token sees the last medium before it; one before any medium sees none."""
    tower, (ids, lengths) = tower_of(cross=1, memory_width=20, depth=2), texts()
    memory = torch.randn(4, 6, 20)  # two media of three tokens
    time, owner = (
        torch.tensor([0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]),
        torch.tensor([1, 1, 1, 2, 2, 2]),
    )
    mask = (time[:, None] == owner).expand(4, -1, -1)
    other = memory.clone()
    other[:, 3:] += 1
    a, b = (tower(ids, lengths, memory=m, memory_mask=mask).tokens for m in (memory, other))
    assert torch.equal(a[:, :4], b[:, :4])
    assert not torch.allclose(a[0, 4], b[0, 4])


def test_a_longer_context_is_an_explicit_operation():
    tower, (ids, lengths) = tower_of(), texts(15)
    with pytest.raises(InputError, match="a text of 15 tokens exceeds the tower's context 12"):
        tower(ids, lengths)
    before = tower(ids[:, :5], lengths.clamp(max=5)).pooled
    tower.resize(20, keep=5)
    assert tower.context == tower.spec["context"] == 20
    assert torch.equal(tower(ids[:, :5], lengths.clamp(max=5)).pooled, before)
    assert tower(ids, lengths).pooled.shape == (4, 32)


def test_an_empty_text_has_a_finite_embedding():
    for form in FORMS[:-1]:
        assert (
            tower_of(**form)(torch.zeros(2, 3, dtype=torch.long), torch.tensor([0, 3]))
            .pooled.isfinite()
            .all()
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"poling": "eot"}, "did you mean 'pooling'"),
        ({"pooling": "eos"}, "did you mean 'eot'"),
        ({"pooling": "last"}, "choose pooling=eot"),
        ({"pooling": "cls", "causal": False}, "choose causal=true"),
        ({"pooling": "first"}, "causal=false"),
        ({"padding": "longst"}, "did you mean 'longest'"),
        ({"depth": 0}, "at least 1"),
    ],
)
def test_bad_options_name_thing_and_remedy(options, message):
    with pytest.raises(InputError, match=message):
        tower_of(**options)


@pytest.mark.parametrize("length", [7, 12])
def test_a_causal_tower_needs_no_mask_and_gives_the_same_at_any_padding(monkeypatch, length):
    """Cut to the longest or padded to the context: SDPA is told `is_causal` and is given no mask
    (its fast kernels)."""
    tower, (ids, lengths) = tower_of().double(), texts()
    expected, seen, sdpa = (
        tower(ids, lengths).pooled,
        [],
        torch.nn.functional.scaled_dot_product_attention,
    )

    def watched(q, k, v, **how):
        seen.append((how["attn_mask"], how["is_causal"]))
        return sdpa(q, k, v, **how)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    with torch.inference_mode():
        found = tower(ids[:, :length], lengths).pooled
    assert seen == [(None, True)] * 3
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_token_after_the_padding_sees_the_text_and_one_pad():
    tower, (ids, lengths) = tower_of(pooling="cls", padding="max", pad=0), texts()
    encoded = tower(ids, lengths)
    assert encoded.tokens.shape == (4, 12, 32)
    assert encoded.mask.sum(1).tolist() == lengths.tolist()
    embeddings = tower.table(ids)
    torch.testing.assert_close(tower(None, lengths, embeddings=embeddings).pooled, encoded.pooled)

    def moved(place):
        other = embeddings.clone()
        other[torch.arange(4), place] += torch.arange(32.0)
        return (tower(None, lengths, embeddings=other).pooled - encoded.pooled).abs().amax(1)

    assert (moved(lengths) > 1e-4).all()
    assert (moved(lengths + 1) == 0).all()
    tower.resize(20)
    assert tower(torch.zeros(1, 20, dtype=torch.long), torch.tensor([3])).pooled.shape == (1, 32)


def test_stretch_keeps_the_first_positions_and_the_ends():
    old = torch.randn(6, 3)
    new = stretch(old, 11, keep=2)
    assert torch.equal(new[:2], old[:2])
    torch.testing.assert_close(new[-1], old[-1])
    assert torch.equal(stretch(old, 6), old)
