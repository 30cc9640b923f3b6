"""Contrastive search against a slow float64 reference without a cache, its published example, and
what must not change it; typical sampling against transformers'."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.tokenizers import train_bpe
from diptych.errors import InputError
from diptych.models.causal_lm import CausalLM
from diptych.models.generate import generate
from diptych.models.seq2seq import seq2seq
from diptych.models.state import Peek, State, peek_by_next
from diptych.models.strategies import Contrastive, Typical, likeness, strategy_of
from diptych.towers.build import text_tower

V, CONTEXT, EOT = 14, 18, 2
ROWS = [[1, 5], [1, 7, 8, 3], [1, 3, 9]]


class Ending(CausalLM):
    """Ends texts more often, the larger `push`."""

    push = 0.0

    def logits(self, hidden):
        logits = super().logits(hidden)
        return logits + self.push * (torch.arange(V) == EOT)


def lm_of(seed: int = 0, options: str = "", sharp: float = 0.3) -> CausalLM:
    """A model in float64, so that no rounding decides between candidates."""
    torch.manual_seed(seed)
    lm = Ending(
        text_tower(f"text:width=16:depth=2:heads=2:vocab_size={V}:context={CONTEXT}{options}")
    )
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    torch.nn.init.normal_(lm.table.weight, std=sharp)
    return lm.double().eval()


def padded(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of rows, with pads on a side."""
    most = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), most, dtype=torch.long), torch.zeros(len(rows), most)
    for at, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(most - len(row), most)
        ids[at, where] = torch.tensor(row)
        mask[at, where] = 1
    return ids, mask.bool()


def cosine(a: list[float], b: list[float]) -> float:
    norm = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm


@torch.no_grad()
def reference(lm, row, count, k, alpha, *, block_prompt=False):
    """The equation with loops: each candidate is read with the whole text before it."""
    text = list(row)
    for _ in range(count):
        hidden = lm(torch.tensor([text]))[0]
        logits = lm.logits(hidden)[-1].tolist()
        total = sum(math.exp(value) for value in logits)
        candidates = sorted(range(V), key=lambda v: -logits[v])[:k]
        best, chosen = -math.inf, None
        for v in candidates:
            own = lm(torch.tensor([[*text, v]]))[0, -1].tolist()
            earlier = hidden.tolist()[len(row) if block_prompt else 0 :]
            penalty = max((cosine(own, each) for each in earlier), default=0.0)
            score = (1 - alpha) * math.exp(logits[v]) / total - alpha * penalty
            if score > best:
                best, chosen = score, v
        text.append(chosen)
    return text[len(row) :]


@pytest.mark.parametrize("block_prompt", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("k", "alpha"), [(2, 0.3), (5, 0.6), (4, 1.0)])
def test_it_is_the_equation_read_with_loops_for_any_padding(k, alpha, side, block_prompt):
    lm = lm_of()
    expected = [reference(lm, row, 7, k, alpha, block_prompt=block_prompt) for row in ROWS]
    ids, mask = padded(ROWS, side)
    options = {"k": k, "alpha": alpha, "block_prompt": block_prompt}
    found = generate(lm, ids, mask, strategy="contrastive", max_tokens=7, **options)
    assert found == expected
    assert found != generate(lm, ids, mask, max_tokens=7), "the penalty decides nothing here"


def test_blocking_the_prompt_changes_what_is_chosen():
    lm, changed = lm_of(), 0
    ids, mask = padded(ROWS, "left")
    for k in (3, 5):
        spec = f"contrastive:k={k}:alpha=0.6"
        blocked = generate(lm, ids, mask, strategy=f"{spec}:block_prompt=true", max_tokens=7)
        changed += blocked != generate(lm, ids, mask, strategy=spec, max_tokens=7)
        # nothing was generated before the first token
        assert [row[0] for row in blocked] == [
            row[0] for row in generate(lm, ids, mask, max_tokens=1)
        ]
    assert changed


class Given:
    """A decoder whose states are given: two tokens read, three candidates."""

    context = 10

    def __init__(self, probabilities, candidates):
        self.p, self.candidates = torch.tensor([probabilities]), torch.tensor(candidates)

    def start(self, *_, **options):
        hidden = torch.eye(2)[None]
        real = torch.ones(1, 2, dtype=torch.bool)
        return State(self.p.log(), hidden, real, cache=SimpleNamespace())

    def peek(self, state, ids):
        return Peek(self.candidates[ids], lambda hidden: self.p.log(), lambda index: state)


