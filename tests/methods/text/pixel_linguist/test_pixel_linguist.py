"""Pixel Linguist as a method: the loss, what is averaged, the stages and the soup, the commands."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.factories import AT, make_method

import diptych
from diptych.cli import main
from diptych.data.batch import Batch, Images
from diptych.data.loader import Loader
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.registry import method_class
from diptych.methods.text.pixel_linguist import with_negatives
from diptych.objectives import info_nce

PLAIN = "mean=(0.0,0.0,0.0):std=(1.0,1.0,1.0)"
STRIP = f"vit:image_size=(16,256):patch=16:width=32:depth=1:heads=2:cls_position=true:pooling=mean:{PLAIN}"
TEXT = "text:width=32:depth=1:heads=2:causal=false:pooling=mean"
SMALL = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "head_dropout": 0.0}


def method_of(image=STRIP, text=NO_TOWER, words=None, **config):
    return make_method(
        "pixel_linguist", image=image, text=text, embed_dim=32, words=words, **SMALL, **config
    )


def batch_of(method, texts):
    """A batch of one text each, as strips."""
    found = [method.reader.read([text]) for text in texts]
    return Batch(
        images={"main": Images(torch.stack([each["images.main"] for each in found]))},
        fields={"real": torch.stack([each["fields.real"] for each in found])},
        keys=[str(at) for at in range(len(texts))],
    )


def rows(values):
    return F.normalize(torch.tensor(values, dtype=torch.float64), dim=-1)


# ---- the loss


@pytest.mark.parametrize(
    ("b", "expected"),
    [
        ([[1.0, 1, 0], [0, 1, 1], [1, 0, 1]], 0.693147541),
        ([[2.0, 1, 0], [0, 2, 1], [1, 0, 2]], 1.30491e-4),
    ],
)
def test_the_loss_has_the_published_values(b, expected):
    a = torch.eye(3, dtype=torch.float64)
    assert float(info_nce(a, rows(b), 20.0)) == pytest.approx(expected, rel=1e-5)
    assert float(info_nce(rows(b), a, 20.0)) == pytest.approx(expected, rel=1e-5)


def test_perfect_pairs_and_equal_ones_have_their_values():
    a = torch.eye(2, dtype=torch.float64)
    assert float(info_nce(a, a, 20.0)) == pytest.approx(math.log1p(math.exp(-20)), rel=1e-6)
    same = torch.ones(5, 4, dtype=torch.float64) / 2
    assert float(info_nce(same, same, 20.0)) == pytest.approx(math.log(5))


def loss_of(method, a, b, c=None):
    features = {"a": a, "b": b} | ({} if c is None else {"c": c})
    return method.loss(features, Batch(keys=list("abcd")), AT).total


def test_the_method_has_this_loss_at_its_temperature():
    """Slow, in float64: both directions, a fixed temperature of .05, no pairs of the same side."""
    torch.manual_seed(0)
    a, b = (F.normalize(torch.randn(4, 6, dtype=torch.float64), dim=1) for _ in range(2))
    total = 0.0
    for one, other in ((a, b), (b, a)):
        for i in range(4):
            scores = [float(one[i] @ other[j]) / 0.05 for j in range(4)]
            total += (math.log(sum(map(math.exp, scores))) - scores[i]) / 4
    assert float(loss_of(method_of(), a, b)) == pytest.approx(total / 2, abs=1e-9)
    torch.testing.assert_close(loss_of(method_of(), a, b), loss_of(method_of(), b, a))


def test_further_negatives_are_columns_of_one_direction():
    torch.manual_seed(0)
    a, b, c = (F.normalize(torch.randn(3, 5, dtype=torch.float64), dim=1) for _ in range(3))
    total = 0.0
    for i in range(3):
        scores = [float(a[i] @ other) * 20 for other in (*b, *c)]
        total += (math.log(sum(map(math.exp, scores))) - scores[i]) / 3
    assert float(with_negatives(a, b, c, 20.0)) == pytest.approx(total, abs=1e-9)
    assert float(loss_of(method_of(), a, b, c)) == pytest.approx(total, abs=1e-9)
    inputs = [each.requires_grad_() for each in (a, b, c)]
    assert torch.autograd.gradcheck(lambda *x: with_negatives(*x, 2.0), inputs)


# ---- what is averaged


def test_the_mean_is_of_text_and_separator_before_it_the_layer():
    """Slow: states of the tower by their definition, the layer at each patch, then the mean of the
    patches with text and of the black one, without CLS and white patches."""
    method = method_of().double().eval()
    encoder, head = method.model.encoder, method.model.head
    batch = batch_of(method, ["two cats", "a"])
    strips, real = batch.image.flat, batch.fields["real"][:, 0]
    tower = encoder.image
    found = method.model(strips, real)
    for row in range(2):
        count = int(real[row].sum())
        tokens = tower.embed(strips[row : row + 1, :, :, : 16 * 16])[:, : 1 + count]
        states = tower.norm(tower.blocks(tokens))[0]
        mapped = []
        for place in range(1, 1 + count):
            x = head[0].weight @ states[place] + head[0].bias
            x = F.gelu(x)
            x = (x - x.mean()) / (x.var(unbiased=False) + 1e-12).sqrt()
            mapped.append(x * head[2].weight + head[2].bias)
        mean = sum(mapped) / count
        torch.testing.assert_close(found[row], mean / mean.norm())
    assert int(real[0].sum()) == 6  # ceil((3 + 64) / 16) and the separator


def test_without_the_separator_embeddings_differ():
    method = method_of().eval()
    batch = batch_of(method, ["two cats"])
    real = batch.fields["real"][:, 0]
    cut = real.clone()
    cut[0, int(real.sum()) - 1] = False
    one, other = method.model(batch.image.flat, real), method.model(batch.image.flat, cut)
    assert (one - other).abs().max() > 1e-3


def test_the_layer_is_left_out_afterwards_unless_it_is_kept(tmp_path):
    method = method_of().eval()
    model = method.deliver().to_model(None, None, "m")
    batch = batch_of(method, ["two cats"])
    encoded = method.model.encoder.encode_image(batch.image.flat, real=batch.fields["real"][:, 0])
    plain = F.normalize(encoded.pooled, dim=-1)
    torch.testing.assert_close(model.embed_texts(["two cats"]), plain)
    kept = method_of(infer_mlp=True).eval().deliver().to_model(None, None, "m")
    trained = method.model(batch.image.flat, batch.fields["real"][:, 0])
    torch.testing.assert_close(kept.embed_texts("two cats"), trained)
    assert (plain - trained).abs().max() > 1e-2


def test_white_patches_and_spaces_change_nothing():
    """The same tower with a strip twice as long; and texts of other lengths beside it."""
    method = method_of().eval()
    model = method.deliver().to_model(None, None, "m")
    alone = model.embed_texts(["two cats"])
    beside = model.embed_texts(["a much longer text", "two cats", "  two cats  "])
    torch.testing.assert_close(beside[1:], alone.expand(2, -1), rtol=0, atol=1e-6)
    long = method_of(image=STRIP.replace("256", "512")).eval()
    state = method.model.state_dict()
    name = "encoder.image.positions"
    own = long.model.state_dict()[name]
    state[name] = torch.cat([state[name], own[len(state[name]) :]])
    long.model.load_state_dict(state)
    other = long.deliver().to_model(None, None, "m")
    torch.testing.assert_close(other.embed_texts("two cats"), alone, rtol=0, atol=1e-6)


def test_tokens_are_averaged_alike():
    method = method_of(image=NO_TOWER, text=TEXT).eval()
    ids = torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0]])
    lengths = torch.tensor([3, 2])
    found = method.model(ids, lengths)
    tokens = method.model.encoder.encode_text(ids, lengths).tokens
    for row, length in enumerate(lengths.tolist()):
        mean = sum(method.model.head(tokens[row, place]) for place in range(length)) / length
        torch.testing.assert_close(found[row], mean / mean.norm())
    model = method.deliver().to_model(method.make.tokenizer, None, "m")
    with pytest.raises(InputError, match="reads tokens, not pixels"):
        model.render("a")


# ---- stages


def names(method):
    return [stage.name for stage in method.stages() if stage.optimize]


TOY = {name: "sentences:count=30:pair=inference" for name in ("train", "spans", "nli", "parallel")}


def given(method, *streams, **other):
    method.setup({name: open_source(other.get(name, TOY[name])) for name in streams})
    return method


def test_stages_follow_the_streams_and_nli_and_parallel_take_turns():
    noise = ["noise.typos", "noise.shuffle", "noise.window", "noise.mixed"]
    assert names(given(method_of(), "train")) == ["masked", *noise]
    assert names(given(method_of(), "train", "spans", "nli"))[5:] == ["spans", "nli"]
    assert names(given(method_of(), "train", "nli", "parallel"))[5:] == [
        *("nli-1", "parallel-1", "nli-2", "parallel-2", "nli-3"),
    ]
    assert names(given(method_of(rounds=1), "train", "nli", "parallel"))[5:] == [
        *("nli-1", "parallel", "nli-2"),
    ]
    assert names(given(method_of(), "train", "parallel"))[5:] == ["parallel"]
    own = method_of(stages=("nli", "noise"), branches=("blur",))
    assert names(given(own, "train", "nli")) == ["nli", "noise.blur"]
    assert [stage.optimize for stage in own.stages()] == [True, True]
    tokens = method_of(image=NO_TOWER, text=TEXT)
    assert names(given(tokens, "train")) == noise


def test_a_run_that_starts_from_a_model_draws_no_masked_patches():
    first = method_of()
    model = first.deliver().to_model(None, None, "m")
    method = make_method("pixel_linguist", make=Make.of(model), **SMALL)
    assert names(given(method, "train"))[0] == "noise.typos"
    for name, value in method.model.state_dict().items():
        assert torch.equal(value, first.model.state_dict()[name]), name


def test_branches_start_alike_and_their_mean_is_kept():
    method = given(method_of(branches=("typos", "window", "mixed")), "train")
    start = [p.detach().clone() for p in method.model.parameters()]
    branch = []
    for stage in method.stages():
        if not stage.optimize:
            stage.prepare(None)
            continue
        if stage.name == "masked":
            continue
        for parameter, first in zip(method.model.parameters(), start, strict=True):
            assert torch.equal(parameter, first)
            parameter.data.add_(torch.randn_like(parameter))
        branch.append([p.detach().clone() for p in method.model.parameters()])
    assert len(branch) == 3
    for parameter, *each in zip(method.model.parameters(), *branch, strict=True):
        torch.testing.assert_close(parameter.detach(), sum(each) / 3)


def test_the_soup_of_one_weight_is_that_weight():
    method = given(method_of(branches=("typos", "window")), "train")
    start = [p.detach().clone() for p in method.model.parameters()]
    for stage in method.stages():
        if not stage.optimize:
            stage.prepare(None)
    for parameter, first in zip(method.model.parameters(), start, strict=True):
        torch.testing.assert_close(parameter.detach(), first)
    assert not any(p.requires_grad for p in method.soup.parameters())


def test_pairs_that_are_not_entailed_are_left_out(tmp_path):
    source = open_source("sentences:count=90:pair=inference:seed=1")
    method = given(method_of(), "train", "nli")
    stage = next(stage for stage in method.stages() if stage.name == "nli")
    kept = method.samples(stage, "nli", source)
    classes = source.schema()["labels.relation"].classes
    assert len(kept) == sum(classes[s.labels["relation"]] == "entailment" for s in source)
    assert {classes[kept[at].labels["relation"]] for at in range(len(kept))} == {"entailment"}
    assert method.samples(stage, "train", source) is source
    without = open_source("sentences:count=9:pair=graded")
    assert method.samples(stage, "nli", without) is without


MULTINLI = {
    "annotator_labels": ["entailment"],
    "genre": "government",
    "gold_label": "entailment",
    "pairID": "31193e",
    "promptID": "31193",
    "sentence1": "Conceptually cream skimming has two basic dimensions.",
    "sentence1_binary_parse": "( Conceptually ( cream skimming ) )",
    "sentence1_parse": "(ROOT (S))",
    "sentence2": "Cream skimming has two dimensions.",
    "sentence2_binary_parse": "( cream )",
    "sentence2_parse": "(ROOT (S))",
}


def test_multinli_is_read_as_published(tmp_path):
    """multinli_1.0_train.jsonl, beside SNLI's."""
    path = tmp_path / "multinli_1.0_train.jsonl"
    other = {**MULTINLI, "gold_label": "neutral", "pairID": "31193n"}
    path.write_text(f"{json.dumps(MULTINLI)}\n{json.dumps(other)}\n")
    method = given(method_of(), "train", "nli", nli=str(path))
    stage = next(stage for stage in method.stages() if stage.name == "nli")
    source = method.samples(stage, "nli", open_source(str(path)))
    assert len(source) == 1
    batch = next(Loader(source, method.views(stage, "nli"), stage.plan, 1, steps=1).epoch(0))
    strips, _ = method.reader.renderer.strips([MULTINLI["sentence1"], MULTINLI["sentence2"]])
    assert np.array_equal(batch.image.pixels[0, :, 0].numpy(), strips)


