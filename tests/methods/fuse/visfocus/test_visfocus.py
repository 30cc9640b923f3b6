"""VisFocus: masked prompts by the published figures, what the two readers of a prompt get, the loss
against a slow reference, stages, and what a run stores."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.factories import random_images
from tests.methods.fuse.visfocus.helpers import (
    AT,
    IMAGE,
    PAGE,
    batch,
    made,
    pages,
    saved,
    t5_folder,
    words,
)

from diptych.data.sample import BadSample, Sample, Text
from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.fuse.visfocus import VisFocus
from diptych.methods.fuse.visfocus.prompts import PromptEncoder, translated
from diptych.methods.fuse.visfocus.views import AskView, VisionView
from diptych.methods.make import Make
from diptych.testing import Toy
from diptych.training.optim import freeze

# ---- prompts


def masked(method, seed=0):
    """The ids of a masked piece of the page, of its target, and of the prompt for the tower."""
    stage = next(each for each in method.stages() if each.name == "lmpm")
    view = method.views(stage)[1]
    found = view(pages(1)[0], np.random.default_rng(seed), 0.5)
    return [found[f"texts.{name}"][0] for name in ("prompt", "prompt_target")]


def test_a_masked_prompt_has_the_published_lengths():
    vocabulary = words()
    sentinels = {vocabulary.special_id(f"extra_id_{at}") for at in range(10)}
    page = Sample(key="a", source="t", texts=[Text(text=PAGE * 3, role="ocr")])
    method = made(prompted=())
    view = method.views(method.stages()[1])[1]
    for seed in range(5):
        found = view(page, np.random.default_rng(seed), 0.5)
        [prompt], [target] = (found[f"texts.{name}"] for name in ("prompt", "prompt_target"))
        own = prompt[len(vocabulary.before) :]
        assert len(own) == 44 + len(vocabulary.after)  # 50 - 8 + 2
        assert len(target) - len(vocabulary.before) == 8 + 2 + 1 + len(vocabulary.after)
        assert sum(number in sentinels for number in own) == 2


def test_the_page_keeps_its_text_and_the_prompt_is_a_piece_of_it():
    vocabulary = words()
    names = {vocabulary.special_id(f"extra_id_{at}"): at for at in range(10)}
    method = made(snippet=12, prompted=())
    whole = vocabulary.ids(PAGE)
    starts = set()
    for seed in range(20):
        prompt, target = masked(method, seed)
        spans, current = {}, None
        for number in target[len(vocabulary.before) : -len(vocabulary.after)]:
            current = names.get(number, current)
            if number not in names:
                spans.setdefault(current, []).append(number)
        piece = []
        for number in prompt[len(vocabulary.before) : -len(vocabulary.after)]:
            piece += spans[names[number]] if number in names else [number]
        assert len(piece) == 12
        places = [at for at in range(len(whole) - 11) if whole[at : at + 12] == piece]
        assert places
        starts.update(places)
    assert len(starts) > 3
    stages = {stage.name: method.views(stage)[0] for stage in method.stages()}
    seen = {
        name: view(pages(1)[0], np.random.default_rng(0), 0.5)["images.main"]
        for name, view in stages.items()
    }
    page = method.model.image.preprocess(pages(1)[0].images["main"].decode())
    assert all(torch.equal(each[0], page) for each in seen.values())


def test_a_question_comes_with_one_of_its_answers():
    vocabulary = words()
    view = AskView(tokenizer=vocabulary)
    sample = pages(1)[0]
    found = view(sample, np.random.default_rng(0), None)
    assert found["texts.prompt"] == vocabulary.encode(["who sat?"])
    assert found["texts.prompt_target"] == vocabulary.encode(["the cat"])
    drawn = {
        tuple(view(sample, np.random.default_rng(seed), 0.5)["texts.prompt_target"][0])
        for seed in range(20)
    }
    assert drawn == {tuple(row) for row in vocabulary.encode(["the cat", "a red cat"])}
    with pytest.raises(BadSample, match="no question"):
        view(Toy(1)[0], np.random.default_rng(0), 0.5)
    with pytest.raises(BadSample, match="more than the context"):
        AskView(tokenizer=words(context=6))(sample, np.random.default_rng(0), 0.5)


def test_the_encoder_of_prompts_reads_the_same_prompt_in_its_own_tokenizer():
    one, other = words(), words(special="")
    sample = pages(1)[0]
    method = made(prompted=())
    asked = method.views(method.stages()[1])[1]
    view = VisionView(tokenizer=other, of=asked)
    for seed in range(5):
        prompt = asked(sample, np.random.default_rng(seed), 0.5)["texts.prompt"][0]
        [found] = view(sample, np.random.default_rng(seed), 0.5)["texts.vision"]
        assert found == translated(prompt, one, other)
        assert other.decode(found).count("_") == sum(
            number in one.special.values() for number in prompt
        )
    assert translated(prompt, one, words()) == prompt  # a tokenizer with sentinels keeps them
    with pytest.raises(BadSample, match="its encoder reads 5"):
        VisionView(tokenizer=words("", 5), of=asked)(sample, np.random.default_rng(0), 0.5)


@torch.no_grad()
def test_states_of_a_prompt_do_not_depend_on_padding_and_have_no_gradient():
    for spec in ("tiny-lm", "t5:width=16:depth=1:heads=2", "text:width=16:depth=1:heads=2"):
        torch.manual_seed(0)
        encoder = PromptEncoder(spec, words()).train()
        vocabulary = encoder.tokenizer
        rows = vocabulary.encode(["a cat", "two old birds"])
        whole = torch.full((2, 12), vocabulary.pad)
        for at, row in enumerate(rows):
            whole[at, : len(row)] = torch.tensor(row)
        states, mask = encoder(whole, torch.tensor([len(row) for row in rows]))
        for at, row in enumerate(rows):
            alone, real = encoder(torch.tensor([row]), torch.tensor([len(row)]))
            assert bool(real.all())
            assert int(mask[at].sum()) == alone.shape[1]
            assert torch.allclose(states[at, : alone.shape[1]], alone[0], atol=1e-5)
        assert states.shape[-1] == encoder.width
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        if encoder.own is not None:
            assert not encoder.own.training


# ---- a step


@torch.no_grad()
@pytest.mark.parametrize("stage", ["read", "lmpm", "answer"])
@pytest.mark.parametrize("spec", [None, "t5:width=32:depth=1:heads=2"])
def test_log_probabilities_are_those_of_a_slow_reference(stage, spec):
    method = made(lm=spec).double()
    model, vocabulary = method.model, method.model.words
    given = batch(method, stage)
    found = method.encode(given, AT[stage])
    start = len(vocabulary.before)
    for row in range(3):
        pixels = given.image.flat[row : row + 1]
        parts, states = [], {}
        if stage != "read":
            n = int(given.texts["prompt"].lengths[row, 0])
            ids = given.texts["prompt"].ids[row, 0, start:n]
            parts.append(model.lm.table.weight[ids])  # embeddings as they are, of the LM's table
            m = int(given.texts["vision"].lengths[row, 0])
            alone = model.prompts.lm(given.texts["vision"].ids[row, :, :m])
            states = {"prompt": alone.double()}
        parts.append(model.projector(model.image(pixels, **states).tokens)[0])
        parts.append(model.tasks.weight[["read", "lmpm", "answer"].index(stage)][None])
        x = torch.cat(parts)[None]
        memory = model.lm.encode(x, torch.ones(x.shape[:2], dtype=torch.bool))
        length = int(given.texts["prompt_target"].lengths[row, 0])
        target = given.texts["prompt_target"].ids[row, 0, :length]
        total = 0.0
        for at in range(start, length):
            state = model.lm.start(target[None, :at], None, memory)
            total += float(state.logits[0].log_softmax(-1)[target[at]])
        assert float(found["log_prob"][row]) == pytest.approx(total, abs=1e-9)
        assert int(found["words"][row]) == length - start
    loss = method.loss(found, given, AT[stage])
    expected = -float(found["log_prob"].sum() / found["words"].sum())
    assert float(loss.total) == pytest.approx(expected, abs=1e-12)


def test_rho_is_drawn_for_a_batch_and_outside_training_prompts_are_read():
    method = made(rho=0.5)
    assert method.shows(AT["lmpm"])
    method.train()
    steps = [replace(AT["lmpm"], step=step) for step in range(400)]
    drawn = [method.shows(at) for at in steps]
    assert 150 < sum(drawn) < 250
    assert drawn == [method.shows(at) for at in steps]
    assert method.shows(AT["answer"])
    for rho, shown in ((0.0, False), (1.0, True)):
        assert made(rho=rho).train().shows(AT["lmpm"]) == shown
    assert made(rho=0.0, prompted=()).train().shows(AT["lmpm"])  # nothing else would tell


def test_without_the_prompt_the_language_model_reads_the_page_alone():
    method = made(rho=0.0)
    given = batch(method, "lmpm")
    shown = method.encode(given, AT["lmpm"])["log_prob"]
    method.train()
    hidden = method.encode(given, AT["lmpm"])["log_prob"]
    model = method.model
    memory, mask = model.read(given.image.flat, "lmpm", None, given.texts["vision"].flat)
    assert bool(mask.all())
    assert mask.shape[1] == 4 + 1  # the page and the task
    expected = model.lm.log_prob(
        *given.texts["prompt_target"].flat, memory=memory, memory_mask=mask
    )
    assert torch.allclose(hidden, expected)
    assert not torch.allclose(hidden, shown, atol=1e-4)


def test_the_tower_reads_states_and_the_language_model_its_own_table():
    method = made()
    model = method.model
    rows = words().encode(["who sat?", "two birds?"])
    vision = model.vision_rows(rows, ["who sat?", "two birds?"])
    images = random_images(1).expand(2, -1, -1, -1)
    ids = model._ids(vision, model.prompts.tokenizer)
    states = model._states(ids)
    assert not states["prompt"].requires_grad
    seen = model.image(images, **states).tokens
    assert not torch.allclose(seen[0], seen[1], atol=1e-4)  # what is seen depends on the question
    with torch.no_grad():
        model.lm.table.weight.add_(1.0)
    assert torch.equal(model.image(images, **model._states(ids)).tokens, seen)
    memory, _ = model.read(images, "answer", model._ids(rows, model.words), ids)
    memory.sum().backward()
    assert model.lm.table.weight.grad is not None
    assert not any(name.startswith("model.prompts") for name, _ in method.named_parameters())


def test_each_stage_trains_what_it_reads():
    method = made()
    for stage in method.stages():
        freeze(method, stage.lr_scale)
        trained = any(
            parameter.requires_grad for parameter in method.model.image.vilma.parameters()
        )
        assert trained == (stage.name != "read")
        assert method.model.image.swin.patch_embed.proj.weight.requires_grad
    alone = made(task="read")
    assert not any("vilma" in name for name, _ in alone.named_parameters())
    assert alone.model.prompts is None


def test_a_run_has_the_stages_of_its_streams():
    method = made()
    assert [stage.name for stage in method.stages()] == ["read", "lmpm", "answer"]
    method.setup({"train": pages()})
    assert [stage.name for stage in method.stages()] == ["read", "lmpm"]
    method.setup({"questions": pages()})
    assert [stage.name for stage in method.stages()] == ["answer"]
    with pytest.raises(InputError, match="unknown stream of visfocus 'question'"):
        method.setup({"question": pages()})
    with pytest.raises(InputError, match=r"give --data questions=SOURCE"):
        made(task="answer").setup({"train": pages()})
    focused = made(task="lmpm", focusing={"lr": 0.5}, answering={"lr": 0.1})
    focused.setup({"train": pages(), "questions": pages()})
    assert [(stage.name, stage.recipe) for stage in focused.stages()] == [("lmpm", {"lr": 0.5})]


def test_a_target_that_is_cut_has_no_end():
    method = made(words=words(context=12), prompted=())
    given = batch(method, "read")
    found = method.encode(given, AT["read"])
    assert found["words"].tolist() == [10, 10, 10]  # of 12, without the start and the end


# ---- runs


@torch.no_grad()
def test_a_saved_run_writes_as_it_did(tmp_path):
    method = made()
    model = method.model.to_model(method.make.words, method.model.image.preprocess, "it")
    again = saved(method, tmp_path)
    images = random_images(2)
    asked = ["who sat?", "who sat on a mat on a mat?"]
    how = {"strategy": "greedy", "max_tokens": 4}
    assert again.generate(images, asked, **how) == model.generate(images, asked, **how)
    scores = again.log_prob(images, ["the cat", "a bird"], asked)
    alone = [
        again.log_prob(images[at : at + 1], [text], [asked[at]])
        for at, text in enumerate(["the cat", "a bird"])
    ]
    assert torch.allclose(scores, torch.cat(alone), atol=1e-5)  # not of who else is asked
    assert torch.allclose(scores, model.log_prob(images, ["the cat", "a bird"], asked), atol=1e-6)
    assert torch.allclose(again.embed_images(images), model.embed_images(images), atol=1e-6)
    assert again.fuse(images, asked).shape == (2, 32)


@torch.no_grad()
def test_without_a_question_the_instruction_is_read():
    method = made()
    model = method.model.to_model(method.make.words, method.model.image.preprocess, "it")
    images = random_images(2)
    told = [method.config.instruction] * 2
    empty = model.log_prob(images, ["a", "b"], ["", "  "])
    assert torch.equal(empty, model.log_prob(images, ["a", "b"], told))
    reader = method.model
    memory = reader.prompted(images, None).memory
    rows = reader.rows(told)
    vision = reader._ids(reader.vision_rows(rows, told), reader.prompts.tokenizer)
    expected, _ = reader.read(images, "read", reader._ids(rows, reader.words), vision)
    assert torch.equal(memory, expected)
    seen = reader.image(images, **reader._states(vision)).pooled
    assert torch.allclose(
        model.embed_images(images), torch.nn.functional.normalize(seen, dim=-1), atol=1e-6
    )
    plain = made(task="read").model
    memory = plain.prompted(images, None).memory
    assert torch.equal(memory, plain.read(images, "read")[0])


def test_questions_beyond_a_context_are_refused():
    long = "who sat on a mat? " * 30
    model = made().model
    with pytest.raises(InputError, match=r"the language model reads 62 of a question; shorten it"):
        model.prompted(random_images(1), [long])
    model = made(words=words(context=1024)).model
    with pytest.raises(InputError, match=r"the prompt encoder reads 128; shorten it"):
        model.prompted(random_images(1), [long])


def test_a_run_goes_on_from_another(tmp_path):
    first = made(task="read")
    start = saved(first, tmp_path / "read")
    torch.manual_seed(5)
    config = {"prompted": (2, 3), "dropout": 0.0}
    second = VisFocus.of(VisFocus.configure({**config, "task": "lmpm"}), Make.of(start))
    assert sorted(second.model.image.vilma) == ["2", "3"]
    state = second.model.state_dict()
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    focused = saved(second, tmp_path / "lmpm")
    third = VisFocus.of(VisFocus.configure({**config, "task": "answer"}), Make.of(focused))
    for name, value in third.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    make = Make.of(focused)
    with pytest.raises(InputError, match=r"has prompted=\(2, 3\), and \(1, 2, 3\) is asked for"):
        VisFocus.of(VisFocus.configure({"prompted": (1, 2, 3)}), make)
    with pytest.raises(InputError, match="leave out --method.prompted"):
        VisFocus.of(VisFocus.configure({"prompted": ()}), make)
    options = VisFocus.configure({**config, "lm": "t5:width=32:depth=1:heads=2"})
    with pytest.raises(InputError, match="another kind, or with another tokenizer"):
        VisFocus.of(options, make)
    with pytest.raises(InputError, match="start from none but a run of visfocus"):
        VisFocus.of(VisFocus.configure({}), Make.of(store.load("tiny")))


@torch.no_grad()
def test_a_t5_writes_and_a_t5_reads_prompts(tmp_path):
    lm = t5_folder(tmp_path / "lm", words())
    method = made(lm=f"{lm}:context=48", prompt=lm)
    vocabulary = method.model.words
    assert method.make.words == vocabulary
    assert vocabulary.before == (vocabulary.pad,)
    assert vocabulary.special_id("extra_id_3")
    assert (vocabulary.context, method.model.prompts.tokenizer.context) == (48, 64)
    given = batch(method, "lmpm")
    assert "vision" not in given.texts  # both have the same ids
    found = method.encode(given, AT["lmpm"])
    assert bool(torch.isfinite(found["log_prob"]).all())
    again = saved(method, tmp_path / "run")
    images, asked = random_images(2), ["who sat?", "who sat on a mat?"]
    expected = again.log_prob(images, ["the cat", "a bird"], asked)
    kept = load_file(tmp_path / "run" / "model.safetensors")
    assert [name for name in kept if name.startswith("prompts.")] == ["prompts.lent.checksum"]
    # the language model is a part of the run, the encoder of prompts is not
    changed = t5_folder(tmp_path / "other", words())
    assert torch.allclose(
        store.load(str(tmp_path / "run")).log_prob(images, ["the cat", "a bird"], asked), expected
    )
    shutil.rmtree(tmp_path / "lm")
    with pytest.raises(InputError, match="cannot be loaded"):
        store.load(str(tmp_path / "run")).log_prob(images, ["a", "b"], asked)
    shutil.copytree(tmp_path / "other", tmp_path / "lm")
    assert torch.allclose(
        store.load(str(tmp_path / "run")).log_prob(images, ["the cat", "a bird"], asked), expected
    )
    vocabulary_file = tmp_path / "lm" / "tokenizer_config.json"
    vocabulary_file.write_text(vocabulary_file.read_text().replace("64", "32"))
    with pytest.raises(InputError, match="trained with another tokenizer"):
        store.load(str(tmp_path / "run")).log_prob(images, ["a", "b"], asked)
    assert changed


def test_a_new_prompt_encoder_is_warned_of_and_stored(tmp_path):
    method = made(prompt="text:width=16:depth=1:heads=2")
    read, focus, answer = method.stages()
    assert read.prepare is None
    told = []
    for stage in (focus, answer):
        stage.prepare(SimpleNamespace(warn=told.append))
    assert all("is new, and is not trained" in line for line in told)
    assert made().stages()[1].prepare is None
    again = saved(method, tmp_path)
    for name, value in method.model.prompts.state_dict().items():
        assert torch.equal(value, again.captioner.prompts.state_dict()[name])
    assert any(name.startswith("own.") for name in method.model.prompts.state_dict())


def test_a_prompt_encoder_of_another_width_is_refused():
    method = made(image=IMAGE + ":prompt_width=48:prompted=(1, 2, 3)")
    with pytest.raises(InputError, match="reads prompts of width 48, and tiny-lm gives 128"):
        method.setup({"train": pages()})
    with pytest.raises(InputError, match="leave out context"):
        made(prompt="t5:t5-base:context=99")
    with pytest.raises(InputError, match="give it some words"):
        made(instruction=" ")
    with pytest.raises(InputError, match=r"there are the stages 1 to 3"):
        made(prompted=(4,))
    with pytest.raises(InputError, match=r"visfocus\.swin"):
        made(image="vit:image_size=32:patch=8:width=32:depth=1:heads=2")