@pytest.mark.parametrize(("alpha", "token"), [(0.2, 0), (0.4, 2), (0.6, 2)])
def test_the_published_example(alpha, token):
    """Scores .28 .08 .08, then -.04 -.14 .06, then -.36 -.36 .04."""
    lm = Given([0.6, 0.3, 0.1], [[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    strategy = {"strategy": "contrastive", "k": 3, "alpha": alpha, "max_tokens": 1}
    assert generate(lm, torch.tensor([[0, 0]]), **strategy) == [[token]]
    penalty = likeness(lm.candidates[None], torch.eye(2)[None], torch.ones(1, 2).bool())
    torch.testing.assert_close(penalty, torch.tensor([[1.0, 0.8, 0.0]]))


def test_probabilities_are_of_the_whole_vocabulary():
    """.3 and .2 differ by less than the penalties .9 and .75; .6 and .4, as a softmax over the two
    candidates has them, by more."""
    alike = [[0.9, 0.19**0.5], [0.75, 0.4375**0.5]]
    lm = Given([0.3, 0.2] + [0.0625] * 8, alike + [[1.0, 0.0]] * 8)
    spec = "contrastive:k=2:alpha=0.5"
    assert generate(lm, torch.tensor([[0, 0]]), strategy=spec, max_tokens=1) == [[1]]
    lm = Given([0.6, 0.4] + [0.0] * 8, alike + [[1.0, 0.0]] * 8)
    assert generate(lm, torch.tensor([[0, 0]]), strategy=spec, max_tokens=1) == [[0]]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 50), k=st.integers(1, 20), sharp=st.floats(0.05, 2))
def test_without_a_choice_or_a_penalty_it_is_greedy(seed, k, sharp):
    lm = lm_of(seed, sharp=sharp)
    ids, mask = padded(ROWS, "left")
    limits = {"max_tokens": 9, "eot": EOT, "min_tokens": 2}
    greedy = generate(lm, ids, mask, **limits)
    for spec in (f"contrastive:k={k}:alpha=0.0", "contrastive:k=1:alpha=0.6", "contrastive:k=1"):
        assert generate(lm, ids, mask, strategy=spec, **limits) == greedy


def test_of_equal_tokens_it_takes_that_of_greedy():
    lm = lm_of()
    torch.nn.init.zeros_(lm.table.weight)  # all tokens equally probable, all states alike
    ids, mask = padded(ROWS, "left")
    greedy = generate(lm, ids, mask, max_tokens=4)
    for k in (1, 2, 5):
        assert (
            generate(lm, ids, mask, strategy=f"contrastive:k={k}:alpha=0.0", max_tokens=4) == greedy
        )


def test_at_alpha_one_neither_the_end_too_early_nor_an_impossible_token_is_taken():
    lm = lm_of()
    ids, mask = padded(ROWS, "left")
    spec = f"contrastive:k={V + 5}:alpha=1.0"
    found = generate(lm, ids, mask, strategy=spec, eot=EOT, min_tokens=9, max_tokens=9)
    assert all(EOT not in row for row in found)
    assert [len(row) for row in found] == [9] * 3


def test_only_the_cosine_of_states_counts():
    torch.manual_seed(0)
    hidden, earlier = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.rand(2, 5) > 0.4
    found = likeness(hidden, earlier, mask)
    torch.testing.assert_close(found, likeness(7 * hidden, 0.1 * earlier, mask))
    # what is masked counts for nothing, however alike
    alike = torch.where(mask[..., None], earlier, hidden[:, :1])
    torch.testing.assert_close(found, likeness(hidden, alike, mask))
    assert likeness(hidden, earlier, torch.zeros(2, 5).bool()).eq(0).all()


def test_rows_end_one_by_one_as_each_alone():
    ended = set()
    for seed in range(6):
        lm = lm_of(seed)
        lm.push = 2.0
        ids, mask = padded(ROWS, "left")
        options = {"strategy": "contrastive:k=4", "eot": EOT, "max_tokens": 12}
        together = generate(lm, ids, mask, **options)
        assert together == [generate(lm, torch.tensor([row]), **options)[0] for row in ROWS]
        ended |= set(map(len, together))
    assert len(ended) > 2, "the rows of this test all end alike"


def test_the_prefix_is_read_once_and_no_row_is_repeated(monkeypatch):
    lm, seen = lm_of(), []
    blocks = lm.tower.blocks
    monkeypatch.setattr(
        lm.tower, "blocks", lambda x, **options: seen.append(x.shape[:2]) or blocks(x, **options)
    )
    ids, mask = padded(ROWS, "left")
    generate(lm, ids, mask, strategy="contrastive:k=5", max_tokens=4)
    assert seen == [(3, 4)] + [(3, 5)] * 4


def test_the_first_tokens_may_be_sampled():
    lm = lm_of()
    ids = torch.tensor([[1, 5]] * 4)
    spec = "contrastive:k=4:sampled=3:top_p=0.9"
    found = generate(lm, ids, strategy=spec, max_tokens=6, seed=3)
    drawn = generate(lm, ids, strategy="sample:top_p=0.9", max_tokens=3, seed=3)
    assert [row[:3] for row in found] == drawn
    for row in found:
        assert row[3:] == reference(lm, [1, 5, *row[:3]], 3, 4, 0.6)


def test_a_prefix_and_a_memory_are_read_as_by_other_strategies():
    lm = lm_of()
    prefix = lm.table(torch.tensor([[1, 5], [1, 7]])).detach()
    spec = {"strategy": "contrastive:k=4", "max_tokens": 6}
    assert generate(lm, prefix=prefix, **spec) == generate(
        lm, torch.tensor([[1, 5], [1, 7]]), **spec
    )
    reader = lm_of(options=":cross=0:memory_width=4")
    memory = torch.randn(2, 3, 4, dtype=torch.float64) * 3
    keep = torch.tensor([[True, False, True], [True, True, False]])
    state = reader.start(torch.tensor([[1, 5], [1, 7]]), memory=memory, memory_mask=keep)
    ids = torch.tensor([[3, 4, 5], [6, 7, 3]])
    peek, slow = reader.peek(state, ids), peek_by_next(reader, state, ids)
    torch.testing.assert_close(peek.hidden, slow.hidden)
    index = torch.tensor([2, 0])
    after, other = peek.take(index), slow.take(index)
    torch.testing.assert_close(after.logits, other.logits)
    more = [reader.next(each, torch.tensor([4, 8])).logits for each in (after, other)]
    torch.testing.assert_close(*more)


def test_encoder_decoders_search_too():
    torch.manual_seed(0)
    words = train_bpe(["a red fox", "a blue sea"], vocab_size=270, context=10)
    for spec in ("text:width=32:depth=1:heads=2", "t5:width=32:depth=1:heads=2"):
        lm = seq2seq(spec, words).eval()
        memory, mask = lm.read(torch.randn(2, 3, 32))
        begin = torch.tensor([list(words.before)] * 2)
        read = {"memory": memory, "memory_mask": mask, "max_tokens": 6}
        greedy = generate(lm, begin, **read)
        assert generate(lm, begin, strategy="contrastive:alpha=0.0", **read) == greedy
        found = generate(lm, begin, strategy="contrastive:k=4:alpha=0.6", **read)
        assert found != greedy


def test_a_context_that_is_full_is_refused_and_a_state_is_left_as_it_is():
    lm = lm_of()
    state = lm.start(torch.ones(1, CONTEXT - 1, dtype=torch.long))
    before = [layer.keys.clone() for layer in state.cache.own]
    after = lm.peek(state, torch.tensor([[3, 4]])).take(torch.tensor([1]))
    assert all(torch.equal(a, b.keys) for a, b in zip(before, state.cache.own, strict=True))
    with pytest.raises(InputError, match="context of 18"):
        lm.peek(after, torch.tensor([[3, 4]]))


@pytest.mark.parity
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), mass=st.floats(0.1, 0.99))
def test_typical_sampling_keeps_the_tokens_that_transformers_keeps(seed, mass):
    transformers = pytest.importorskip("transformers")
    logits = torch.randn(16, 60, generator=torch.Generator().manual_seed(seed)).double() * 3
    warper = transformers.TypicalLogitsWarper(mass)
    expected = warper(torch.zeros(16, 1, dtype=torch.long), logits.clone()).softmax(-1)
    torch.testing.assert_close(Typical(mass=mass).probabilities(logits), expected)


