"""VladVA's model: what stands where, the room that prompts leave, its encoder, and the template."""

import pytest
import torch
from tests.factories import random_images
from tests.methods.fuse.vladva_helpers import base, made, model_of

from diptych.data.tokenizers import pad_batch
from diptych.errors import InputError
from diptych.models.export import reason


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return base(tmp_path_factory.mktemp("vladva") / "run")


@torch.no_grad()
def test_prompts_stand_in_the_template_behind_the_image_and_the_caption(start):
    model = made(start, template="on {} of", moved=True).model
    words = model.words
    table = model.lm.table.weight
    prefix = torch.randn(2, 4, 32)
    tokens = model.image_tokens(prefix)
    head = [*words.before, *words.ids("on ")]
    tail = words.ids("the circle of")
    expected = torch.cat([prefix[1], table[head], model.soft["image"], table[tail]])
    assert torch.equal(tokens[1], expected)
    assert model.length("image") == len(expected)
    row = [*words.before, *words.ids("a red bar"), *words.after]
    ids, lengths = pad_batch([row, [*words.before, *words.ids("a"), *words.after]], words)
    tokens, real = model.text_tokens(ids, lengths)
    own = table[words.ids("a red bar")]
    expected = torch.cat([table[head], own, model.soft["text"], table[words.ids("a bar of")]])
    assert torch.equal(tokens[0][real[0]], expected)
    assert int(real[1].sum()) == len(expected) - len(own) + 1 == model.length("text") + 1


def test_the_tokenizer_leaves_room_for_the_prompt(start):
    model = made(start).model
    short, long = model.rooms
    assert model.lm.context == 28
    assert short == min(28 - model.length("text"), model.words.room)
    assert long == 28 - model.length("image") - 1
    found = made(start, text_prompt="a circle on the left of a red square")
    embeds = model_of(found)
    assert found.model.captions.room == 28 - found.model.length("text")
    text = "a red bar on the left " * 9
    row = embeds.tokenizer.encode([text])[0]
    tokens, real = found.model.text_tokens(torch.tensor([row]), torch.tensor([len(row)]))
    assert tokens.shape[1] == 28
    assert bool(real.all())
    assert embeds.embed_texts([text]).shape == (1, 32)


@torch.no_grad()
def test_the_model_embeds_in_the_space_of_the_states(start):
    model = model_of(made(start, moved=True))
    images = random_images(3)
    found = model.embed_images(images, batch_size=2)
    assert found.shape == (3, 32)
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-6)
    assert model.represent(images).patches.shape == (3, 4, 32)
    model.set_classes(["bar", "circle"])
    assert model.class_logits(images).shape == (3, 2)
    assert float(model.encoder.logit_scale()) == pytest.approx(1 / 0.07, rel=1e-5)
    assert model.fuse(images, ["a bar"] * 3).shape == (3, 32)
    assert model.identity != model_of(made(start, seed=1)).identity
    assert reason(model, "openclip") is not None


def test_a_prompt_that_leaves_no_room_is_refused(start):
    with pytest.raises(InputError, match=r"the text side takes \d+ without a caption"):
        _ = made(start, text_prompt="a circle on the left " * 8).model.rooms
