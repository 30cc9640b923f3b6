"""NEVLP's second stage with an encoder-decoder: a random T5 of transformers reads the queries and the
beginning of a text, and writes the rest."""

import json

import numpy as np
import pytest
import torch
from tests.factories import AT, random_images
from tests.methods.fuse.nevlp_helpers import NAMES, SIZES, asked, batch, first, second

from diptych.data.batch import Batch
from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.teacher import LentLM
from diptych.testing import Toy


def t5_folder(folder, words):
    """A random T5 whose words are those of a tokenizer."""
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=words.vocab_size, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
        decoder_start_token_id=words.pad, pad_token_id=words.pad, eos_token_id=words.eot,
        tie_word_embeddings=False, initializer_factor=6.0,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(words.pipeline)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64})
    )
    return f"hf-lm:{folder}"


@pytest.fixture(scope="module")
def start():
    return first()


@pytest.fixture(scope="module")
def lm(start, tmp_path_factory):
    return t5_folder(tmp_path_factory.mktemp("t5") / "lm", start.tokenizer)


def parts(row):
    """What the encoder reads and what is written, of a row of the view: ids before the marks, and the
    marked ones."""
    return row.ids[: row.marks.count(-1)], [mark for mark in row.marks if mark >= 0]


def test_the_beginning_of_a_caption_is_read_and_the_rest_written(start, lm):
    made = second(start, lm=lm, concepts=0)
    words = made.model.words
    assert words.before == (words.pad,)
    view = made.views(made.stages()[0])[1]
    assert view.encoder
    text = Toy(1)[0].captions()[0]
    whole = [*words.ids(text), *words.after]
    splits = set()
    for seed in range(30):
        [row] = view(Toy(1)[0], np.random.default_rng(seed), 0.5)["texts.main"]
        read, written = parts(row)
        assert [*read, *written] == whole
        assert len(written) > 1  # a token of the text at least, and its end
        splits.add(len(read))
    assert len(splits) > 3
    [row] = view(Toy(1)[0], np.random.default_rng(0), None)["texts.main"]
    assert parts(row) == ([], whole)  # not in evaluation
    answers = second(start, "answers", lm=lm, concepts=0)
    [row] = answers.views(answers.stages()[0])[1](asked()[0], np.random.default_rng(0), 0.5)[
        "texts.main"
    ]
    question = words.ids("Question: how many? Answer:")
    assert parts(row) == (question, [*words.ids("two"), *words.after])


@torch.no_grad()
@pytest.mark.parametrize("task", ["captions", "answers"])
def test_the_loss_is_that_of_transformers(start, lm, task):
    import transformers

    made, source = second(start, task, lm=lm), asked()
    given = batch(made, source)
    assert isinstance(given, Batch)
    found = made.encode(given, AT)
    t5 = transformers.T5ForConditionalGeneration.from_pretrained(lm.removeprefix("hf-lm:")).eval()
    bridge = made.model
    ids, lengths = given.text.flat
    marks = given.text.marks.flatten(0, 1)
    for at in range(len(source)):
        written = marks[at][marks[at] >= 0]
        end = torch.tensor(bridge.words.after)
        read = torch.cat([ids[at, : lengths[at] - len(written)], end])
        tokens = bridge.norm(bridge.encoder.encode_image(given.image.flat[at : at + 1]).tokens)
        soft = bridge.projection(bridge.qformer(memory=tokens).tokens)
        given_ = torch.cat([soft, t5.shared(read)[None]], 1)
        loss = t5(inputs_embeds=given_, labels=written[None]).loss  # a mean over tokens
        assert float(found["log_prob"][at]) == pytest.approx(-float(loss) * len(written), rel=1e-4)
        assert int(found["words"][at]) == len(written)


def test_queries_are_trained_through_the_frozen_encoder(start, lm):
    made = second(start, lm=lm)
    made.loss(made.encode(batch(made, Toy(4)), AT), None, AT).total.backward()
    trained = {
        name.split(".")[1] for name, value in made.named_parameters() if value.grad is not None
    }
    assert trained == {"qformer", "norm", "projection"}
    assert all(value.grad.abs().sum() > 0 for value in made.parameters() if value.requires_grad)
    assert all(value.grad is None for value in made.model.lm.parameters())


@torch.no_grad()
def test_a_saved_run_writes_and_answers_as_transformers_does(start, lm, tmp_path):
    import transformers

    made, images = second(start, lm=lm), random_images(2)
    model = made.model.to_model(made.make.tokenizer, made.model.preprocess, "mine")
    prompts = ["a red", "the bar is a"]
    said = model.generate(images, prompts, strategy="greedy", max_tokens=4)
    t5 = transformers.T5ForConditionalGeneration.from_pretrained(lm.removeprefix("hf-lm:")).eval()
    words = made.model.words
    seen = made.model.see(images)
    for at, prompt in enumerate(prompts):
        concepts = ", ".join(model.concepts(images)[at])
        assert set(concepts.split(", ")) <= set(NAMES)
        read = torch.tensor([*words.ids(f"{concepts}. {prompt}"), *words.after])
        soft = made.model.soft_prompt(seen.tokens[at : at + 1])
        out = t5.generate(
            inputs_embeds=torch.cat([soft, t5.shared(read)[None]], 1),
            do_sample=False, num_beams=1, max_new_tokens=4,
        )  # fmt: skip
        ids = [id for id in out[0, 1:].tolist() if id != words.eot]
        assert said[at] == words.decode(ids).strip()
    options = {**SIZES, "concepts": 2, "task": "captions", "lm": lm}
    description = store.describe(
        "nevlp", options, made.model, made.make.tokenizer, made.model.preprocess
    )
    store.save_model(tmp_path, description, made.model.state_dict())
    again = store.load(str(tmp_path))
    assert again.generate(images, prompts, strategy="greedy", max_tokens=4) == said
    known = model.log_prob(images, ["a bar"] * 2, prompts)
    assert torch.allclose(again.log_prob(images, ["a bar"] * 2, prompts), known)
    with pytest.raises(InputError, match="shorten it"):
        model.generate(images, ["red " * 80] * 2)


def test_other_methods_say_that_they_take_no_encoder_decoder(lm):
    with pytest.raises(InputError, match="encoder-decoder"):
        _ = LentLM(lm).model
    with pytest.raises(InputError, match="no causal language model"):
        store.load(lm)
