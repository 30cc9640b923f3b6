"""SimCTG: its published example, loops, its relation to isotropy, and what training does to a model."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import AT, make_method

import diptych
from diptych.cli import main
from diptych.data.batch import Batch, Tokens
from diptych.data.sources import open_source
from diptych.data.tokenizers import pad_batch, train_bpe
from diptych.errors import InputError
from diptych.evaluation.suites.isotropy import isotropy, report
from diptych.methods.make import NO_TOWER
from diptych.methods.registry import method_class
from diptych.methods.text.contrastive_search import cosine_margins
from diptych.testing.toy import Toy

TEXTS = [Toy(128)[i].captions()[0] for i in range(0, 128, 5)]
TOKENIZER = train_bpe(TEXTS, vocab_size=320, context=12)
EXAMPLE = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)


def method_of(name: str = "contrastive_search", **options):
    torch.manual_seed(0)
    return make_method(name, image=NO_TOWER, embed_dim=0, words=TOKENIZER, **options)


def batch_of(texts) -> Batch:
    ids, lengths = pad_batch(TOKENIZER.encode(texts), TOKENIZER)
    return Batch(
        texts={"main": Tokens(ids[:, None], lengths[:, None])},
        keys=[str(i) for i in range(len(texts))],
    )


def loop(hidden, mask, rho):
    """The equation with loops."""
    total, pairs = 0.0, 0
    for i in range(len(hidden)):
        for j in range(len(hidden)):
            if i != j and mask[i] and mask[j]:
                s = float(hidden[i] @ hidden[j] / hidden[i].norm() / hidden[j].norm())
                total += max(0.0, rho - 1 + s)
                pairs += 1
    return total, pairs


@pytest.mark.parametrize(
    ("rho", "real", "value"),
    [
        (0.5, 4, 0.217360509),
        (0.5, 3, 0.133333333),
        (0.0, 4, 0.0),
        (1.0, 4, 0.634027176),
    ],
)
def test_the_published_example(rho, real, value):
    mask = torch.arange(4)[None] < real
    total, pairs = cosine_margins(EXAMPLE[None], mask, rho)
    assert float(total / pairs) == pytest.approx(value, abs=1e-9)
    assert int(pairs) == real * (real - 1)
    if rho == 1:  # no cosine of the example is negative
        assert float(total / pairs) == pytest.approx(1 - report(EXAMPLE[None], mask))


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    rho=st.floats(0, 2),
    seed=st.integers(0, 1000),
)
def test_it_is_the_sum_over_pairs_of_each_text(lengths, rho, seed):
    torch.manual_seed(seed)
    hidden = torch.randn(len(lengths), 5, 4, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    total, pairs = cosine_margins(hidden, mask, rho)
    for at in range(len(lengths)):
        expected, count = loop(hidden[at], mask[at], rho)
        assert float(total[at]) == pytest.approx(expected, abs=1e-9)
        assert int(pairs[at]) == count


def test_its_gradient_and_its_invariances():
    torch.manual_seed(0)
    hidden = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    torch.autograd.gradcheck(lambda h: cosine_margins(h, mask, 0.7)[0], hidden)
    total, _ = cosine_margins(hidden, mask, 0.7)
    scale = torch.rand(2, 4, 1, dtype=torch.float64) + 0.5
    torch.testing.assert_close(total, cosine_margins(hidden * scale, mask, 0.7)[0])
    total.sum().backward()
    assert hidden.grad is not None
    assert not hidden.grad[1, 3].any()  # a pad


def test_the_loss_is_that_of_the_language_model_and_the_mean_over_all_pairs():
    texts = [TEXTS[0], "red", "a blue bar"]
    batch = batch_of(texts)
    method, plain = method_of(weight=2.0), method_of("language_model")
    plain.load_state_dict(method.state_dict())
    terms = method.loss(method.encode(batch, AT), batch, AT).terms
    expected = plain.loss(plain.encode(batch, AT), batch, AT).total
    torch.testing.assert_close(terms["log_loss"], expected)
    total, pairs = 0.0, 0
    with torch.no_grad():
        for ids in TOKENIZER.encode(texts):
            hidden = method.model(torch.tensor([ids[:-1]]))[0]  # the end predicts nothing
            more, count = loop(hidden, [True] * len(hidden), 0.5)
            total, pairs = total + more, pairs + count
    assert float(terms["contrast"].detach()) == pytest.approx(2 * total / pairs, abs=1e-5)


def test_a_batch_of_texts_of_one_token_has_no_pairs():
    words = train_bpe(TEXTS, vocab_size=320, context=12)
    ids = torch.tensor([[*words.before, *words.after]])
    batch = Batch(texts={"main": Tokens(ids[:, None], torch.tensor([[2]]))}, keys=["0"])
    method = method_of()
    losses = method.loss(method.encode(batch, AT), batch, AT)
    assert float(losses.terms["contrast"].detach()) == 0
    assert math.isfinite(float(losses.total.detach()))


def test_training_on_from_a_language_model_makes_its_states_more_isotropic(tmp_path):
    table = tmp_path / "texts.csv"
    table.write_text("caption\n" + "\n".join(TEXTS) + "\n")
    common = {"quiet": True, "batch_size": 16, "seed": 0}
    diptych.train(
        "language_model",
        str(table),
        tmp_path / "first",
        steps=30,
        tokenizer="bpe:vocab_size=320:context=12",
        text_tower="text:width=32:depth=1:heads=2",
        **common,
    )
    reached = {}
    for name in ("language_model", "contrastive_search"):
        diptych.train(
            name,
            str(table),
            tmp_path / name,
            init=str(tmp_path / "first"),
            steps=20,
            lr=3e-3,
            **common,
        )
        model = diptych.load(str(tmp_path / name))
        reached[name] = isotropy(model, open_source(str(table)))["isotropy"]
        assert model.generate("a", strategy="contrastive:k=3:alpha=0.6", max_tokens=4)
    assert reached["contrastive_search"] > reached["language_model"] + 0.02


@pytest.mark.parametrize(("language", "unit"), [("de", "word"), ("ja", "character")])
def test_small_models_of_other_languages_are_measured(data_pack, tmp_path, language, unit):
    data_pack("stsb-multi")
    where = f"stsb-multi:language={language}:split=val:part=1/30"
    words = [
        "train", "language_model", "--data", where, "--out", tmp_path / "run", "--steps", 2,
        "--batch-size", 8, "--tokenizer", "bpe:vocab_size=300:context=40",
        "--text-tower", "text:width=32:depth=1:heads=2", "--quiet",
    ]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    found = diptych.evaluate(
        str(tmp_path / "run"),
        where,
        suites=["isotropy", "degeneration"],
        prefix=3,
        length=12,
        references=False,
        unit=unit,
        strategies=("greedy", "contrastive:k=3:alpha=0.6"),
    )
    assert 0 < found["isotropy"]["isotropy"] < 2
    rows = found["degeneration"]["by_strategy"]
    assert 0 <= rows["greedy"]["diversity"] <= 1
    assert set(rows) == {"greedy", "contrastive:k=3:alpha=0.6"}


def test_options_out_of_range_are_refused():
    cls = method_class("contrastive_search")
    with pytest.raises(InputError, match="'rho'"):
        cls.configure({"rho": 2.5})
    with pytest.raises(InputError, match="did you mean 'weight'"):
        cls.configure({"weigth": 1.0})
