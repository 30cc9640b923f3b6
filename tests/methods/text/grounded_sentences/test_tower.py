"""The recurrent tower: attention per feature, padding, and parity with packed sequences."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from diptych.data.tokenizers import Chars, pad_batch
from diptych.errors import InputError
from diptych.methods.text.grounded_sentences.tower import GRUTower, VectorialAttention
from diptych.towers.build import text_tower

SPEC = "grounded_sentences.gru:hidden=6:attention=5:embedding=4"
TEXTS = ["a red cat", "Two cats sit .", "x", "a red cat"]


def tower(**options) -> GRUTower:
    torch.manual_seed(0)
    more = "".join(f":{name}={value}" for name, value in options.items())
    return text_tower(SPEC + more, vocab_size=102, context=64, pad=0).double()


def read(texts=TEXTS):
    tokenizer = Chars(context=64)
    return pad_batch(tokenizer.encode(texts), tokenizer)


def test_attention_without_second_layer_is_the_mean_over_time():
    H = torch.tensor([[[1.0, 2], [3, 4], [5, 0]]])
    attention = VectorialAttention(2, 3)
    nn.init.zeros_(attention.second.weight)
    nn.init.zeros_(attention.second.bias)
    assert (attention(H) * H).sum(1).tolist() == [pytest.approx([3, 2])]
    padded = torch.cat([H, torch.zeros(1, 2, 2)], 1)
    mask = torch.tensor([[True, True, True, False, False]])
    assert (attention(padded, mask) * padded).sum(1).tolist() == [pytest.approx([3, 2])]
    assert (attention(padded) * padded).sum(1).tolist() == [pytest.approx([1.8, 1.2])]


def test_every_feature_has_its_own_distribution_over_time():
    made = tower(heads=2)
    ids, lengths = read()
    features = made.blocks(made.embed(ids), lengths)
    weights = made.weights(features, lengths)
    assert weights.shape == (4, 2, ids.shape[1], 12)
    torch.testing.assert_close(weights.sum(2), torch.ones(4, 2, 12).double())
    assert bool((weights[0, 0, :9].std(1) > 0).any())
    assert bool((weights[2, :, 1:] == 0).all())


def test_the_first_layer_of_the_attention_begins_orthogonal():
    weight = VectorialAttention(12, 5).first.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(5), atol=1e-5, rtol=0)


def reference(made, text):
    """One text, with its steps as loops, from the weights alone."""
    x = made.table(torch.tensor(Chars().ids(text)))
    ways = []
    for gru, order in ((made.forwards, x), (made.backwards, x.flip(0))):
        Wi, Wh, bi, bh = (
            getattr(gru, name)
            for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        )
        h = torch.zeros(6).double()
        states = []
        for e in order:
            i_r, i_z, i_n = (Wi @ e + bi).chunk(3)
            h_r, h_z, h_n = (Wh @ h + bh).chunk(3)
            r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
            h = (1 - z) * torch.tanh(i_n + r * h_n) + z * h
            states.append(h)
        ways.append(states)
    H = [torch.cat([a, b]) for a, b in zip(ways[0], ways[1][::-1], strict=True)]
    found = []
    for head in made.attention:
        scores = [head.second.weight @ torch.tanh(head.first.weight @ h + head.first.bias) + head.second.bias
                  for h in H]  # fmt: skip
        for feature in range(12):
            shares = torch.stack([score[feature] for score in scores]).exp()
            shares = shares / shares.sum()
            found.append(sum(share * h[feature] for share, h in zip(shares, H, strict=True)))
    return torch.stack(found)


def test_it_is_the_equations_written_as_loops():
    made = tower(heads=2)
    ids, lengths = read()
    found = made(ids, lengths).pooled
    for row, text in zip(found, TEXTS, strict=True):
        torch.testing.assert_close(row, reference(made, text))


def test_both_directions_are_those_of_torchs_packed_bidirectional_network():
    made = tower()
    whole = nn.GRU(4, 6, batch_first=True, bidirectional=True).double()
    state = dict(made.forwards.state_dict())
    state |= {f"{name}_reverse": value for name, value in made.backwards.state_dict().items()}
    whole.load_state_dict(state)
    ids, lengths = read()
    packed = pack_padded_sequence(made.embed(ids), lengths, batch_first=True, enforce_sorted=False)
    expected = pad_packed_sequence(whole(packed)[0], batch_first=True)[0]
    torch.testing.assert_close(made.blocks(made.embed(ids), lengths), expected)


def test_a_text_has_the_same_vector_in_any_company_and_order():
    made = tower(heads=2)
    ids, lengths = read()
    together = made(ids, lengths).pooled
    torch.testing.assert_close(together[0], together[3])
    torch.testing.assert_close(made(ids.flip(0), lengths.flip(0)).pooled, together.flip(0))
    for at in range(4):
        alone = made(ids[at : at + 1, : lengths[at]], lengths[at : at + 1]).pooled
        torch.testing.assert_close(alone[0], together[at])
    assert not made.mixes_samples


def test_without_a_mask_the_padding_counts_as_published():
    made = tower(masked="false")
    ids, lengths = read()
    together = made(ids, lengths).pooled
    alone = made(ids[2:3, :1], lengths[2:3]).pooled
    assert float((together[2] - alone[0]).abs().max().detach()) > 1e-3
    torch.testing.assert_close(together[1], made(ids[1:2], lengths[1:2]).pooled[0])  # the longest
    assert made.mixes_samples


def test_the_pooled_vector_is_a_weighted_sum_of_the_tokens():
    made = tower(heads=2)
    ids, lengths = read()
    found = made(ids, lengths)
    weights = made.weights(made.blocks(made.embed(ids), lengths), lengths)
    sums = (weights.permute(0, 2, 1, 3).flatten(2) * found.tokens).sum(1)
    torch.testing.assert_close(sums, found.pooled)


@pytest.mark.parametrize("texts", [[""], ["", "a cat"], ["", ""]])
def test_an_empty_text_has_the_vector_of_padding(texts):
    made = tower()
    found = made(*read(texts)).pooled
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(
        found[0], made(torch.zeros(1, 1, dtype=torch.long), torch.tensor([0])).pooled[0]
    )


def test_gradients_are_those_of_differences_and_none_reaches_the_padding():
    made = tower(heads=2)
    embeddings = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([3, 2])
    assert torch.autograd.gradcheck(lambda x: made(None, lengths, embeddings=x).pooled, embeddings)
    made(None, lengths, embeddings=embeddings).pooled.sum().backward()
    assert embeddings.grad is not None
    assert bool((embeddings.grad[1, 2] == 0).all())


def test_sizes_are_as_published():
    """Two directions of 1024, an attention of 128, embedded characters of 20."""
    for heads, width in ((1, 2048), (2, 4096)):
        with torch.device("meta"):
            made = text_tower(
                f"grounded_sentences.gru:heads={heads}", vocab_size=102, context=1024, pad=0
            )
        assert made.width == width
        gru = 2 * (3 * 1024 * (20 + 1024) + 6 * 1024)
        attention = 2048 * 128 + 128 + 128 * 2048 + 2048
        assert sum(p.numel() for p in made.parameters()) == 102 * 20 + gru + heads * attention


def test_the_spec_builds_the_same_tower():
    made = tower(heads=2, masked="false")
    again = text_tower(made.spec).double()
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(again(*read()).pooled, made(*read()).pooled)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda made, ids, n: made(ids, n, edit=lambda layer, x: x), "no layers to edit"),
        (lambda made, ids, n: made(ids, n, memory=ids), "no memory"),
        (lambda made, ids, n: made(ids, n, causal=True), "no causality"),
        (lambda made, ids, n: made(ids.repeat(1, 9), n), "exceeds the tower's context 64"),
        (lambda made, ids, n: made(None, n), "either ids or embeddings"),
    ],
)
def test_what_a_recurrent_network_cannot_do_is_refused(call, message):
    ids, lengths = read()
    with pytest.raises(InputError, match=message):
        call(tower(), ids, lengths)


def test_a_text_of_ten_thousand_words_is_cut_and_embedded():
    tokenizer = Chars(context=64)
    made = text_tower(SPEC, vocab_size=102, context=64, pad=0)
    ids, lengths = pad_batch(tokenizer.encode(["word " * 10_000, "a\ud800 cat", ""]), tokenizer)
    assert ids.shape == (3, 64)
    assert bool(torch.isfinite(made(ids, lengths).pooled).all())
