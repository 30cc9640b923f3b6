"""Decoding against slow references: loops, brute force over all texts, transformers' warpers, and
frequencies."""

import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from diptych.errors import InputError
from diptych.models.causal_lm import CausalLM
from diptych.models.generate import generate
from diptych.models.strategies import STRATEGIES, Sample, Stepwise
from diptych.towers.build import text_tower

V, CONTEXT, EOT = 12, 16, 2


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Ending(CausalLM):
    """Ends texts more often, the larger `push`."""

    push = 0.0

    def logits(self, hidden):
        logits = super().logits(hidden)
        logits[..., EOT] += self.push
        return logits


def lm_of(vocab: int = V, seed: int = 0, sharp: float = 1.0, push: float = 0.0) -> CausalLM:
    """A model whose distributions are far from even and differ from place to place."""
    torch.manual_seed(seed)
    lm = Ending(
        text_tower(f"text:width=16:depth=2:heads=2:vocab_size={vocab}:context={CONTEXT}")
    ).eval()
    lm.push = push
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    torch.nn.init.normal_(lm.table.weight, std=sharp)
    return lm


def log_probs(lm: CausalLM, ids: list[int]) -> torch.Tensor:
    """log p of the token after ids, uncached."""
    with torch.no_grad():
        return lm.logits(lm(torch.tensor([ids])))[0, -1].double().log_softmax(-1)


PROMPTS = torch.tensor([[1, 5, 0], [1, 7, 8], [1, 3, 0]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 0]], dtype=torch.bool)
ROWS = [[1, 5], [1, 7, 8], [1, 3]]


def test_greedy_takes_the_most_probable_token_row_by_row_and_stops_before_the_end():
    lengths = set()
    for seed in range(6):
        lm = lm_of(seed=seed, push=2.0)
        expected = []
        for row in ROWS:
            made: list[int] = []
            while len(made) < 9:
                token = int(log_probs(lm, row + made).argmax())
                if token == EOT:
                    break
                made.append(token)
            expected.append(made)
        assert generate(lm, PROMPTS, MASK, eot=EOT, max_tokens=9) == expected
        lengths |= set(map(len, expected))
    assert len(lengths) > 2, "the rows of this test all end alike"


def test_without_a_limit_each_row_fills_the_context():
    lm = lm_of()
    found = generate(lm, PROMPTS, MASK)
    assert [len(row) for row in found] == [CONTEXT - len(row) for row in ROWS]
    limited = generate(lm, PROMPTS, MASK, max_tokens=4)
    assert [row[:4] for row in found] == limited


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_lengths_are_kept(strategy):
    lm = lm_of(push=3.0)
    short = generate(lm, PROMPTS, MASK, strategy=strategy, eot=EOT, max_tokens=8)
    long = generate(lm, PROMPTS, MASK, strategy=strategy, eot=EOT, max_tokens=8, min_tokens=6)
    assert min(map(len, short)) < 6 <= min(map(len, long))
    assert max(map(len, long)) <= 8
    assert all(EOT not in row for row in short + long)


def test_sampling_draws_the_distribution():
    """Frequencies of 4,000 first tokens, by a chi-square test at 1 in 1,000."""
    lm, count = lm_of(sharp=0.6), 4000
    found = generate(
        lm,
        torch.tensor([[1, 5]]).expand(count, -1),
        strategy="sample",
        top_p=1.0,
        max_tokens=1,
        seed=1,
    )
    seen = np.bincount([row[0] for row in found], minlength=V)
    expected = log_probs(lm, [1, 5]).exp().numpy() * count
    assert chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 1e-3
    assert (seen > 20).sum() > 4


