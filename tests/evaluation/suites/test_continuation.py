"""Continuations: prompts of a source, overlap with references against loops, and refusals."""

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.sample import Field, Sample, Text
from diptych.data.tasks import task
from diptych.data.tokenizers import train_bpe
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites import _rouge
from diptych.evaluation.suites._continuations import Format, items
from diptych.evaluation.suites.continuation import continuation

PAIRS = [
    ("ein roter hund", "a red dog"),
    ("eine blaue katze", "a blue cat"),
    ("zwei vögel im baum", "two birds in a tree"),
    ("ein haus am see", "a house by the lake"),
]
WORDS = [word for pair in PAIRS for text in pair for word in text.split()]
TOKENIZER = train_bpe([text for pair in PAIRS for text in pair] * 3, vocab_size=330, context=150)


class Rows:
    """Texts with references."""

    name = "rows"

    def __init__(self, pairs=PAIRS):
        self.pairs = list(pairs)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        text, reference = self.pairs[index]
        texts = [Text(text=text), *([Text(text=reference, role="en")] if reference else [])]
        return Sample(key=f"row{index}", source=self.name, texts=texts)

    def keys(self):
        return [f"row{index}" for index in range(len(self))]

    def schema(self):
        return {"texts.caption": Field(kind="text"), "texts.en": Field(kind="text")}


class Translator:
    """Knows the references by heart with contrastive search, and repeats a word when greedy."""

    tokenizer, name, identity = TOKENIZER, "translator", "0"

    def __init__(self):
        self.asked: list[Any] = []

    def generate(self, prompts, *, strategy, max_tokens, min_tokens, seed, **options):
        self.asked.append((list(prompts), strategy, max_tokens, options))
        if strategy == "greedy":
            return [" dog dog dog\n" for _ in prompts]
        known = dict(PAIRS)
        texts = [prompt.rsplit("\n", 2)[-2].removeprefix("German: ") for prompt in prompts]
        return [f" {known[text]}\nGerman: more" for text in texts]


def test_each_strategy_is_compared_with_the_references():
    model = Translator()
    result = continuation(model, Rows(), task="translation", reference="en", length=8)
    table = result["by_strategy"]
    best = table["contrastive:k=3:alpha=0.4"]
    assert (best["rouge_1"], best["rouge_l"], best["bleu4"], best["exact"]) == (1, 1, 1, 1)
    assert best["words"] == 4
    assert table["greedy"]["exact"] == 0
    assert 0 < table["greedy"]["rouge_1"] < 0.2
    assert table["chance"]["exact"] == 0
    assert result["written"]["greedy"] == {f"row{at}": "dog dog dog" for at in range(4)}
    assert model.asked[0][0][0] == "German: ein roter hund\nEnglish:"
    assert [strategy for _, strategy, _, _ in model.asked] == ["greedy", "contrastive"]
    assert all(most == 8 for _, _, most, _ in model.asked)


def test_examples_stand_before_each_prompt_and_are_the_same_for_all():
    model = Translator()
    settings = {"task": "translation", "reference": "en", "length": 8}
    result = continuation(model, Rows(), shots=2, train=Rows(PAIRS[2:]), **settings)
    heads = {prompt.rpartition("German: ")[0] for prompt in model.asked[0][0]}
    assert len(heads) == 1
    assert heads.pop().count("English: ") == 2
    assert result["protocol"] != continuation(Translator(), Rows(), **settings)["protocol"]
    other = continuation(Translator(), Rows(), shots=[1], train=Rows(PAIRS[2:]), **settings)
    assert other["n"] == 4


def test_open_texts_are_cut_into_prompt_and_reference():
    bad = Counter()
    found = items(Translator(), Rows(), Format(task=task("open"), prefix=3, length=4), bad=bad)
    assert any(item.references for item in found)
    for item, (text, _) in zip(found, PAIRS, strict=True):
        assert text.startswith(item.prompt)
        assert len(TOKENIZER.ids(item.prompt)) == 3
        after = text[len(item.prompt) :].lstrip()
        assert after.startswith(*item.references) if after else not item.references


def test_what_cannot_be_used_is_counted():
    rows = Rows([*PAIRS, ("ein hund " * 90, "dogs"), ("ein hund", "")])
    result = continuation(
        Translator(), rows, task="translation", reference="en", length=8, strategies=("greedy",)
    )
    assert result["n"] == 4
    assert result["bad"] == {"long": 1, "no-caption": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "summry"}, "did you mean 'summary'"),
        ({"task": "summary"}, "name their role"),
        ({"task": "summary", "reference": "e"}, "role"),
        ({"strategies": ("contrastive:alfa=1",)}, "did you mean 'alpha'"),
        ({"task": "summary", "reference": "en", "shots": 2}, "no source of them given"),
        ({"task": "summary", "reference": "en", "train": Rows()}, "beside a source of them"),
        ({"shots": 1, "train": Rows()}, "examples need references"),
        ({"shots": [1, 2], "train": Rows()}, "one number of examples"),
        ({"prefix": 0}, "must be at least 1"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_computed(settings, message):
    with pytest.raises(InputError, match=message):
        evaluate(Translator(), Rows(), ["continuation"], **settings)


@pytest.mark.parametrize(
    ("settings", "rows", "message"),
    [
        ({"length": 145}, PAIRS, "leave less than 145 of the 150 tokens"),
        ({"shots": 5, "train": Rows()}, PAIRS, "has 4 examples with a reference, 5"),
    ],
)
def test_prompts_that_cannot_be_made_say_why(settings, rows, message):
    with pytest.raises(InputError, match=message):
        continuation(
            Translator(), Rows(rows), task="translation", reference="en", **{"length": 8} | settings
        )


texts = st.lists(st.sampled_from(["a", "b", "c", "D."]), max_size=7).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(texts, st.lists(texts, min_size=1, max_size=2)), min_size=1, max_size=4
    )
)
def test_rouge_is_that_of_loops(pairs):
    found = _rouge.report([text for text, _ in pairs], [right for _, right in pairs])
    for n in (1, 2):
        total = 0.0
        for text, right in pairs:
            total += max(_f1(_grams(_plain(text), n), _grams(_plain(each), n)) for each in right)
        assert found[f"rouge_{n}"] == pytest.approx(total / len(pairs))
    total = 0.0
    for text, right in pairs:
        total += max(_longest(_plain(text), _plain(each)) for each in right)
    assert found["rouge_l"] == pytest.approx(total / len(pairs))


def _plain(text):
    return text.replace(".", "").lower().split()


def _grams(words, n):
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def _f1(own, other):
    left = list(other)
    hits = 0
    for gram in own:
        if gram in left:
            left.remove(gram)
            hits += 1
    return 2 * hits / (len(own) + len(other)) if hits else 0.0


def _longest(a, b):
    for size in range(min(len(a), len(b)), 0, -1):
        if set(itertools.combinations(a, size)) & set(itertools.combinations(b, size)):
            return 2 * size / (len(a) + len(b))
    return 0.0
