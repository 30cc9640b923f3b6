"""The causal language model: exact caches, sums of log-probabilities, and transformers' GPT-2 with
the same weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.errors import InputError
from diptych.models.causal_lm import CausalLM
from diptych.towers.build import text_tower

V, CONTEXT = 50, 20
SMALL = f"text:width=32:depth=3:heads=4:vocab_size={V}:context={CONTEXT}"


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def lm_of(options: str = "") -> CausalLM:
    lm = CausalLM(text_tower(SMALL + options)).eval()
    for parameter in lm.parameters():  # so that no part is small enough to be forgotten unseen
        torch.nn.init.normal_(parameter, std=0.3)
    return lm


def ids_of(rows: int = 3, length: int = 9) -> torch.Tensor:
    return torch.randint(0, V, (rows, length))


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cut", [(1,) * 9, (4, 1, 1, 3), (9,), (2, 7)], ids=str)
def test_cached_steps_equal_the_full_pass(cut):
    lm, ids = lm_of(), ids_of()
    hidden = lm(ids)
    parts = ids.split(cut, dim=1)
    state = lm.start(parts[0])
    for part in parts[1:]:
        close(state.logits, lm.logits(hidden[:, state.mask.shape[1] - 1]))
        state = lm.next(state, part[:, 0] if part.shape[1] == 1 else part)
    close(state.logits, lm.logits(hidden[:, -1]))
    close(state.hidden, hidden)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_padding_may_stand_anywhere_and_changes_nothing(data):
    """Left, right or between: the real tokens alone count, for what follows them too."""
    torch.manual_seed(0)
    lm, ids, more = lm_of(), ids_of(2, 5), ids_of(2, 2)
    masks = []
    for _ in range(2):
        places = data.draw(st.permutations(range(8)))
        masks.append([place in places[:5] for place in range(8)])
    mask = torch.tensor(masks)
    padded = torch.zeros(2, 8, dtype=torch.long)
    padded[mask] = ids.flatten()
    plain, with_pads = lm.start(ids), lm.start(padded, mask)
    for token in (more[:, 0], more[:, 1]):
        close(with_pads.logits, plain.logits)
        close(with_pads.hidden[with_pads.mask].view_as(plain.hidden), plain.hidden)
        plain, with_pads = lm.next(plain, token), lm.next(with_pads, token)
    close(with_pads.logits, plain.logits)


def test_a_state_is_not_changed_by_what_follows_and_rows_can_be_chosen():
    lm, ids = lm_of(), ids_of()
    state = lm.start(ids)
    before = state.logits.clone(), state.hidden.clone()
    chosen = state.select(torch.tensor([2, 0, 0]))
    after = lm.next(chosen, torch.tensor([5, 6, 7]))
    lm.next(state, torch.tensor([1, 2, 3]))
    assert torch.equal(state.logits, before[0])
    assert torch.equal(state.hidden, before[1])
    assert [len(kept) for kept in state.cache.own] == [9, 9, 9]
    rows = torch.cat([ids[[2, 0, 0]], torch.tensor([[5], [6], [7]])], dim=1)
    close(after.logits, lm.start(rows).logits)


def test_a_state_serves_a_search_over_candidates():
    """What contrastive search does in a step: repeat, read every candidate, look back at all
    states, keep one a row."""
    lm, ids, k = lm_of(), ids_of(2, 4), 3
    state = lm.start(ids)
    candidates = state.logits.topk(k).indices
    tried = lm.next(state.select(torch.arange(2).repeat_interleave(k)), candidates.flatten())
    new, context = tried.hidden[:, -1].view(2, k, 1, -1), state.hidden[:, None]
    penalty = torch.cosine_similarity(new, context, dim=-1).amax(-1)
    best = penalty.argmin(1)
    state = tried.select(torch.arange(2) * k + best)
    expected = torch.cat([ids, candidates.gather(1, best[:, None])], dim=1)
    close(state.hidden, lm(expected))


def test_embeddings_stand_in_the_place_of_ids_as_a_prefix():
    lm, ids = lm_of(), ids_of()
    prefix = lm.table(ids[:, :3])
    close(lm(ids[:, 3:], prefix=prefix), lm(ids))
    close(lm.start(None, prefix=prefix).logits, lm.start(ids[:, :3]).logits)
    lengths = torch.tensor([6, 4, 5])
    whole = lm.token_log_probs(ids, lengths + 3, first=3)
    close(lm.token_log_probs(ids[:, 3:], lengths, first=0, prefix=prefix), whole[:, 3:])
    assert not torch.equal(whole, torch.zeros_like(whole))


def test_a_memory_is_read_once_and_alike_in_steps():
    lm, ids, memory = lm_of(":cross=1:memory_width=12"), ids_of(), torch.randn(3, 6, 12)
    keep = torch.arange(6) < torch.tensor([6, 4, 5])[:, None]
    hidden = lm(ids, memory=memory, memory_mask=keep)
    assert not torch.allclose(hidden, lm(ids), atol=1e-3)
    state = lm.start(ids[:, :2], memory=memory, memory_mask=keep)
    calls = []
    lm.tower.transformer.layers[1].cross.k.register_forward_hook(lambda *_: calls.append(1))
    for place in range(2, 9):
        state = lm.next(state, ids[:, place])
    close(state.hidden, hidden)
    assert not calls, "the memory's keys were computed again"
    order = torch.tensor([1, 2, 0])
    close(
        lm.next(state.select(order), ids[:, 0]).hidden[1],
        lm.next(state, ids[order.argsort()][:, 0]).hidden[2],
    )


@torch.no_grad()
def test_log_prob_is_the_sum_of_what_each_step_says():
    lm, ids = lm_of(), ids_of(3, 6)
    lengths, first = torch.tensor([6, 3, 5]), torch.tensor([1, 2, 4])
    found = lm.log_prob(ids, lengths, first=first)
    for b in range(3):
        total, state = 0.0, lm.start(ids[b : b + 1, :1])
        for place in range(1, int(lengths[b])):
            if place >= first[b]:
                total += float(state.logits.log_softmax(-1)[0, ids[b, place]])
            state = lm.next(state, ids[b : b + 1, place])
        assert float(found[b]) == pytest.approx(total, abs=1e-4)
    counted = (torch.arange(6) < lengths[:, None]) & (torch.arange(6) > 0)
    assert torch.equal(lm.token_log_probs(ids, lengths) != 0, counted)


def test_probabilities_of_all_texts_sum_to_one():
    """Over every text of two tokens: the chain rule with nothing left out."""
    lm = CausalLM(text_tower("text:width=16:depth=1:heads=2:vocab_size=6:context=4")).double()
    torch.nn.init.normal_(lm.table.weight)
    pairs = torch.cartesian_prod(torch.tensor([0]), torch.arange(6), torch.arange(6))
    with torch.no_grad():
        total = lm.log_prob(pairs, torch.full((36,), 3)).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-6)


def test_every_gradient_is_right_with_prefix_and_memory():
    tower = text_tower("text:width=4:depth=2:heads=2:vocab_size=5:context=6:cross=1")
    lm = CausalLM(tower).double()
    prefix, memory = (
        torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    ids, lengths = torch.tensor([[1, 2, 3], [4, 0, 1]]), torch.tensor([3, 2])

    def summed(prefix, memory, table):
        lm.table.weight.data = table.data
        return torch.func.functional_call(
            lm, {"tower.table.weight": table}, (ids,), {"prefix": prefix, "memory": memory}
        )

    table = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(summed, (prefix, memory, table))
    assert torch.autograd.gradcheck(
        lambda p, m: lm.log_prob(ids, lengths, first=0, prefix=p, memory=m), (prefix, memory)
    )


@pytest.mark.parity
def test_logits_states_and_log_probabilities_are_those_of_transformers_gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=V,
        n_positions=CONTEXT,
        n_embd=32,
        n_layer=3,
        n_head=4,
        bos_token_id=0,
        eos_token_id=1,
        attn_pdrop=0,
        embd_pdrop=0,
        resid_pdrop=0,
        initializer_range=0.3,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    lm = CausalLM(text_tower(SMALL + ":activation=gelu_tanh")).eval()
    lm.load_state_dict(
        {f"tower.{name}": value for name, value in from_gpt2(theirs.state_dict()).items()}
    )
    ids = ids_of(4)
    with torch.no_grad():
        close(lm.logits(lm(ids)), theirs(ids).logits)
        close(lm(ids), theirs(ids, output_hidden_states=True).hidden_states[-1])
    lengths = torch.tensor([9, 4, 6, 2])
    with torch.no_grad():
        for row, length, found in zip(ids, lengths, lm.log_prob(ids, lengths), strict=True):
            loss = theirs(
                row[None, :length], labels=row[None, :length]
            ).loss  # a mean over length - 1 tokens
            assert float(found) == pytest.approx(-float(loss) * (int(length) - 1), abs=1e-3)


def from_gpt2(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """GPT-2's weights under our names; its linear layers are stored the other way round."""
    ours = {
        "table.weight": state["transformer.wte.weight"],
        "positions": state["transformer.wpe.weight"],
    }
    names = {
        "ln_1": "norm1",
        "ln_2": "norm2",
        "attn.c_proj": "attn.out",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    for kind in ("weight", "bias"):
        ours[f"norm.{kind}"] = state[f"transformer.ln_f.{kind}"]
        for layer in range(3):
            theirs, own = f"transformer.h.{layer}", f"transformer.layers.{layer}"
            for old, new in names.items():
                value = state[f"{theirs}.{old}.{kind}"]
                ours[f"{own}.{new}.{kind}"] = value if value.ndim == 1 or "ln" in old else value.T
            for name, part in zip(
                "qkv", state[f"{theirs}.attn.c_attn.{kind}"].chunk(3, dim=-1), strict=True
            ):
                ours[f"{own}.attn.{name}.{kind}"] = part.T if kind == "weight" else part
    return ours


def test_what_exceeds_the_context_is_an_error():
    lm = lm_of()
    with pytest.raises(InputError, match="21 tokens exceed the language model's context 20"):
        lm(ids_of(1, 21))
    state = lm.start(ids_of(1, 20))
    with pytest.raises(InputError, match="21 tokens"):
        lm.next(state, torch.tensor([1]))
    with pytest.raises(InputError, match="ids, a prefix, or both"):
        lm()


@pytest.mark.parametrize("options", [":causal=false:pooling=mean", ":padding=max"])
def test_a_tower_that_cannot_be_a_language_model_is_refused(options):
    with pytest.raises(InputError, match="choose text:causal=true:padding=longest"):
        CausalLM(text_tower(SMALL + options))