def test_translations_are_of_the_languages_that_there_are(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("one\tun\teins\ntwo\t\tzwei\n")
    spec = f"parallel:{path}:languages=en+fr+de"
    method = given(method_of(), "train", "parallel", parallel=spec)
    stage = next(stage for stage in method.stages() if stage.name == "parallel")
    [view] = method.views(stage, "parallel")
    source = open_source(spec)
    seen = {
        tuple(view.pair(source[at], np.random.default_rng(seed)))
        for at in (0, 1)
        for seed in range(20)
    }
    assert seen == {("one", "un"), ("one", "eins"), ("two", "zwei")}
    lone = given(method_of(), "train", "parallel", parallel="sentences:count=9")
    with pytest.raises(InputError, match="no texts beside those of role 'caption'"):
        lone.needs(stage, "parallel")


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="one tower"):
        method_of(text=TEXT)
    with pytest.raises(InputError, match=r"strips of one row of patches"):
        method_of(image=STRIP.replace("(16,256)", "(32,256)"))
    with pytest.raises(InputError, match="strips of one row"):
        method_of(image=STRIP.replace("pooling=mean", "pooling=cls"))
    with pytest.raises(InputError, match="branches blur change pixels"):
        method_of(image=NO_TOWER, text=TEXT, branches=("typos", "blur"))
    with pytest.raises(InputError, match="masked draws pixels"):
        method_of(image=NO_TOWER, text=TEXT, stages=("masked",)).stages()
    with pytest.raises(InputError, match="stream of pixel_linguist 'snli'"):
        method_of().setup({"snli": open_source(TOY["nli"])})
    for options, message in (
        ({"stages": ("noises",)}, "did you mean 'noise'"),
        ({"stages": ()}, "no stage"),
        ({"branches": ()}, "no branch"),
        ({"branches": ("blurr",)}, "did you mean 'blur'"),
        ({"typos": "swop"}, "did you mean 'swap'"),
        ({"recipes": {"nli": {"ir": 1}}}, "recipes of stage 'nli'"),
        ({"mlp": False, "infer_mlp": True}, "leave one of them out"),
    ):
        with pytest.raises(InputError, match=message):
            method_of(**options)