def test_a_draw_depends_on_the_seed_and_the_number_of_the_row_alone():
    lm = lm_of()
    ids = torch.tensor([[1, 5]]).expand(6, -1)
    whole = generate(lm, ids, strategy="sample", seed=7, max_tokens=8)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002  (the global states must not matter)
    state = torch.random.get_rng_state()
    parts = [
        generate(lm, ids[:2], strategy="sample", seed=7, row=row, max_tokens=8) for row in (0, 2, 4)
    ]
    assert [row for part in parts for row in part] == whole
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len({tuple(row) for row in whole}) > 3
    assert generate(lm, ids, strategy="sample", seed=8, max_tokens=8) != whole


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.2, 3),
    top_k=st.none() | st.integers(1, 15),
    top_p=st.floats(0.05, 1),
)
def test_cut_distributions_equal_a_loop(seed, temperature, top_k, top_p):
    logits = torch.randn(3, V, generator=torch.Generator().manual_seed(seed)) * 2
    found = Sample(temperature=temperature, top_k=top_k, top_p=top_p).probabilities(logits)
    for row, given_row in zip(found, logits, strict=True):
        weights = (given_row.double() / temperature).exp().tolist()
        order = sorted(range(V), key=lambda i: -weights[i])[: top_k or V]
        total, held, kept = sum(weights[i] for i in order), 0.0, []
        for i in order:
            if held / total >= top_p - 1e-12 and kept:
                break
            kept.append(i)
            held += weights[i]
        if abs(held / total - top_p) < 1e-9:
            continue  # a tie of rounding at the nucleus's edge
        expected = torch.zeros(V, dtype=torch.float64)
        expected[kept] = torch.tensor([weights[i] / held for i in kept], dtype=torch.float64)
        torch.testing.assert_close(row, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parity
def test_cut_distributions_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    logits = torch.randn(64, 200, dtype=torch.float64) * 3
    warpers = transformers.LogitsProcessorList(
        [
            transformers.TemperatureLogitsWarper(0.7),
            transformers.TopKLogitsWarper(40),
            transformers.TopPLogitsWarper(0.8),
        ]
    )
    expected = warpers(torch.zeros(64, 1, dtype=torch.long), logits.clone()).softmax(-1)
    found = Sample(temperature=0.7, top_k=40, top_p=0.8).probabilities(logits)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_sampling_of_one_token_or_at_no_temperature_is_greedy():
    lm = lm_of()
    greedy = generate(lm, PROMPTS, MASK, max_tokens=6)
    assert generate(lm, PROMPTS, MASK, strategy="sample", top_k=1, max_tokens=6) == greedy
    assert generate(lm, PROMPTS, MASK, strategy="sample", temperature=1e-4, max_tokens=6) == greedy
    assert generate(lm, PROMPTS, MASK, strategy="sample", top_p=1e-9, max_tokens=6) == greedy


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(2))
def test_a_wide_beam_finds_the_best_of_all_texts(penalty, seed):
    """Brute force over every text of at most 4 tokens of 5."""
    lm, most = lm_of(vocab=5, seed=seed, push=seed), 4
    after = functools.cache(lambda *ids: log_probs(lm, [*ids]).tolist())
    for row in ([1, 3], [1, 4, 0]):
        best, text = -np.inf, None
        for length in range(1, most + 1):
            for tokens in itertools.product(range(5), repeat=length):
                if EOT in tokens[:-1] or (length < most and tokens[-1] != EOT):
                    continue  # ends earlier, or has not ended
                score = sum(after(*row, *tokens[:n])[tokens[n]] for n in range(length))
                score /= length**penalty
                if score > best:
                    best, text = score, [token for token in tokens if token != EOT]
        found = generate(
            lm,
            torch.tensor([row]),
            strategy="beam",
            beams=125,
            length_penalty=penalty,
            eot=EOT,
            max_tokens=4,
        )
        assert found == [text]


def test_beams_of_several_prompts_are_those_of_each_alone_and_one_beam_is_greedy():
    for seed in range(4):
        lm = lm_of(seed=seed)
        together = generate(lm, PROMPTS, MASK, strategy="beam", beams=3, eot=EOT, max_tokens=7)
        alone = [
            generate(lm, torch.tensor([row]), strategy="beam", beams=3, eot=EOT, max_tokens=7)[0]
            for row in ROWS
        ]
        assert together == alone
        one = generate(
            lm, PROMPTS, MASK, strategy="beam", beams=1, length_penalty=0.0, max_tokens=7
        )
        assert one == generate(lm, PROMPTS, MASK, max_tokens=7)


