"""CG-VLM: the contrast with the word table against the published figures and a slow reference, what each
stage trains, nested fractions, and what a run stores."""

import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.factories import foreign_lm, make_method, random_images, small_make, tokenizer
from tests.methods.fuse.cg_vlm_helpers import ALIGN, INSTRUCT, LM, asked, batch, saved

from diptych.data.columns import WithColumns
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.fuse.cg_vlm import CGVLM, TOKENS, cells_of, nested
from diptych.methods.make import Make
from diptych.objectives import info_nce
from diptych.objectives.tokens import unit_mean
from diptych.testing import Toy
from diptych.training.optim import freeze
from diptych.training.prepare import Run

TAU = 0.07


def made(seed=0, **config):
    return make_method(CGVLM, seed, **{"lm": LM, **config}).eval()


def test_images_are_padded_to_a_square_in_the_mean_colour(tmp_path):
    method = made(fit="longest")
    [stage] = [stage for stage in method.stages() if stage.name == "align"]
    read = method.views(stage)[0].preprocess
    wide = Image.new("RGB", (40, 20), (255, 0, 0))
    pixels = read(wide)
    margin = torch.tensor([round(255 * value) for value in read.mean])
    assert (margin == pixels[:, 0].T).all()
    assert (pixels[:, 0] != made().model.image.preprocess(wide)[:, 0]).any()
    middle = pixels[:, pixels.shape[1] // 2].float()
    assert (middle[0] > 250).all(), "the whole width is read"
    again = saved(method, tmp_path / "run")
    assert (again.preprocess.resize, again.preprocess.fill) == ("longest", tuple(margin.tolist()))


# ---- the contrast


def published():
    """Two images of two equal patches, and two captions: (2, 2, 2), (2, 3, 2), which tokens are real."""
    patches = torch.eye(2, dtype=torch.float64)[:, None].expand(2, 2, 2)
    tokens = torch.tensor(
        [[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]], [[0.0, 1.0], [0.0, 3.0], [1.0, 0.0]]],
        dtype=torch.float64,
    )
    real = torch.tensor([[True, True, False], [True, True, True]])
    return patches, tokens, real


def loss_of(patches, tokens, real, cells=1):
    images = unit_mean(cells_of(patches, cells))
    return info_nce(images, unit_mean(tokens, real), 1 / TAU)