# ---- sizes


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_paper_preset_has_the_published_size():
    """ViT-Base on strips: 86 million parameters of the encoder; PIXEL's decoder has 26 million."""
    preset = method_class("pixel_linguist").presets["paper"]
    with torch.device("meta"):
        method = make_method(
            "pixel_linguist",
            make=Make(image=preset.image, text=NO_TOWER, embed_dim=768, tokenizer=None),
            **preset.config,
        )
    tower = method.model.encoder.image
    block = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    patches = 768 * 768 + 768
    assert count(tower) == 12 * block + patches + 768 + 65 * 768 + 2 * 768
    assert round(count(tower) / 1e6) == 86
    assert count(method.model.head) == 768 * 768 + 768 + 2 * 768
    assert round(count(method.decoder) / 1e6) == 26
    assert method.reader.renderer.patches == 64
    assert tower.preprocess.shape == (3, 16, 1024)
    assert (tower.preprocess.mean, tower.preprocess.std) == ((0.0,) * 3, (1.0,) * 3)


# ---- commands


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps a stage on the world's sentences."""
    out = tmp_path_factory.mktemp("runs") / "pixels"
    words = ["train", "pixel_linguist", "--data", "sentences:count=12", "--out", str(out)]
    words += ["--data", "spans=sentences:count=8:page=2:start=50", "--method.document", "page"]
    words += ["--image-tower", STRIP, "--embed-dim", "32", "--steps", "2", "--batch-size", "4"]
    words += ["--method.recipes", "{}", "--val", "sentences:count=8:pair=graded:split=val"]
    assert main([*words, "--quiet"]) == 0
    return out


