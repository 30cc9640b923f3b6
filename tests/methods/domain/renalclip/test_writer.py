"""Reports that a language model writes about volumes: the loss against a slow reference, what each stage
trains, streams, and what a run stores."""

import math
from dataclasses import replace

import pytest
import torch
from tests.factories import make_method

from diptych.data.batch import Images
from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import Text
from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.methods.base import At
from diptych.methods.domain.renalclip import RenalCLIP
from diptych.methods.domain.renalclip.texts import ReportView
from diptych.methods.make import Make
from diptych.methods.store import load
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.optim import freeze
from diptych.training.run import run

TOWER = "resnet3d:image_size=16:slices=8:widths=(4,8):depths=(1,1):stem=3"
WORDS = "text:width=16:depth=1:heads=2:causal=false:pooling=mean"
LM = "text:width=16:depth=2:heads=2"
KIDNEYS = "kidneys:count=12:slices=8:size=16"
ADAPTER = At(0, 10, 0, 0, "adapter")
TUNE = At(0, 10, 0, 0, "tune")


@pytest.fixture(scope="module")
def words():
    source = open_source(KIDNEYS)
    texts = [source[at].captions()[0] for at in range(12)]
    return build("bpe:vocab_size=400:context=96:special=mask", texts)


def made(words, **config):
    options = {"task": "report", "lm": LM, "tune": "whole", "tokens": 3, "augment": None}
    return make_method(
        RenalCLIP, image=TOWER, text=WORDS, embed_dim=16, words=words, **{**options, **config}
    )


def batches(method, count, size):
    """The first kidneys, in batches of a size."""
    source = open_source(f"kidneys:count={count}:slices=8:size=16")
    method.setup({"train": source})
    return Loader(source, method.views(method.stages()[0]), InOrder(), size).epoch(0)


@torch.no_grad()
def test_the_loss_is_that_of_word_after_word_behind_the_virtual_tokens(words):
    """In float64; each word is predicted from what precedes it alone: the k tokens, the start, the prompt,
    and the words before."""
    method = made(words, prompt="Report:").double().eval()
    model = method.model
    [batch] = batches(method, 4, 4)
    source = open_source(KIDNEYS)
    linear = model.adapter[0]
    total = count = 0.0
    lengths = set()
    for at in range(4):
        pooled = model.encoder.image(batch.image.flat[at : at + 1]).pooled[0]
        expanded = [
            sum(float(w * h) for w, h in zip(row, pooled, strict=True)) + float(bias)
            for row, bias in zip(linear.weight, linear.bias, strict=True)
        ]
        tokens = [torch.tensor(expanded[16 * k : 16 * k + 16]).double() for k in range(3)]
        read = [*words.before, *words.ids("Report:")]
        report = [*words.ids(source[at].captions()[0]), *words.after]
        lengths.add(len(report))
        for word in report[: model.room - len(read)]:
            before = torch.stack([*tokens, *(model.lm.table.weight[id] for id in read)])
            hidden = model.lm(prefix=before[None])[0, -1]
            scores = [float(hidden @ row) for row in model.lm.table.weight]
            total += math.log(sum(map(math.exp, scores))) - scores[word]
            count += 1
            read.append(word)
    assert len(lengths) > 1
    for at in (ADAPTER, TUNE):
        features = method.encode(batch, at)
        assert int(features["words"].sum()) == count
        losses = method.loss(features, batch, at)
        assert float(losses.total) == pytest.approx(total / count, abs=1e-10)
        assert float(losses.logged["perplexity"]) == pytest.approx(math.exp(total / count))


@torch.no_grad()
def test_other_rows_and_padding_change_nothing(words):
    method = made(words).double().eval()
    [batch] = batches(method, 6, 6)
    assert len(set(batch.text.lengths.flatten().tolist())) > 1
    together = method.encode(batch, TUNE)["log_prob"]
    alone = [method.encode(each, TUNE)["log_prob"] for each in batches(method, 6, 1)]
    torch.testing.assert_close(torch.cat(alone), together)


