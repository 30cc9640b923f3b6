"""Repetition and perplexity against loops, the published example, and models whose texts are
known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.sample import Field, Sample, Text
from diptych.data.tokenizers import train_bpe
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.degeneration import degeneration, distinct, diversity, report
from diptych.evaluation.suites.perplexity import perplexity
from diptych.models.causal_lm import CausalLM
from diptych.models.language import LanguageModel
from diptych.towers.build import text_tower

WORDS = ["red", "blue", "green", "lamp", "fox", "bird", "tree", "house", "sea", "sky"]
TEXTS = [
    " ".join(WORDS[(start + step * place) % 10] for place in range(14))
    for start in range(6)
    for step in (1, 3)
]
TOKENIZER = train_bpe(TEXTS, vocab_size=330, context=24)


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


class Fixed:
    """Says the same word for ever where it is greedy, and goes through all words where it
    samples."""

    tokenizer, name = TOKENIZER, "fixed"

    def __init__(self):
        self.asked = []

    def generate(self, prompts, *, strategy, max_tokens, min_tokens, seed, **options):
        assert max_tokens == min_tokens
        self.asked.append((tuple(prompts), strategy, seed, options))
        if strategy == "greedy":
            return [" lamp" * max_tokens for _ in prompts]
        return [" " + " ".join(f"w{place}" for place in range(max_tokens)) for _ in prompts]


def model_of() -> LanguageModel:
    torch.manual_seed(0)
    tower = text_tower("text:width=32:depth=1:heads=2", vocab_size=TOKENIZER.vocab_size, context=24)
    torch.nn.init.normal_(tower.table.weight, std=0.5)
    return LanguageModel(CausalLM(tower), TOKENIZER, name="small")


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(0, 3), max_size=9), min_size=1, max_size=4),
    n=st.integers(1, 4),
)
def test_distinct_equals_a_loop(texts, n):
    different = total = 0
    for text in texts:
        seen = []
        for at in range(len(text) - n + 1):
            gram = text[at : at + n]
            total += 1
            if gram not in seen:
                seen.append(gram)
                different += 1
    if total:
        assert distinct(texts, n) == different / total
    else:
        with pytest.raises(InputError, match="generate longer ones"):
            distinct(texts, n)


def test_the_known_example_and_the_ends_of_the_scale():
    text = ["a", "b", "c", "a", "b", "c", "a", "b", "c", "d"]
    assert [distinct([text], n) for n in (2, 3, 4)] == [4 / 9, 4 / 8, 4 / 7]
    assert diversity([text]) == pytest.approx(0.126984127, abs=1e-9)
    assert report([text])["rep_2"] == pytest.approx(5 / 9)
    assert diversity([list(range(20))]) == 1
    assert diversity([[7] * 50]) == pytest.approx(1 / 49 / 48 / 47)
    # counts are summed over texts before the ratio; equal n-grams of two texts are both different
    assert distinct([[1, 2, 1, 2], [1, 2]], 2) == (2 + 1) / (3 + 1)


def test_the_suite_measures_what_each_strategy_says_after_the_same_prompts():
    model = Fixed()
    result = degeneration(
        model,
        Rows(TEXTS),
        prefix=4,
        length=8,
        strategies=("greedy", "sample:top_p=0.8"),
        batch_size=5,
    )
    table = result["by_strategy"]
    assert table["greedy"]["diversity"] == pytest.approx(1 / 7 / 6 / 5)
    assert table["sample:top_p=0.8"]["diversity"] == 1
    assert 0.5 < table["text"]["diversity"] <= 1
    assert result["n"] == 12
    assert [options for _, _, _, options in model.asked] == [{}] * 3 + [{"top_p": 0.8}] * 3
    assert [seed for _, _, seed, _ in model.asked] == [0, 5, 10] * 2
    prompts = [prompt for asked, *_ in model.asked[:3] for prompt in asked]
    assert all(text.startswith(prompt) for text, prompt in zip(TEXTS, prompts, strict=True))
    assert all(len(TOKENIZER.ids(prompt)) == 4 for prompt in prompts)


def test_short_texts_are_left_out_and_counted():
    result = degeneration(Fixed(), Rows([*TEXTS, "red fox"]), prefix=4, length=8)
    assert result["bad"] == {"short": 1}
    with pytest.raises(InputError, match="none of the 1 samples of 'rows' can be used"):
        degeneration(Fixed(), Rows(["red fox"]), prefix=4, length=8)


def test_a_real_model_runs_and_its_protocol_follows_the_settings():
    model = model_of()
    results = [
        evaluate(model, Rows(TEXTS), ["degeneration"], prefix=4, length=length, seeds=(seed,))[
            "degeneration"
        ]
        for length, seed in ((8, 0), (8, 0), (10, 0), (8, 1))
    ]
    assert results[0] == results[1]
    assert len({result["protocol"] for result in results}) == 3
    assert results[0]["by_strategy"]["sample"] != results[3]["by_strategy"]["sample"]
    assert results[0]["model"] == model.identity


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"role": "capton"}, "did you mean 'caption'"),
        ({"strategies": ("gredy",)}, "did you mean 'greedy'"),
        ({"strategies": ("sample:topp=0.9",)}, "did you mean 'top_p'"),
        ({"prefix": 20}, "prefix 20 and length 64 exceed the 23 tokens"),
        ({"length": 3}, "at least 1 and 4"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_computed(settings, message):
    with pytest.raises(InputError, match=message):
        evaluate(model_of(), Rows(TEXTS), ["degeneration"], **settings)


def test_perplexity_is_that_of_a_loop_over_texts():
    model, texts = model_of(), TEXTS[:5]
    result = evaluate(model, Rows([*texts, "sea " * 40]), ["perplexity"], batch_size=2)[
        "perplexity"
    ]
    total = float(sum(model.log_prob(text) for text in texts))
    tokens = sum(len(TOKENIZER.ids(text)) + 1 for text in texts)
    assert result["perplexity"] == pytest.approx(math.exp(-total / tokens), rel=1e-5)
    assert result["bits_per_character"] == pytest.approx(
        -total / math.log(2) / sum(map(len, texts)), rel=1e-5
    )
    assert (result["n"], result["tokens"], result["bad"]) == (5, tokens, {"long": 1})


def test_a_model_that_knows_nothing_has_the_perplexity_of_chance():
    model = model_of()
    torch.nn.init.zeros_(model.lm.table.weight)
    result = perplexity(model, Rows(TEXTS))
    assert result["perplexity"] == pytest.approx(result["chance_perplexity"], rel=1e-5)


def test_a_model_that_embeds_is_refused():
    with pytest.raises(InputError, match="needs a model with generate"):
        evaluate(object(), Rows(TEXTS), ["degeneration"])


def test_coherence_is_the_mean_of_means_by_a_second_model_with_its_own_tokens():
    model = model_of()
    words = train_bpe(TEXTS, vocab_size=280, context=60)
    torch.manual_seed(1)
    tower = text_tower("text:width=32:depth=1:heads=2", vocab_size=words.vocab_size, context=60)
    torch.nn.init.normal_(tower.table.weight, std=0.5)
    scorer = LanguageModel(CausalLM(tower), words, name="scorer")
    settings = {"prefix": 4, "length": 8, "strategies": ("greedy", "contrastive:k=4")}
    result = degeneration(model, Rows(TEXTS), scorer=scorer, **settings)
    assert result["protocol"] != degeneration(model, Rows(TEXTS), **settings)["protocol"]
    for name, texts in (
        ("text", None),
        ("contrastive:k=4", {"strategy": "contrastive:k=4"}),
    ):
        means = []
        for text in TEXTS:
            ids = TOKENIZER.ids(text)
            prompt, after = TOKENIZER.decode(ids[:4]), TOKENIZER.decode(ids[4:12])
            if texts is not None:
                [after] = model.generate([prompt], max_tokens=8, min_tokens=8, **texts)
            row = [*words.before, *words.ids(prompt)]
            log_p = []
            for token in words.ids(after):
                with torch.no_grad():
                    hidden = scorer.lm(torch.tensor([row]))
                    log_p.append(float(scorer.lm.logits(hidden)[0, -1].log_softmax(-1)[token]))
                row.append(token)
            if log_p:
                means.append(sum(log_p) / len(log_p))
        expected = sum(means) / len(means)
        assert result["by_strategy"][name]["coherence"] == pytest.approx(expected, abs=1e-4)


def test_the_published_counts_leave_out_the_last_n_gram_of_each_text():
    text = ["a", "b", "c", "a", "b", "c", "a", "b", "c", "d"]
    assert diversity([text], drop_last=True) == pytest.approx(3 / 8 * 3 / 7 * 3 / 6)
    assert report([text], drop_last=True)["rep_4"] == 0.5


def test_n_grams_of_characters_are_for_languages_without_spaces():
    model = model_of()
    results = [
        degeneration(model, Rows(TEXTS), prefix=4, length=8, unit=unit)
        for unit in ("word", "character")
    ]
    assert results[0]["protocol"] != results[1]["protocol"]
    own = [list("".join(TOKENIZER.decode(TOKENIZER.ids(text)[4:12]).split())) for text in TEXTS]
    assert results[1]["by_strategy"]["text"]["diversity"] == diversity(own)


def test_without_references_a_text_needs_its_prompt_alone():
    texts = [*TEXTS, "red fox lamp bird"]
    result = degeneration(Fixed(), Rows(texts), prefix=4, length=15, references=False)
    assert result["n"] == len(texts)
    assert set(result["by_strategy"]) == {"greedy", "sample"}


def test_a_function_of_ones_own_compares_with_the_references():
    asked = []

    def mauve(texts, references):
        asked.append((list(texts), list(references)))
        return 0.5

    result = degeneration(Fixed(), Rows(TEXTS), prefix=4, length=8, mauve=mauve)
    assert result["by_strategy"]["greedy"]["mauve"] == 0.5
    assert "mauve" not in result["by_strategy"]["text"]
    own = [TOKENIZER.decode(TOKENIZER.ids(text)[4:12]) for text in TEXTS]
    assert [references for _, references in asked] == [own, own]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "wrd"}, "did you mean 'word'"),
        ({"mauve": len, "references": False}, "mauve compares with the references"),
        ({"scorer": object()}, "scorer of degeneration needs a model with log_prob"),
        ({"scorer": "nowhere"}, "no model"),
        ({"strategies": ("contrastive:alfa=1",)}, "did you mean 'alpha'"),
    ],
)
def test_bad_settings_of_scores_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        degeneration(model_of(), Rows(TEXTS), prefix=4, length=8, **settings)
