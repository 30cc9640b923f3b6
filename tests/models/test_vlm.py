"""A language model that reads an image first: as trained alone where there is none, the patches that it
reads, and heat."""

import math

import pytest
import torch
from tests.factories import IMAGE, foreign_lm, make_method, random_images, small_make, tokenizer
from tests.methods.fuse.cg_vlm_helpers import asked, saved

from diptych.errors import InputError
from diptych.evaluation.suites.answers import answers
from diptych.methods.store import load
from diptych.models.generate import generate
from diptych.models.language import LanguageModel
from diptych.models.vlm import PatchReader, last_real, patch_adapter
from diptych.towers.nn.parts import Temperature

LM = "text:width=32:depth=2:heads=2"


def made(**config):
    return make_method("cg_vlm", **{"lm": LM, **config}).eval()


def model_of(method):
    return method.model.to_model(method.make.tokenizer, method.model.image.preprocess, "mine")


def encoder(image=IMAGE):
    return small_make(image=image).dual(logit_scale=Temperature()).eval()


@torch.no_grad()
def test_probabilities_behind_an_image_are_those_of_word_after_word():
    model = model_of(made(template="ask: {}"))
    captioner = model.captioner
    words = captioner.words
    images = random_images(2)
    found = model.log_prob(images, ["red", "a blue bar"], ["which?", "what is it?"])
    for at, (question, text) in enumerate((("which?", "red"), ("what is it?", "a blue bar"))):
        tokens = captioner.encoder.image(images[at : at + 1])
        prefix = captioner.adapter(tokens.tokens[:, tokens.prefix :])
        ids = [*words.before, *words.ids(f"ask: {question}")]
        total = 0.0
        for word in [*words.ids(text), *words.after]:
            read = torch.cat([prefix, model.lm.table(torch.tensor([ids]))], 1)
            scores = model.lm.logits(model.lm(prefix=read)[0, -1]).tolist()
            total += scores[word] - math.log(sum(math.exp(score) for score in scores))
            ids.append(word)
        assert float(found[at]) == pytest.approx(total, abs=1e-3)


def test_without_images_it_is_the_language_model_alone():
    model = model_of(made())
    alone = LanguageModel(model.lm, model.captioner.words, name="alone")
    prompts = ["is it red?", "what is on the left of it?", "how many?"]
    texts = ["yes", "a bar", "two"]
    found = model.log_prob(None, texts, prompts, batch_size=2)
    assert torch.allclose(found, alone.log_prob(texts, prompts), atol=1e-5)
    said = model.generate(None, prompts, strategy="greedy", max_tokens=4)
    words = model.captioner.words
    for prompt, text in zip(prompts, said, strict=True):
        ids = torch.tensor([[*words.before, *words.ids(prompt)]])
        [expected] = generate(model.lm, ids, strategy="greedy", eot=words.eot, max_tokens=4)
        assert text == words.decode(expected).strip()
    assert not torch.allclose(found, model.log_prob(random_images(3), texts, prompts), atol=1e-3)
    with pytest.raises(InputError, match="give a list of prompts"):
        model.generate(None)


@torch.no_grad()
def test_rows_of_other_lengths_and_batches_change_nothing():
    model = model_of(made())
    images = random_images(3)
    prompts = ["is it red?", "what", "how many are there?"]
    together = model.log_prob(images, ["a", "blue bar", "two"], prompts)
    apart = [
        model.log_prob(images[at : at + 1], [text], [prompts[at]])
        for at, text in enumerate(("a", "blue bar", "two"))
    ]
    assert torch.allclose(together, torch.cat(apart), atol=1e-4)


@torch.no_grad()
def test_patches_are_after_the_last_layer_or_before_the_last_block_and_averaged():
    spec = "vit:image_size=32:patch=8:width=32:depth=2:heads=2"
    own = encoder(spec)
    images = random_images(2)
    image = own.image
    last, grid = PatchReader(own)(images)
    assert grid == (4, 4)
    assert torch.equal(last, image(images).patches)
    before, _ = PatchReader(own, layer="penultimate")(images)
    expected = image.transformer(image.embed(images), stop=1)[:, 1:]
    assert torch.allclose(before, expected, atol=1e-6)
    cells, grid = PatchReader(own, grid=2)(images)
    assert grid == (2, 2)
    square = last.unflatten(1, (4, 4))
    for row in range(2):
        for column in range(2):
            part = square[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.allclose(cells[:, 2 * row + column], part.mean((1, 2)), atol=1e-6)
    assert PatchReader(own, grid=2).shape == (4, 32)
    with pytest.raises(InputError, match="has 4 x 4 of them, which cannot be averaged to 5 x 5"):
        PatchReader(own, grid=5)(images)
    with pytest.raises(InputError, match="only a vit has tokens before its last block"):
        PatchReader(encoder("conv:image_size=32:widths=(8,16):depths=(1,1)"), layer="penultimate")


@torch.no_grad()
def test_heat_is_the_mean_cosine_of_a_patch_with_the_words_of_a_text():
    model = model_of(made())
    images = random_images(2)
    heat = model.heat(images, ["red", "a red bar"])
    assert heat.shape == (2, 2, 2, 2)
    captioner = model.captioner
    prefix = captioner.see(images)
    for k, text in enumerate(("red", "a red bar")):
        rows = captioner.lm.table(torch.tensor(captioner.words.ids(text)))
        for at in range(2):
            for place in range(4):
                each = [torch.cosine_similarity(prefix[at, place], row, dim=0) for row in rows]
                expected = sum(map(float, each)) / len(each)
                assert float(heat[at, k].flatten()[place]) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InputError, match="has no words"):
        model.heat(images, ["", "red"])