def test_the_volume_has_as_many_tokens_as_asked_for(words):
    model = made(words, tokens=5).eval().model
    volumes = torch.rand(2, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    prefix = model.see(volumes)
    assert prefix.shape == (2, 5, 16)
    assert model.patches.shape == (5, 8)
    assert model.room == min(words.context, model.lm.context - 5)
    assert model.adapter[0].weight.shape == (80, 8)
    with pytest.raises(InputError, match="one frame"):
        model.see(volumes[:, None])


def trained(method, stage):
    """The parts with parameters that a stage trains."""
    freeze(method, stage.lr_scale)
    names = [name for name, value in method.named_parameters() if value.requires_grad]
    return {name.split(".")[1] for name in names}


def test_the_first_stage_trains_the_adapter_and_the_second_the_language_model_too(words):
    whole = made(words)
    first, second = whole.stages()
    assert trained(whole, first) == {"adapter"}
    assert trained(whole, second) == {"adapter", "own"}
    factors = made(words, lm="tiny-lm", tune="lora:r=2:layers=q+v", lm_lr=0.004)
    first, second = factors.stages()
    assert (first.name, second.name) == ("adapter", "tune")
    assert trained(factors, first) == {"adapter"}
    assert trained(factors, second) == {"adapter", "factors"}
    assert second.lr_scale["model.factors"] == 0.004
    frozen = made(words, lm="tiny-lm", tune="none")
    [only] = frozen.stages()
    assert trained(frozen, only) == {"adapter"}


def test_dropout_of_the_language_model_is_off_while_it_is_frozen(words):
    method = made(words, lm="text:width=16:depth=1:heads=2:dropout=0.5").train()
    [batch] = batches(method, 4, 4)
    one, two = (method.encode(batch, ADAPTER)["log_prob"] for _ in range(2))
    assert torch.equal(one, two)
    one, two = (method.encode(batch, TUNE)["log_prob"] for _ in range(2))
    assert not torch.equal(one, two)
    assert method.model.lm.training
    assert not method.model.encoder.training


def test_each_stage_has_its_recipe_and_its_stream(words):
    source = open_source(KIDNEYS)
    method = made(words, recipes={"tune": {"lr": 5e-4, "epochs": 2}})
    assert [dict(stage.recipe) for stage in method.stages()] == [{}, {"lr": 5e-4, "epochs": 2}]
    given = {"train": ["train", "train"], "train tune": ["train", "tune"], "tune": ["tune"]}
    for streams, expected in given.items():
        method.setup(dict.fromkeys(streams.split(), source))
        assert [stream for stage in method.stages() for stream in stage.streams] == expected
    frozen = made(words, lm="tiny-lm", tune="none")
    frozen.setup({"train": source, "tune": source})
    with pytest.raises(InputError, match="the stage that --method.tune none leaves out"):
        frozen.stages()
    with pytest.raises(InputError, match="renalclip reads volumes from the stream train"):
        make_method(
            RenalCLIP, image=TOWER, text=WORDS, embed_dim=16, words=words, augment=None
        ).setup({"texts": source})
    with pytest.raises(InputError, match="stream of renalclip 'texts'"):
        method.setup({"train": source, "texts": source})


def test_reports_without_findings_say_so_of_their_side(words):
    source = open_source(KIDNEYS)
    sample = replace(source[0], texts=[Text(text="Findings:\nImpression: Normal.")])
    view = ReportView(tokenizer=words, length=96, prompt="Report:", sides=("left", "right"))
    found = view(sample, generator(0, "view"), 0.5)["texts.main"][0]
    report = "Findings: No abnormalities in the left kidney.\nImpression: Normal."
    written = [*words.ids(report), *words.after]
    before = [*words.before, *words.ids("Report:")]
    assert list(found.ids) == [*before, *written]
    assert list(found.marks) == [*[-1] * len(before), *written]


def test_reports_are_learned_by_their_volumes(words):
    """A few steps on volumes that differ in brightness: each report is more probable of its own volume."""
    method = made(words).train()
    [batch] = batches(method, 4, 4)
    bright = torch.linspace(0, 1, 4)[:, None, None, None, None, None].expand(4, 1, 1, 8, 16, 16)
    batch = replace(batch, images={"main": Images(bright.contiguous())})
    freeze(method, method.stages()[1].lr_scale)
    trained = [value for value in method.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        method.loss(method.encode(batch, TUNE), batch, TUNE).total.backward()
        optimizer.step()
    with torch.no_grad():
        own = method.eval().encode(batch, TUNE)["log_prob"]
        turned = replace(batch, images={"main": Images(bright.flip(0).contiguous())})
        other = method.encode(turned, TUNE)["log_prob"]
    assert (own > other).all()


# ---- a run


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "aligned"
    settings = resolve(
        "renalclip",
        {"train": KIDNEYS},
        image_tower=TOWER,
        text_tower=WORDS,
        embed_dim=16,
        config={"knowledge": ()},
        recipe={"steps": 1, "batch_size": 8},
        options={"quiet": True},
    )
    run(settings, out)
    return out


def wrote(start, out, **config):
    """A model that writes, after a step or two of each stage."""
    settings = resolve(
        "renalclip",
        {"train": KIDNEYS},
        preset="report",
        init=str(start),
        config={"max_tokens": 6, **config},
        recipe={"steps": 2, "batch_size": 6},
        options={"quiet": True},
    )
    run(settings, out)
    return load(out)


def test_a_run_writes_reports_and_leaves_the_encoder_and_the_language_model(aligned, tmp_path):
    model = wrote(aligned, tmp_path / "run")
    before = load(aligned).encoder.state_dict()
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name  # statistics of batch norms too
    delivered = model.captioner
    assert any("up" in name and value.any() for name, value in delivered.factors.named_parameters())
    source = open_source(KIDNEYS)
    volumes = [source[at].images["main"].volume() for at in range(3)]
    texts = model.generate(volumes, strategy="greedy")
    assert len(texts) == 3
    alone = [model.generate([volume], strategy="greedy")[0] for volume in volumes]
    assert texts == alone
    found = evaluate(model, source, ["captions"])["captions"]
    assert {"bleu4", "rouge_l", "cider", "chance_rouge_l"} <= found.keys()
    assert found["n"] == 12
    reports = [source[at].captions()[0] for at in range(3)]
    assert model.log_prob(volumes, reports).shape == (3,)
    with pytest.raises(InputError, match="no positions to point at"):
        model.heat(volumes, "cyst")


def test_training_goes_on_from_what_was_learned(aligned, tmp_path):
    first = wrote(aligned, tmp_path / "first", tune="none")
    settings = {"task": "report", "lm": "tiny-lm", "augment": None}
    made = RenalCLIP(RenalCLIP.configure(settings), Make.of(first))
    assert torch.equal(made.model.adapter[0].weight, first.captioner.adapter[0].weight)
    other = RenalCLIP.configure({**settings, "tokens": 4})
    with pytest.raises(InputError, match="give the options that it was trained with"):
        RenalCLIP(other, Make.of(first))


def test_what_does_not_fit_is_refused(words, aligned):
    with pytest.raises(InputError, match="a language model writes the reports"):
        made(words, lm=None)
    with pytest.raises(InputError, match="has learnt nothing yet"):
        made(words, tune="none")
    with pytest.raises(InputError, match="no linear layer 'q_proj'"):
        made(words, lm="tiny-lm", tune="lora:layers=q_proj")
    with pytest.raises(InputError, match="stage in recipes of renalclip 'words'"):
        made(words, recipes={"words": {}})
    with pytest.raises(InputError, match="120 virtual tokens and a report exceed the 128"):
        made(words, lm="tiny-lm", tune="none", tokens=120)
    with pytest.raises(InputError, match="adapts a model"):
        resolve("renalclip", {"train": KIDNEYS}, preset="report")
    published = RenalCLIP.configure(RenalCLIP.preset("paper_report").config)
    make = Make.of(load(aligned))
    with pytest.raises(InputError, match="a language model writes the reports"):
        RenalCLIP(published, make)