def test_more_beams_find_texts_at_least_as_probable_without_an_end():
    better = 0
    for seed in range(8):
        lm, scores = lm_of(seed=seed), []
        for beams in (1, 8):
            found = generate(
                lm, torch.tensor([[1, 5]]), strategy="beam", beams=beams, max_tokens=6
            )[0]
            ids = torch.tensor([[1, 5, *found]])
            with torch.no_grad():
                scores.append(float(lm.log_prob(ids, torch.tensor([8]), first=2)))
        better += scores[1] > scores[0] + 1e-6
    assert better >= 2


def test_prefix_and_memory_are_read_by_what_follows():
    lm = lm_of()
    prefix = lm.table(torch.tensor([[1, 5], [1, 7]])).detach()
    assert generate(lm, prefix=prefix, max_tokens=5) == generate(
        lm, torch.tensor([[1, 5], [1, 7]]), max_tokens=5
    )
    tower = text_tower(
        f"text:width=16:depth=2:heads=2:vocab_size={V}:context={CONTEXT}:cross=0:memory_width=4"
    )
    reader, memory = CausalLM(tower).eval(), torch.randn(2, 3, 4) * 30
    torch.nn.init.normal_(reader.table.weight)
    for beams in ({"strategy": "greedy"}, {"strategy": "beam", "beams": 3}):
        found = generate(reader, torch.tensor([[1], [1]]), memory=memory, max_tokens=6, **beams)
        swapped = generate(
            reader, torch.tensor([[1], [1]]), memory=memory.flip(0), max_tokens=6, **beams
        )
        assert found == swapped[::-1]
    blind = generate(
        reader,
        torch.tensor([[1], [1]]),
        memory=memory,
        max_tokens=6,
        memory_mask=torch.tensor([[True, False, False]] * 2),
    )
    alone = generate(reader, torch.tensor([[1], [1]]), memory=memory[:, :1], max_tokens=6)
    assert blind == alone


class Second(Stepwise):
    """Takes the second most probable token and hands over the state after it, as a search over
    candidates does."""

    calls = 0

    def choose(self, lm, state, step, draws):
        type(self).calls += 1
        assert step == type(self).calls - 1
        tokens = state.logits.topk(2).indices[:, 1]
        return tokens, lm.next(state, tokens)


def test_a_strategy_of_ones_own_is_an_entry_of_the_table(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "second", lambda: Second())
    monkeypatch.setattr(
        "diptych.models.strategies.configure", lambda cls, options, where: cls(**options)
    )
    lm = lm_of()
    expected = []
    for row in ROWS:
        made: list[int] = []
        for _ in range(5):
            made.append(int(log_probs(lm, row + made).topk(2).indices[1]))
        expected.append(made)
    assert generate(lm, PROMPTS, MASK, strategy="second", max_tokens=5) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "gredy"}, "did you mean 'greedy'"),
        ({"top_p": 0.9}, "option of strategy 'greedy' 'top_p'"),
        ({"strategy": "sample", "topp": 0.9}, "did you mean 'top_p'"),
        ({"strategy": "sample", "top_p": 0.0}, "top_p is 0.0"),
        ({"strategy": "sample", "top_k": 0}, "top_k is 0"),
        ({"strategy": "sample", "temperature": 0.0}, "choose strategy greedy"),
        ({"strategy": "beam", "beams": 0}, "beams is 0"),
        ({"strategy": "beam", "length_penalty": -1.0}, "length_penalty is -1.0"),
        ({"max_tokens": 0}, "at least 1"),
        ({"max_tokens": 3, "min_tokens": 4}, r"at least min_tokens \(4\)"),
        ({"max_tokens": 14}, "a prompt of 3 tokens leaves 13 of the context of 16"),
    ],
)
def test_bad_settings_name_thing_and_remedy(settings, message):
    with pytest.raises(InputError, match=message):
        generate(lm_of(), PROMPTS, MASK, **settings)
