"""The causal language model for strings: prompts, log-probabilities of texts, and what it refuses."""

import pytest
import torch

from diptych.data.tokenizers import train_bpe
from diptych.errors import InputError
from diptych.models.causal_lm import CausalLM
from diptych.models.language import LanguageModel
from diptych.models.precision import set_precision
from diptych.towers.build import text_tower

TEXTS = [
    "a red circle on the left",
    "a blue square",
    "two green bars on the right of a circle",
    "red",
]
TOKENIZER = train_bpe(TEXTS * 2, vocab_size=300, context=24)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def model_of(name: str = "small") -> LanguageModel:
    tower = text_tower("text:width=32:depth=2:heads=4", vocab_size=TOKENIZER.vocab_size, context=24)
    torch.nn.init.normal_(tower.table.weight)
    return LanguageModel(CausalLM(tower), TOKENIZER, name=name)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_prompt_and_its_continuation_are_the_text():
    model = model_of()
    for strategy in ("greedy", "sample", "beam"):
        (more,) = model.generate("a red", strategy=strategy, max_tokens=6, min_tokens=6, seed=2)
        ids = [1, *TOKENIZER.ids("a red")]
        assert len(more) > 0
        again = model.generate(["a red"], strategy=strategy, max_tokens=6, min_tokens=6, seed=2)
        assert again == [more]
        assert TOKENIZER.decode(ids) == "a red"
    assert model.generate(max_tokens=2)[0] == model.generate("", max_tokens=2)[0]


def test_what_a_prompt_gets_depends_on_neither_its_neighbours_nor_the_batch_size():
    model = model_of()
    alone = [
        model.generate(TEXTS[:n], strategy="sample", seed=3, max_tokens=8)[n - 1]
        for n in range(1, 5)
    ]
    assert model.generate(TEXTS, strategy="sample", seed=3, max_tokens=8, batch_size=3) == alone
    assert model.generate(TEXTS, strategy="sample", seed=4, max_tokens=8) != alone


@torch.no_grad()
def test_log_prob_of_texts_counts_their_end_and_is_that_of_prompt_and_rest():
    model = model_of()
    found = model.log_prob(TEXTS, batch_size=2)
    for text, value in zip(TEXTS, found, strict=True):
        ids = torch.tensor([[1, *TOKENIZER.ids(text), 2]])
        logits = model.lm.logits(model.lm(ids)).log_softmax(-1)
        expected = sum(
            float(logits[0, place, ids[0, place + 1]]) for place in range(ids.shape[1] - 1)
        )
        assert float(value) == pytest.approx(expected, abs=1e-3)
    whole, head = model.log_prob(["a red circle"]), TOKENIZER.ids("a red")
    ids = torch.tensor([[1, *head]])
    start = model.lm.log_prob(ids, torch.tensor([len(ids[0])]))
    close(start + model.log_prob("circle", "a red"), whole)


def test_the_model_is_left_in_the_mode_that_it_was_in():
    model = model_of()
    model.lm.train()
    model.generate("a", max_tokens=2)
    model.log_prob(["a"])
    assert model.lm.training


def test_identity_follows_weights_and_tokenizer():
    a, b = model_of(), model_of()
    b.lm.load_state_dict(a.lm.state_dict())
    assert a.identity == b.identity
    with torch.no_grad():
        b.lm.table.weight[0, 0] += 1
    del b.identity
    assert a.identity != b.identity


def test_what_a_language_model_cannot_do_is_told_in_one_line():
    model = model_of("runs/words")
    assert not hasattr(model, "embed_images")
    with pytest.raises(InputError, match="runs/words is a language model and has no embed_texts"):
        model.embed_texts(["a"])
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        _ = model.generat
    with pytest.raises(InputError, match="reads texts and no images"):
        model.generate(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="4 texts came with 1 prompts"):
        model.log_prob(TEXTS, ["a"])
    with pytest.raises(
        InputError, match="has 32 tokens with its prompt, the context of runs/words is 24"
    ):
        model.log_prob(["red " * 30])
    with pytest.raises(InputError, match="computes in float32 alone"):
        set_precision(model, "int8")
    assert set_precision(model, "float32") is model


def test_a_tokenizer_without_start_or_end_or_of_another_size_is_refused():
    lm = model_of().lm
    smaller = CausalLM(text_tower("text:width=32:depth=1:vocab_size=50:context=24"))
    for other, context in ((lm, 25), (smaller, 24)):
        with pytest.raises(InputError, match="use the one it was trained with"):
            LanguageModel(other, train_bpe(TEXTS * 2, 300, context), name="x")
    endless = train_bpe(TEXTS * 2, 300, 24)
    endless.after = ()
    with pytest.raises(InputError, match="choose bpe or clip"):
        LanguageModel(lm, endless, name="x")