def test_a_run_embeds_and_searches_texts_and_is_measured(run, tmp_path, capsys):
    texts = tmp_path / "sentences.txt"
    texts.write_text("Two dogs run.\nZwei Hunde.\n二匹の犬\n", "utf-8")
    emb = str(tmp_path / "emb")
    assert main(["embed", str(run), str(texts), "--out", emb]) == 0
    capsys.readouterr()
    assert main(["search", emb, "dogs", "-k", "2", "--json"]) == 0
    assert "Two dogs run." in capsys.readouterr().out
    data = "sentences:count=20:pair=graded:split=val"
    assert main(["evaluate", str(run), "--data", data, "--suite", "sts,typos", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert -1 <= found["sts"]["spearman"] <= 1
    assert set(found["typos"]["by_typos"]) >= {"swap", "split"}
    assert main(["export", str(run), "--to", "onnx", "--out", str(tmp_path / "x")]) == 2
    assert "it reads texts as pixels" in capsys.readouterr().err


def test_the_model_loads_renders_and_computes_in_other_precisions(run, caplog):
    model = diptych.load(run)
    assert model.render("two cats").shape == (16, 256)
    texts = ["Two dogs run.", "A cat.", "x" * 500, ""]
    vectors = model.embed_texts(texts)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(model.embed_texts(texts, batch_size=1), vectors, rtol=0, atol=1e-5)
    half = diptych.load(run, precision="bfloat16").embed_texts(texts)
    assert F.cosine_similarity(half, vectors).min() > 0.99
    with caplog.at_level("WARNING"):
        strange = model.embed_texts(["\U0001f600 a", "\U0001f600 b"])
        model.embed_texts(["\U0001f600 a"])
    assert len(caplog.records) == 1
    assert "lacks 2 characters of 2 texts (U+1F600)" in caplog.text
    assert strange.shape == (2, 32)


def test_a_model_of_another_font_is_refused(run, tmp_path):
    from diptych.data.render import outlines

    font = tmp_path / "some.ttf"
    font.write_bytes(outlines(20).font_bytes)
    method = method_of(font=str(font), font_size=10.0)
    state = method.deliver().extra_state()
    method.deliver().load_extra_state(state)
    font.write_bytes(outlines(20).font_bytes + b"\0")
    with pytest.raises(InputError, match="another one than the model was trained with"):
        method.deliver().load_extra_state(state)


def test_the_same_stages_train_tokens(tmp_path):
    out = tmp_path / "tokens"
    words = ["train", "pixel_linguist", "--preset", "tokens", "--data", "sentences:count=12"]
    words += [
        "--text-tower",
        TEXT,
        "--embed-dim",
        "32",
        "--tokenizer",
        "bpe:vocab_size=300:context=24",
    ]
    words += ["--steps", "1", "--batch-size", "4", "--out", str(out), "--quiet"]
    assert main(words) == 0
    assert diptych.load(out).embed_texts(["two cats"]).shape == (1, 32)


def test_validation_may_choose_the_epochs_of_later_stages():
    method = given(method_of(select="val/spearman"), "train", "spans", "nli")
    chosen = {stage.name: stage.select for stage in method.stages() if stage.optimize}
    assert chosen["noise.typos"] is None
    assert chosen["spans"] == chosen["nli"] == "val/spearman"


def test_stages_read_and_train_what_is_theirs():
    method = given(method_of(), "train", "spans", "nli", "parallel")
    for stage in method.stages():
        if not stage.optimize:
            continue
        kind = stage.name.partition(".")[0].partition("-")[0]
        assert stage.streams == (kind if kind in ("spans", "nli", "parallel") else "train",)
        assert stage.lr_scale.get("decoder") == (1.0 if kind == "masked" else 0.0)