def test_typical_sampling_draws_by_seed_and_at_mass_one_from_all():
    logits = torch.randn(2, V)
    torch.testing.assert_close(Typical(mass=1.0).probabilities(logits), logits.double().softmax(-1))
    lm = lm_of()
    ids = torch.tensor([[1, 5]] * 5)
    found = generate(lm, ids, strategy="typical:mass=0.8", seed=1, max_tokens=6)
    assert found == generate(lm, ids, strategy="typical", mass=0.8, seed=1, max_tokens=6)
    assert len({tuple(row) for row in found}) > 1


def test_options_come_with_the_name_or_beside_it():
    assert strategy_of("contrastive:k=3:alpha=0.4") == Contrastive(k=3, alpha=0.4)
    assert strategy_of("contrastive:k=3", {"alpha": 0.4}) == Contrastive(k=3, alpha=0.4)
    assert replace(Contrastive(), block_prompt=True) == strategy_of("contrastive:block_prompt=true")


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("contrastiv", {}, "did you mean 'contrastive'"),
        ("contrastive:alfa=0.6", {}, "did you mean 'alpha'"),
        ("contrastive:k=0", {}, "'k' of strategy 'contrastive' is 0"),
        ("contrastive:k=many", {}, "'k' of strategy 'contrastive' is 'many'"),
        ("contrastive:alpha=1.5", {}, "'alpha' of strategy 'contrastive' is 1.5"),
        ("contrastive:k=5", {"k": 4}, "'k' is given beside strategy"),
        ("typical:mass=0.0", {}, "'mass' of strategy 'typical' is 0.0"),
    ],
)
def test_unknown_and_bad_options_are_named(spec, options, message):
    with pytest.raises(InputError, match=message):
        strategy_of(spec, options)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (torch.zeros(2, 0, dtype=torch.long), None, "prompt 0 is empty"),
        (torch.ones(2, 2, dtype=torch.long), [[1, 0], [0, 0]], "prompt 1 is empty"),
        (torch.ones(1, 30, dtype=torch.long), None, "30 tokens exceed .* context 18"),
    ],
)
def test_prompts_without_a_token_or_beyond_the_context_are_refused(ids, mask, message):
    mask = None if mask is None else torch.tensor(mask).bool()
    with pytest.raises(InputError, match=message):
        generate(lm_of(), ids, mask, strategy="contrastive", max_tokens=2)
