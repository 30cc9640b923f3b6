"""CLOSE: the loss against a slow reference, numeric anchors, tasks by roles, what is fitted,
what a run writes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.factories import AT, IMAGE, TEXT, make_method, random_images, small_make
from torch.nn.functional import log_softmax, normalize

from diptych.data.loader import Loader
from diptych.data.plan import Shuffled
from diptych.data.sample import BadSample, Text
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.methods.adapt.close import CLOSE
from diptych.methods.base import Stage
from diptych.methods.make import Make
from diptych.methods.store import describe, load, load_state, rebuild, save_model, to_model
from diptych.testing import Toy
from diptych.training.engine import Engine
from diptych.training.options import Options
from diptych.training.schedule import factor


def method(words=None, **config):
    return make_method(CLOSE, embed_dim=16, words=words, **{"lm": TEXT, **config})


class Captioned(Toy):
    """A toy whose samples have the given texts, by role; a list gives several."""

    def __init__(self, texts, count=32):
        super().__init__(count)
        self.texts = texts
        self.fields = ("images.main", *dict.fromkeys(f"texts.{role}" for role, _ in texts))

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return replace(sample, texts=[Text(text=text, role=role) for role, text in self.texts])


def batch_of(made, source, count=6, steps=10):
    loader = Loader(source, made.views(Stage()), Shuffled(), count, steps=steps)
    return next(iter(loader.epoch(0)))


# ---- the loss


def reference(made, batch):
    """One text after another, one token after another, in double precision."""
    total, tokens = 0.0, 0
    model, gap = made.model.double(), made.model.gap
    encoder, lm = model.encoder, model.lm
    for row in range(len(batch)):
        raw = [
            encoder.project_text(encoder.encode_text(ids[None, :n], n[None]).pooled)[0]
            for ids, n in zip(
                batch.texts["source"].ids[row], batch.texts["source"].lengths[row], strict=True
            )
            if n
        ]
        z = sum(raw) / len(raw)
        z = z / z.norm()
        z = z + gap.noise * batch.fields["noise"][row, 0].double()
        z = z / z.norm()
        soft = (model.adapter.weight @ z + model.adapter.bias).view(1, model.tokens, -1)
        q = n = None
        if "context" in batch.texts:
            n = batch.texts["context"].lengths[row]
            q = batch.texts["context"].ids[row, :, 1 : int(n)]
        memory, _ = lm.read(soft, q, None if n is None else n - 1)
        for ids, n in zip(
            batch.texts["target"].ids[row], batch.texts["target"].lengths[row], strict=True
        ):
            for at in range(1, int(n)):
                hidden = lm(ids[None, :at], memory=memory)
                total -= float(log_softmax(lm.logits(hidden[0, -1]), -1)[ids[at]].detach())
                tokens += 1
    return total / tokens


@pytest.mark.parametrize(
    ("texts", "config"),
    [
        ([("caption", "a red circle")], {}),
        (
            [
                ("caption", "a red bar"),
                ("caption", "a pink circle on the left"),
                ("caption", "a bar"),
            ],
            {"target": "caption"},
        ),
        (
            [
                ("caption", "a red bar"),
                ("caption", "a bar"),
                ("question", "what colour?"),
                ("answer", "red"),
                ("answer", "red"),
                ("answer", "pink"),
                ("question", "which shape?"),
                ("answer", "bar"),
            ],
            {"context": "question", "target": "answer", "sources": 5},
        ),
        (
            [("caption", "a red bar"), ("article", "a bar of red on the left")],
            {"context": "article"},
        ),
    ],
    ids=["single", "multiple", "answers", "news"],
)
def test_the_loss_is_the_mean_over_all_targets_tokens(texts, config):
    made = method(**config)
    batch = batch_of(made, Captioned(texts))
    found = float(made.loss(made.encode(batch, AT), batch, AT).total.detach())
    assert found == pytest.approx(reference(made, batch), rel=1e-5)


def test_gradients_reach_adapter_and_language_model_alone():
    made = method()
    batch = batch_of(made, Toy(32))
    made.loss(made.encode(batch, AT), batch, AT).total.backward()
    learnt = {name for name, p in made.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in learnt} == {"adapter", "lm"}
    assert all(p.grad is not None for name, p in made.named_parameters() if name in learnt)
    assert all(p.grad is None for p in made.model.encoder.parameters())


def test_the_adapter_has_as_many_parameters_as_published():
    with torch.device("meta"):
        make = Make(image=IMAGE, text=TEXT, embed_dim=768, tokenizer=build("clip"))
        made = CLOSE(CLOSE.configure({"lm": "text:width=768:depth=1"}), make)
    assert sum(p.numel() for p in made.model.adapter.parameters()) == 2_362_368


def test_noise_follows_the_width_and_is_drawn_anew_each_time_a_sample_is_seen():
    made = method()
    assert made.model.gap.noise == pytest.approx(0.08 * (768 / 16) ** 0.5)
    assert method(noise=0.3).model.gap.noise == 0.3
    loader = Loader(Toy(8), made.views(Stage()), Shuffled(), 8, steps=10)
    first, second = (next(iter(loader.epoch(epoch))) for epoch in (0, 1))
    noise = {
        epoch: dict(zip(each.keys, each.fields["noise"], strict=True))
        for epoch, each in ((0, first), (1, second))
    }
    assert not any(torch.equal(noise[0][key], noise[1][key]) for key in noise[0])
    quiet = Loader(Toy(8), made.views(Stage()), Shuffled(), 8, steps=None)
    assert not next(iter(quiet.epoch(0))).fields["noise"].any()


def test_several_texts_are_averaged_before_they_are_made_unit():
    class Given(torch.nn.Module):
        def forward(self, x):
            return x

    made = method()
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    encoder = made.model.encoder
    encoder.text_projection = Given()
    encoder.encode_text = lambda ids, lengths: type("Encoded", (), {"pooled": rows[ids[:, 0]]})
    found = made.model.of_texts(
        torch.tensor([[[0], [1]], [[1], [0]]]), torch.tensor([[1, 1], [1, 0]])
    )
    torch.testing.assert_close(found[0], torch.tensor([0.894427, 0.447214]))
    torch.testing.assert_close(found[1], torch.tensor([0.0, 1.0]))  # the second text is none
    assert not torch.allclose(found[0], normalize(torch.tensor([1.0, 1.0]), dim=0))


def test_images_pass_through_no_noise():
    made = method(train_on="images", gap="mean")
    assert [view.gives[0] for view in made.views(Stage())] == ["images.main", "texts.target"]
    assert len(made.stages()) == 1  # nothing is fitted
    batch = batch_of(made, Toy(32))
    torch.testing.assert_close(
        made._vectors(batch), made.model.encoder.embed_images(batch.image.flat).detach()
    )
    answers = method(train_on="images", context="question", target="answer")
    assert not any("caption" in name for name in answers.needs(Stage()))


def test_the_rate_falls_linearly_to_nothing():
    recipe = CLOSE.presets["paper"].recipe
    assert (recipe.lr, recipe.betas, recipe.weight_decay, recipe.batch_size) == (
        3e-4,
        (0.9, 0.999),
        0.0,
        128,
    )
    for step in (0, 30, 100):
        rate = recipe.lr * factor(step, 100, schedule=recipe.schedule, warmup=recipe.warmup)
        assert rate == pytest.approx(3e-4 * (100 - step) / 100)


# ---- gap layers fitted to pairs


def fitted(tmp_path, spec, **options):
    made = method(gap=spec)
    recipe = replace(CLOSE.presets["small"].recipe, steps=3, batch_size=8)
    sources = {"train": Toy(16), "pairs": Toy(40, ["images.main", "texts.caption"])}
    engine = Engine(made, recipe, sources, tmp_path, Options(quiet=True, **options))
    engine.run()
    return made


@pytest.mark.parametrize("spec", ["mean", "linear", "covariance"])
def test_a_gap_layer_is_fitted_to_all_pairs_before_training(tmp_path, spec):
    made = fitted(tmp_path, spec)
    toy, model = Toy(40), made.model
    ids, lengths = batch_of(made, toy, 40, None).texts["source"].flat
    keys = batch_of(made, toy, 40, None).keys
    texts = model.of_texts(ids[:, None], lengths[:, None])
    pixels = torch.stack(
        [model.image.preprocess(toy[int(key)].images["main"].decode()) for key in keys]
    )
    expected = method(gap=spec).model.gap
    expected.fit(model.eval().of_images(pixels).numpy(), texts.numpy())
    for name, value in expected.named_buffers():
        if name != "root":  # whose columns may change sign and order
            torch.testing.assert_close(model.gap.get_buffer(name), value, atol=1e-4, rtol=1e-3)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    reported = next(line for line in lines if line.get("stage") == "fit")
    assert reported["loss"] == pytest.approx(1 - reported["matched_cosine"])


def test_pairs_that_are_not_given_are_asked_for(tmp_path):
    engine = Engine(
        method(gap="mean"),
        CLOSE.presets["small"].recipe,
        {"train": Toy(16)},
        tmp_path,
        Options(quiet=True),
    )
    with pytest.raises(InputError, match="--data pairs=SOURCE"):
        engine.run()


# ---- what a trained model does


def trained(made=None, **config):
    made = made or method(**config)
    model = made.model.eval()
    return to_model(model, made.make.tokenizer, model.image.preprocess.to_dict(), name="close")


def test_without_a_gap_a_text_is_as_good_as_its_image():
    model = trained()
    texts = ["a red circle", "a blue bar", "a pink square"]
    vectors = model.embed_texts(texts)
    model.embed_images = lambda images, **how: vectors
    assert model.generate(random_images(3)) == model.generate(texts=texts)
    prompts = ["a", "b", "c"]
    assert model.generate(random_images(3), prompts) == model.generate(texts=texts, prompts=prompts)


def test_log_prob_sums_to_what_is_generated():
    model = trained()
    written = model.generate(random_images(3), strategy="greedy", max_tokens=3)
    found = model.log_prob(random_images(3), written)
    assert found.shape == (3,)
    assert bool((found < 0).all())
    torch.testing.assert_close(
        model.log_prob(random_images(3), [text.upper() for text in written]), found
    )
    by_one = model.log_prob(random_images(3), written, batch_size=1)
    torch.testing.assert_close(by_one, found, atol=1e-4, rtol=1e-4)
    assert not torch.equal(model.log_prob(random_images(3), written, ["red", "blue", "bar"]), found)


def test_texts_pass_the_gap_layer_and_images_do_not():
    made = method(gap="random:scale=3.0", noise=0.0)
    model = trained(made)
    texts = ["a red circle", "a blue bar"]
    moved = normalize(model.embed_texts(texts) + made.model.gap.shift, dim=1)
    torch.testing.assert_close(model._vectors(None, texts, 8, False), moved)
    torch.testing.assert_close(
        model._vectors(random_images(2), None, 8, False), model.embed_images(random_images(2))
    )


def test_what_does_not_fit_is_refused():
    model = trained()
    with pytest.raises(InputError, match="give either of them"):
        model.generate()
    with pytest.raises(InputError, match="3 images came with one string"):
        model.generate(random_images(3), "what?")
    with pytest.raises(InputError, match="3 images came with 1 of prompts"):
        model.generate(random_images(3), ["what?"])
    for config, message in (
        ({"train_on": "image"}, "did you mean 'images'"),
        ({"target": "answer"}, "set context=question"),
        ({"targets": 0}, "at least 1"),
        ({"tokens": 0}, "at least 1"),
        ({"gap": "liner"}, "did you mean 'linear'"),
    ):
        with pytest.raises(InputError, match=message):
            method(**config)


def test_samples_that_lack_a_text_are_told():
    made = method(target="caption")
    rng = np.random.default_rng(0)
    source, *_ = made.views(Stage())
    with pytest.raises(BadSample, match="few-captions"):
        source(Captioned([("caption", "a bar")])[0], rng, 0.5)
    asks, *_ = method(context="question", target="answer").views(Stage())
    with pytest.raises(BadSample, match="no-question"):
        asks(Captioned([("caption", "a bar")])[0], rng, 0.5)


def t5_folder(folder):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "red": 4, "bar": 5, "Red": 6},
            unk_token="<unk>",
        )
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=32,
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=8,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_a_t5_of_a_folder_is_trained_with_its_own_words_and_rebuilt_without_it(tmp_path):
    folder = t5_folder(tmp_path / "t5")
    made = method(lm=f"t5:{folder}")
    lm = made.model.lm
    assert (lm.tokenizer.before, lm.tokenizer.eot, lm.tokenizer.vocab_size) == ((0,), 1, 7)
    batch = batch_of(made, Captioned([("caption", "a Red bar")]))
    assert batch.texts["target"].ids[0, 0].tolist() == [0, 3, 4, 5, 1]  # targets are in lower case
    made.loss(made.encode(batch, AT), batch, AT).total.backward()
    before = trained(made).log_prob(random_images(3), ["a bar"] * 3)
    model = made.model
    described = describe(
        "close", {"lm": f"t5:{folder}"}, model, made.make.tokenizer, model.image.preprocess
    )
    save_model(tmp_path / "run", json.loads(json.dumps(described)), model.state_dict())
    folder.rename(tmp_path / "moved")
    again = load(tmp_path / "run")
    torch.testing.assert_close(again.log_prob(random_images(3), ["a bar"] * 3), before)
    with pytest.raises(InputError, match="there is no folder"):
        method(lm=f"t5:{folder}").setup({})
    fresh = rebuild(described, made.make.tokenizer)
    load_state(fresh, tmp_path / "run" / "model.safetensors")


def test_an_encoder_whose_tokenizer_marks_no_ends_needs_a_t5():
    words = build("bpe:vocab_size=300:context=8:padding=max", ["a red bar"])
    make = small_make(text=f"{TEXT}:padding=max", embed_dim=16, words=words)
    with pytest.raises(InputError, match="t5:FOLDER"):
        CLOSE(CLOSE.configure({"lm": TEXT}), make)


def test_an_epoch_meets_each_caption_where_it_is_written_of_its_own_vector():
    source = Captioned([("caption", "a red circle"), ("caption", "a bar")], count=4)
    for config, count in (
        ({}, 8),
        ({"train_on": "images"}, 8),
        ({"target": "caption"}, 4),  # others are written of it
        ({"context": "question", "target": "answer"}, 4),
    ):
        made = method(**config)
        assert len(made.samples(Stage(), "train", source)) == count, config
    assert (
        len(method().samples(Stage(name="fit", optimize=False, prepare=print), "pairs", source))
        == 4
    )