def test_similarities_and_loss_are_the_published_ones():
    patches, tokens, real = published()
    images = unit_mean(cells_of(patches, 1))
    texts = unit_mean(tokens, real)
    assert torch.allclose(
        images @ texts.T, torch.tensor([[0.5, 1 / 3], [0.5, 2 / 3]], dtype=torch.float64)
    )
    normal = torch.nn.functional.normalize(texts, dim=-1)
    expected = torch.tensor([[0.7071, 0.4472], [0.7071, 0.8944]], dtype=torch.float64)
    assert torch.allclose(images @ normal.T, expected, atol=5e-5)
    raw = (tokens * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    raw = torch.nn.functional.normalize(raw, dim=-1)
    expected = torch.tensor([[0.4472, 0.2425], [0.8944, 0.9701]], dtype=torch.float64)
    assert torch.allclose(images @ raw.T, expected, atol=5e-5)
    S = images @ texts.T / TAU
    rows = torch.nn.functional.cross_entropy(S, torch.arange(2))
    columns = torch.nn.functional.cross_entropy(S.T, torch.arange(2))
    assert float(rows) == pytest.approx(0.088434, abs=1e-6)
    assert float(columns) == pytest.approx(0.350830, abs=1e-6)
    assert float(loss_of(patches, tokens, real)) == pytest.approx(0.219632, abs=1e-6)


def drawn(seed, count=4, patches=6, tokens=5, width=7):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([5, 2, 4, 1])[:count]
    return (
        torch.randn(count, patches, width, generator=generator, dtype=torch.float64),
        torch.randn(count, tokens, width, generator=generator, dtype=torch.float64),
        torch.arange(tokens) < lengths[:, None],
    )


@pytest.mark.parametrize("cells", [1, 2, 3])
def test_the_similarity_is_the_mean_of_all_cosines(cells):
    patches, tokens, real = drawn(1)
    found = unit_mean(cells_of(patches, cells)) @ unit_mean(tokens, real).T
    size = 6 // cells
    for i in range(4):
        for j in range(4):
            total = count = 0.0
            for k in range(cells):
                v = sum(patches[i, k * size + p] for p in range(size)) / size
                for place in range(5):
                    if real[j, place]:
                        e = tokens[j, place]
                        dot = sum(float(a * b) for a, b in zip(v, e, strict=True))
                        total += dot / math.sqrt(float(v @ v) * float(e @ e))
                        count += 1
            assert float(found[i, j]) == pytest.approx(total / count, abs=1e-12)
    assert float(found.abs().max()) <= float(unit_mean(tokens, real).norm(dim=1).max()) <= 1


def test_lengths_of_tokens_and_padding_change_nothing():
    patches, tokens, real = drawn(2)
    loss = float(loss_of(patches, tokens, real))
    longer = tokens.clone()
    longer[1, 0] *= 5
    assert float(loss_of(patches, longer, real)) == pytest.approx(loss, abs=1e-12)
    louder = patches.clone()
    louder[2] *= 3
    assert float(loss_of(louder, tokens, real)) == pytest.approx(loss, abs=1e-12)
    one = patches.clone()
    one[2, 0] *= 3
    assert abs(float(loss_of(one, tokens, real)) - loss) > 1e-4
    padded = tokens.clone()
    padded[~real] = 100.0
    assert float(loss_of(patches, padded, real)) == pytest.approx(loss, abs=1e-12)


def test_of_one_token_it_is_info_nce_and_of_one_pair_nothing():
    patches, tokens, _ = drawn(3)
    first = torch.arange(5) < torch.ones(4, 1)
    normal = torch.nn.functional.normalize
    expected = info_nce(normal(patches.mean(1), dim=1), normal(tokens[:, 0], dim=1), 1 / TAU)
    assert float(loss_of(patches, tokens, first)) == pytest.approx(float(expected), abs=1e-12)
    assert float(loss_of(patches[:1], tokens[:1], first[:1])) == 0


# ---- alignment


@torch.no_grad()
def test_alignment_reads_captions_behind_images_and_their_own_tokens_alone():
    method = made(prompt="a picture:").double()
    source = Toy(3)
    given = batch(method, source)
    found = method.encode(given, ALIGN)
    model = method.model
    words = model.words
    for at in range(3):
        sample = source[at]
        own = words.ids(sample.captions()[0])
        seen = model.encoder.image(given.image.flat[at : at + 1])
        prefix = model.adapter(seen.tokens[:, seen.prefix :])
        ids = [*words.before, *words.ids("a picture:")]
        total = 0.0
        for word in [*own, *words.after]:
            read = torch.cat([prefix, model.lm.table(torch.tensor([ids]))], 1)
            scores = model.lm.logits(model.lm(prefix=read)[0, -1]).tolist()
            total += scores[word] - math.log(sum(math.exp(score) for score in scores))
            ids.append(word)
        assert float(found["log_prob"][at]) == pytest.approx(total, abs=1e-6)
        assert int(found["words"][at]) == len(own) + 1
        rows = [model.lm.table.weight[word] for word in own]
        text = sum(row / row.norm() for row in rows) / len(rows)
        assert torch.allclose(found["text"][at], text, atol=1e-12)
        image = prefix[0].mean(0)
        assert torch.allclose(found["image"][at], image / image.norm(), atol=1e-12)
    losses = method.loss(found, given, ALIGN)
    caption = -found["log_prob"].sum() / found["words"].sum()
    contrast = info_nce(found["image"], found["text"], 1 / TAU)
    assert float(losses.terms["captions"]) == pytest.approx(float(caption))
    assert float(losses.total) == pytest.approx(float(caption + contrast), abs=1e-5)


def test_alignment_trains_the_adapter_and_tau_and_contrast_never_the_table():
    method = made()
    given = batch(method, Toy(4))
    method.loss(method.encode(given, ALIGN), given, ALIGN).terms["contrast"].backward()
    assert method.model.lm.table.weight.requires_grad
    assert method.model.lm.table.weight.grad is None
    method.zero_grad(set_to_none=True)
    [align, _] = method.stages()
    freeze(method, align.lr_scale)
    method.loss(method.encode(given, ALIGN), given, ALIGN).total.backward()
    trained = {name for name, value in method.named_parameters() if value.grad is not None}
    assert {name.rpartition(".")[0] for name in trained} == {
        "scale",
        "model.adapter.0",
        "model.adapter.2",
    }


def test_without_contrast_training_is_that_of_captions_alone_bit_for_bit():
    def trained(contrast):
        method = made(contrast=contrast)
        given = batch(method, Toy(4))
        optimizer = torch.optim.AdamW(method.model.adapter.parameters(), lr=1e-2)
        for _ in range(3):
            losses = method.loss(method.encode(given, ALIGN), given, ALIGN)
            assert set(losses.terms) == {"captions", *(["contrast"] if contrast else [])}
            optimizer.zero_grad()
            losses.terms["captions"].backward()
            optimizer.step()
        return method.model.adapter.state_dict()

    captions_of_both = trained(1.0)
    for name, value in trained(0.0).items():
        assert torch.equal(value, captions_of_both[name])
    assert not any(value.requires_grad for value in made(contrast=0.0).scale.parameters())


@torch.no_grad()
def test_stop_words_and_lengths_may_be_left_out_of_the_means():
    plain = made()
    content = made(stop_words=False)
    source = Toy(3)
    given = batch(content, source)
    found = content.encode(given, ALIGN)
    words = content.model.words
    for at in range(3):
        said = [word for word in source[at].captions()[0].split() if word not in ("a", "on", "the")]
        rows = content.model.lm.table(torch.tensor(words.ids(" ".join(said))))
        assert torch.allclose(found["text"][at], unit_mean(rows), atol=1e-6)
    whole = plain.encode(batch(plain, source), ALIGN)
    assert torch.equal(found["log_prob"], whole["log_prob"])
    assert not torch.allclose(found["text"], whole["text"], atol=1e-3)
    normal = made(length_norm=True).encode(batch(plain, source), ALIGN)["text"]
    assert torch.allclose(normal, torch.nn.functional.normalize(whole["text"], dim=1))
    assert set(batch(made(stop_words=False, contrast=0.0), source).texts) == {"main"}


# ---- instruction


@torch.no_grad()
def test_instruction_counts_answers_and_their_ends_alone():
    method = made(template="ask: {} say:")
    source = asked(2)
    given = batch(method, source, INSTRUCT)
    words = method.model.words
    ids, _ = given.text.flat
    marks = given.text.marks.flatten(0, 1)
    turns = [("ask: how many? say:", "two"), ("ask: is it red? say:", "no")]
    row = [*words.before]
    expected = [-1]
    for read, said in turns:
        target = [*words.ids(said), *words.after]
        row += [*words.ids(read), *target]
        expected += [*[-1] * len(words.ids(read)), *target]
    length = method.model.room
    assert ids[0].tolist() == row[:length]
    assert marks[0].tolist() == expected[:length]
    found = method.encode(given, INSTRUCT)
    assert set(found) == {"log_prob", "words"}
    assert int(found["words"][0]) == sum(mark >= 0 for mark in expected[:length])
    assert set(method.loss(found, given, INSTRUCT).terms) == {"answers"}


def test_instruction_trains_adapter_and_language_model():
    method = made()
    [_, instruct] = method.stages()
    freeze(method, instruct.lr_scale)
    given = batch(method, asked(3), INSTRUCT)
    method.loss(method.encode(given, INSTRUCT), given, INSTRUCT).total.backward()
    trained = {
        name.split(".")[1] for name, value in method.named_parameters() if value.grad is not None
    }
    assert trained == {"adapter", "own"}
    assert not method.scale.value.requires_grad


def test_fractions_are_nested_and_of_instruction_alone():
    rows = [set(nested(400, share, 3).tolist()) for share in (0.01, 0.05, 0.1, 1.0)]
    assert [len(each) for each in rows] == [4, 20, 40, 400]
    assert rows[0] < rows[1] < rows[2] < rows[3]
    assert rows[1] != set(nested(400, 0.05, 4).tolist())
    method = made(fraction=0.5, draw=1)
    [align, instruct] = method.stages()
    source = asked(6)
    assert method.samples(align, "train", source) is source
    part = method.samples(instruct, "instructions", source)
    assert isinstance(part, Wrapped)
    assert list(part.keys()) == [source[int(at)].key for at in nested(6, 0.5, 1)]


def test_the_streams_that_are_given_say_which_stages_there_are():
    method = made()
    assert [stage.name for stage in method.stages()] == ["align", "instruct"]
    method.setup({"instructions": asked(2)})
    assert [stage.name for stage in method.stages()] == ["instruct"]
    with pytest.raises(InputError, match="unknown stream of cg_vlm 'instruction'"):
        method.setup({"instruction": asked(2)})
    recipe = {"lr": 2e-5, "batch_size": 8}
    assert made(instruction=recipe).stages()[1].recipe == recipe


def test_samples_without_an_image_are_left_out():
    toy = Toy(9, ("images.main", "texts.question", "texts.answer"), lacked=["images.main"])
    [_, instruct] = made().stages()
    rows = np.concatenate(instruct.plan_of("instructions")(toy, 0, 0, 2))
    assert sorted(rows.tolist()) == [at for at in range(9) if at % 3]


# ---- cached patches


@torch.no_grad()
def test_cached_patches_are_those_of_the_images(tmp_path):
    plain = made(grid=1)
    cached = made(grid=1, cached=True)
    source = Toy(6)
    cached.setup({"train": source})
    run = Run(cached, {"train": source}, ALIGN, torch.device("cpu"), out=tmp_path, batch_size=6)
    [stage] = cached.stages()
    stage.prepare(run)
    columns = run.columns["train"]
    assert columns[TOKENS].dtype == np.float16
    assert columns[TOKENS][:].shape == (6, 1, 32)
    given = batch(cached, WithColumns(source, columns))
    assert not given.images
    expected = plain.encode(batch(plain, source), ALIGN)
    found = cached.encode(given, ALIGN)
    for name in ("log_prob", "image", "text"):
        assert torch.allclose(found[name], expected[name], atol=0.05)
    with pytest.raises(InputError, match="leave augment out"):
        made(cached=True, augment={"flip": True})


# ---- what a run stores


@torch.no_grad()
def test_a_language_model_that_is_trained_is_stored_and_needs_its_folder_no_more(tmp_path):
    lm = foreign_lm(tmp_path / "lm", tokenizer())
    method = made(lm=lm)
    images = random_images(2)
    model = method.model.to_model(method.make.tokenizer, method.model.image.preprocess, "mine")
    expected = model.log_prob(images, ["red", "a bar"], ["which?", "what?"])
    shutil.rmtree(tmp_path / "lm")
    again = saved(method, tmp_path / "run")
    assert torch.equal(again.log_prob(images, ["red", "a bar"], ["which?", "what?"]), expected)
    stored = load_file(tmp_path / "run" / "model.safetensors")
    assert any(name.startswith("own.tower.") for name in stored)


@torch.no_grad()
def test_a_frozen_language_model_is_kept_by_name_and_checksum(tmp_path):
    lm = foreign_lm(tmp_path / "lm", tokenizer())
    method = made(lm=lm, tune="none")
    images = random_images(2)
    again = saved(method, tmp_path / "run")
    stored = load_file(tmp_path / "run" / "model.safetensors")
    assert {name.split(".")[0] for name in stored} == {"encoder", "adapter", "lent"}
    assert [name for name in stored if name.startswith("lent")] == ["lent.checksum"]
    model = method.model.to_model(method.make.tokenizer, method.model.image.preprocess, "mine")
    assert again.generate(images, strategy="greedy") == model.generate(images, strategy="greedy")
    assert not any(parameter.requires_grad for parameter in method.model.lm.parameters())
    shutil.rmtree(tmp_path / "lm")
    with pytest.raises(InputError, match="the language model cannot be loaded"):
        store.load(str(tmp_path / "run"))


def test_of_low_rank_factors_these_alone_are_trained_and_stored(tmp_path):
    lm = foreign_lm(tmp_path / "lm", tokenizer())
    tune = "lora:r=2:layers=q_proj+v_proj"
    method = made(lm=lm, tune=tune)
    [align, instruct] = method.stages()
    freeze(method, align.lr_scale)
    assert {name.split(".")[1] for name, p in method.named_parameters() if p.requires_grad} == {
        "value",
        "adapter",
    }
    freeze(method, instruct.lr_scale)
    given = batch(method, asked(3), INSTRUCT)
    before = method.encode(given, INSTRUCT)["log_prob"].detach()
    method.loss(method.encode(given, INSTRUCT), given, INSTRUCT).total.backward()
    trained = {name.split(".")[1] for name, p in method.named_parameters() if p.grad is not None}
    assert trained == {"adapter", "factors"}
    with torch.no_grad():
        for parameter in method.model.factors.parameters():
            parameter.add_(0.1)
    after = method.encode(given, INSTRUCT)["log_prob"].detach()
    assert not torch.allclose(before, after, atol=1e-3)
    again = saved(method, tmp_path / "run")
    stored = load_file(tmp_path / "run" / "model.safetensors")
    assert {name.split(".")[0] for name in stored} == {"encoder", "adapter", "lent", "factors"}
    assert sum(value.numel() for name, value in stored.items() if name.startswith("factors")) == (
        sum(parameter.numel() for parameter in method.model.factors.parameters())
    )
    images = random_images(2)
    model = method.model.to_model(method.make.tokenizer, method.model.image.preprocess, "mine")
    texts = ["red", "a bar"]
    assert torch.allclose(again.log_prob(images, texts), model.log_prob(images, texts), atol=1e-5)


# ---- from stage to stage


def test_instruction_goes_on_from_the_adapter_and_the_language_model_of_a_run(tmp_path):
    first = made(seed=1)
    start = saved(first, tmp_path / "run")
    second = make_method(CGVLM, seed=2, make=Make.of(start), lm="tiny-lm")
    for part in ("adapter", "own", "encoder"):
        given = getattr(first.model, part).state_dict()
        for name, value in getattr(second.model, part).state_dict().items():
            assert torch.equal(value, given[name]), (part, name)
    assert second.model.words == first.model.words
    with pytest.raises(InputError, match="the options that it was trained with"):
        make_method(CGVLM, make=Make.of(start), lm=LM, adapter="linear")


def test_factors_begin_behind_a_run_whose_language_model_was_frozen(tmp_path):
    words = tokenizer()
    lm = foreign_lm(tmp_path / "lm", words)
    start = saved(made(lm=lm, tune="none"), tmp_path / "first")
    tune = "lora:r=2:layers=q_proj+v_proj"
    second = make_method(CGVLM, make=Make.of(start), lm=lm, tune=tune)
    with torch.no_grad():
        for parameter in second.model.factors.parameters():
            parameter.fill_(0.3)
    third = make_method(CGVLM, make=Make.of(saved(second, tmp_path / "second")), lm=lm, tune=tune)
    assert all(
        float(value.detach().min()) == pytest.approx(0.3)
        for value in third.model.factors.parameters()
    )
    trained = saved(made(lm=lm), tmp_path / "third")
    with torch.no_grad():
        trained.captioner.lm.table.weight.add_(1.0)
    with pytest.raises(InputError, match="has trained its language model"):
        make_method(CGVLM, make=Make.of(trained), lm=lm, tune=tune)


def test_bad_options():
    with pytest.raises(InputError, match="has no place for a question"):
        made(template="ask")
    with pytest.raises(InputError, match="has learnt nothing yet"):
        made(tune="none")
    with pytest.raises(InputError, match="tune is 'all'"):
        made(lm="tiny-lm", tune="all")
    with pytest.raises(InputError, match="leave towers out"):
        made(lm="tiny-lm", tune="lora:towers=text")
    with pytest.raises(InputError, match="language model has no linear layer 'query'"):
        made(lm="tiny-lm", tune="lora:layers=query")
    with pytest.raises(InputError, match="lm=tiny is no language model"):
        made(lm="tiny")
    with pytest.raises(InputError, match="start from a model with an image tower"):
        make_method(CGVLM, make=small_make(image="none"), lm=LM)