def test_an_image_that_fills_the_context_is_refused(tmp_path):
    words = tokenizer()
    spec = "vit:image_size=40:patch=4:width=32:depth=1:heads=2"
    lm = foreign_lm(tmp_path, words)
    method = make_method("cg_vlm", make=small_make(image=spec), lm=lm, tune="none")
    with pytest.raises(
        InputError, match="an image has 100 patches, and the language model reads 96"
    ):
        method.views(method.stages()[0])


def test_a_loaded_run_answers_questions(tmp_path):
    method = made(max_tokens=3)
    again = saved(method, tmp_path)
    assert again.validation.suite == "answers"
    assert answers(again, asked(4))["n"] == 8
    assert answers(again, asked(4), by="log_prob")["chance_chosen"] == 0.5
    images = random_images(2)
    assert torch.equal(again.embed_images(images), model_of(method).embed_images(images))
    assert again.fuse(images, ["a bar", "red"]).shape == (2, 32)
    with pytest.raises(InputError, match="one frame of each clip"):
        again.generate(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))


def test_a_tokenizer_of_another_language_model_is_refused(tmp_path):
    lent = made(lm="tiny-lm", tune="none").model
    lent.load_extra_state(lent.extra_state())
    with pytest.raises(InputError, match="another tokenizer than that of tiny-lm"):
        lent.load_extra_state({"lm_tokenizer": "other"})
    assert load("tiny-lm").tokenizer == lent.words


# ---- summaries


def test_the_last_real_token_is_found_under_any_padding():
    hidden = torch.arange(8.0).view(2, 4, 1)
    real = torch.tensor([[True, False, True, False], [False, True, True, True]])
    assert last_real(hidden, real).flatten().tolist() == [2.0, 7.0]


def test_adapters_of_patches():
    assert sum(p.numel() for p in patch_adapter("linear", 4, 6).parameters()) == 4 * 6 + 6
    assert sum(p.numel() for p in patch_adapter("mlp", 4, 6).parameters()) == 30 + 6 * 6 + 6


@pytest.mark.parametrize("kind", ["ours", "llama"])
@torch.no_grad()
def test_summaries_are_states_behind_each_prompt_as_read_alone(kind, tmp_path):
    lm = LM if kind == "ours" else foreign_lm(tmp_path / "lm", tokenizer())
    model = model_of(made(lm=lm, template="a {} on"))
    words = model.captioner.words
    prompts = ["the circle", "a bar"]
    images = random_images(3)
    texts = ["a red bar", "a", "a blue square"]
    of_images = model.summaries(prompts, images=images, batch_size=2)
    of_texts = model.summaries(prompts, texts=texts, batch_size=2)
    assert of_images.vectors.shape[:2] == of_images.entropy.shape == (2, 3)
    for k, prompt in enumerate(prompts):
        asked = words.ids(f"{prompt} on")
        for at in range(3):
            seen = model.captioner.see(images[at : at + 1])
            first = [*words.before, *words.ids("a ")]
            for found, prefix, ids in (
                (of_images, seen, [*first, *asked]),
                (of_texts, None, [*first, *words.ids(texts[at]), *asked]),
            ):
                state = model.lm(torch.tensor([ids]), prefix=prefix)[0, -1]
                assert torch.allclose(found.vectors[k, at], state, atol=1e-4)
                odds = model.lm.logits(state).softmax(-1)
                entropy = -float((odds * odds.log()).sum())
                assert float(found.entropy[k, at]) == pytest.approx(entropy, abs=1e-4)


def test_summaries_of_bad_input():
    model = model_of(made())
    with pytest.raises(InputError, match="the prompt '' has no words"):
        model.summaries(["a bar", ""], images=random_images(1))
    with pytest.raises(InputError, match="the text 'a red circle"):
        model.summaries(["a bar"], texts=["a red circle on the left " * 20])
