"""Isotropy of token states against loops, the known example, and a real model's texts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.sample import Field, Sample, Text
from diptych.data.tokenizers import train_bpe
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.isotropy import cosines, isotropy, report
from diptych.models.causal_lm import CausalLM
from diptych.models.language import LanguageModel
from diptych.towers.build import text_tower

TEXTS = ["a red fox by the sea", "blue lamp", "x", "two green birds in a tall tree", "a fox"]
TOKENIZER = train_bpe(TEXTS * 2, vocab_size=290, context=16)


class Rows:
    """A source of texts."""

    name = "rows"

    def __init__(self, texts):
        self.texts = list(texts)

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return Sample(key=str(index), source=self.name, texts=[Text(text=self.texts[index])])

    def keys(self):
        return [str(index) for index in range(len(self))]

    def schema(self):
        return {"texts.caption": Field(kind="text")}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(0)
    tower = text_tower("text:width=32:depth=2:heads=2", vocab_size=TOKENIZER.vocab_size, context=16)
    torch.nn.init.normal_(tower.table.weight, std=0.5)
    return LanguageModel(CausalLM(tower), TOKENIZER, name="small")


def loop(hidden, mask):
    """The equation with loops."""
    total, pairs = 0.0, 0
    for text, real in zip(hidden, mask, strict=True):
        rows = [row for row, kept in zip(text, real, strict=True) if kept]
        for i in range(len(rows)):
            for j in range(len(rows)):
                if i != j:
                    total += float(rows[i] @ rows[j] / rows[i].norm() / rows[j].norm())
                    pairs += 1
    return total, pairs


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_it_is_the_mean_over_pairs_of_all_texts(lengths, seed):
    torch.manual_seed(seed)
    hidden = torch.randn(len(lengths), 6, 4, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    total, pairs = loop(hidden, mask)
    sums, counts = cosines(hidden, mask)
    assert float(sums.sum()) == pytest.approx(total, abs=1e-9)
    assert int(counts.sum()) == pairs
    if pairs:
        assert report(hidden, mask) == pytest.approx(1 - total / pairs, abs=1e-9)
        assert report(3 * hidden, mask) == pytest.approx(report(hidden, mask), abs=1e-9)
    else:
        with pytest.raises(InputError, match="give longer ones"):
            report(hidden, mask)


def test_the_known_example_and_the_ends_of_the_scale():
    first = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 1.0]])
    second = torch.tensor([[1.0, 0.0], [1.0, 0.0], [9.0, 9.0], [9.0, 9.0]])
    whole = torch.ones(1, 4).bool()
    assert report(first[None], whole) == pytest.approx(0.365972824, abs=1e-7)
    both = torch.stack([first, second])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    assert report(both, mask) == pytest.approx(0.313690992, abs=1e-7)
    assert report(torch.ones(1, 4, 3), whole) == pytest.approx(0, abs=1e-12)
    assert report(torch.eye(4)[None], whole) == 1


def test_the_suite_reads_each_text_from_its_start(model):
    result = evaluate(model, Rows(TEXTS), ["isotropy"], batch_size=2)["isotropy"]
    total, pairs, tokens = 0.0, 0, 0
    with torch.no_grad():
        for text in TEXTS:
            if len(text) > 1:
                ids = [*TOKENIZER.before, *TOKENIZER.ids(text)][:16]
                hidden = model.lm(torch.tensor([ids]))
                sums, count = loop(hidden, torch.ones(1, len(ids)).bool())
                total, pairs, tokens = total + sums, pairs + count, tokens + len(ids)
    assert result["isotropy"] == pytest.approx(1 - total / pairs, abs=1e-5)
    assert (result["n"], result["tokens"], result["bad"]) == (4, tokens, {"short": 1})
    assert result["model"] == model.identity


def test_long_texts_are_cut_and_no_more_than_asked_are_read(model):
    cut = isotropy(model, Rows(TEXTS), length=3)
    assert cut["tokens"] == 3 * 4
    assert cut["protocol"] != isotropy(model, Rows(TEXTS))["protocol"]
    assert isotropy(model, Rows(TEXTS), max_texts=2)["n"] == 2
    assert isotropy(model, Rows(["sea " * 40]))["tokens"] == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"length": 1}, "at least 2 tokens"), ({"max_texts": 0}, "1 text"), ({"role": "x"}, "role")],
)
def test_bad_settings_are_refused(model, settings, message):
    with pytest.raises(InputError, match=message):
        evaluate(model, Rows(TEXTS), ["isotropy"], **settings)


def test_a_model_without_token_states_is_refused():
    with pytest.raises(InputError, match="needs a model with hidden_states"):
        evaluate(object(), Rows(TEXTS), ["isotropy"])
