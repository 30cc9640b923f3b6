"""Learnt prompts: the published counts and identities, where vectors stand, names that were not
trained on."""

import pytest
import torch
from tests.factories import random_images
from tests.methods.adapt.helpers import CLIP_B16, NAMES, learnt, method, zero_shot

from diptych.errors import InputError
from diptych.methods.make import Make
from diptych.methods.registry import method_class
from diptych.models.class_names import split_prompt


@pytest.mark.parametrize(
    ("name", "config", "count"),
    [
        ("maple", {"depth": 9}, 3_555_072),
        ("maple", {"depth": 3}, 1_185_024),
        ("maple", {"depth": 1}, 395_008),
        ("ivlp", {}, 30_720),
        ("coop", {"n_ctx": 16, "init_from_template": False}, 8_192),
        ("cocoop", {}, 35_360),
    ],
)
def test_as_many_numbers_are_learnt_as_published(name, config, count):
    from diptych.data.tokenizers import build

    with torch.device("meta"):
        cls = method_class(name)
        make = Make(**CLIP_B16, tokenizer=build("clip"))
        made = cls(cls.configure(config), make)
    assert learnt(made) == count


@pytest.mark.parametrize(
    ("name", "config"),
    [("coop", {}), ("maple", {"depth": 1}), ("ivlp", {"depth": 1, "image_depth": 1})],
)
def test_vectors_that_begin_as_words_give_the_zero_shot_classes(name, config):
    made = method(name, **config)
    with torch.no_grad():
        torch.testing.assert_close(
            made.model.text_features(), zero_shot(made), atol=1e-5, rtol=1e-5
        )
        made.model.set_classes(["a green triangle", "bar"])  # names that were not trained on
        torch.testing.assert_close(
            made.model.text_features(), zero_shot(made), atol=1e-5, rtol=1e-5
        )


def test_cocoop_without_shift_is_coop():
    coop, cocoop = method("coop"), method("cocoop")
    torch.nn.init.zeros_(cocoop.model.meta[2].weight)
    torch.nn.init.zeros_(cocoop.model.meta[2].bias)
    cocoop.model.load_state_dict({**cocoop.model.state_dict(), **coop.model.state_dict()})
    with torch.no_grad():
        torch.testing.assert_close(
            cocoop.model(random_images()), coop.model(random_images()), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("prompts", [1, 5, 1000])
def test_prompts_of_pairs_are_the_same_in_chunks_with_their_gradients(prompts):
    made = method("cocoop", prompts=prompts)
    logits = made.model(random_images())
    one_by_one = torch.cat([made.model(each[None]) for each in random_images()])
    torch.testing.assert_close(logits, one_by_one, atol=1e-4, rtol=1e-4)
    logits.square().sum().backward()
    whole = method("cocoop")
    whole.model(random_images()).square().sum().backward()
    torch.testing.assert_close(
        made.model.context.grad, whole.model.context.grad, rtol=1e-3, atol=1e-3
    )


def test_image_prompts_stand_last_and_their_number_stays():
    made = method("maple", depth=3)
    lengths = []
    tower = made.model.encoder.image
    for layer in tower.transformer.layers:
        layer.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    with torch.no_grad():
        made.model.image_features(random_images())
    assert lengths == [1 + 4 + 2] * 3


def test_deep_prompts_reach_the_loss_through_both_towers():
    """Without the coupling's gradient the text path's is what it was: the sum of two paths."""
    made = method("maple", depth=3)
    x, y = random_images(3), torch.tensor([0, 1, 2])

    def gradient(detached):
        made.zero_grad()
        prompts = type(made.model).image_prompts
        if detached:
            made.model.image_prompts = lambda: [vectors.detach() for vectors in prompts(made.model)]
        else:
            made.model.__dict__.pop("image_prompts", None)
        torch.nn.functional.cross_entropy(made.model(x), y).backward()
        return made.model.deep[0].grad.clone()

    both, text = gradient(False), gradient(True)
    features = made.model.text_features().detach()
    made.zero_grad()
    made.model.__dict__.pop("image_prompts", None)
    logits = made.model.encoder.logit_scale() * made.model.image_features(x) @ features.T
    torch.nn.functional.cross_entropy(logits, y).backward()
    torch.testing.assert_close(both, text + made.model.deep[0].grad, rtol=1e-3, atol=1e-5)


def test_one_sided_prompts_leave_the_other_tower_as_it_is():
    """VPT and deep language prompting."""
    visual = method("ivlp", n_ctx=0, depth=3, image_n_ctx=2, image_depth=3)
    language = method("ivlp", n_ctx=2, depth=3, image_n_ctx=0, image_depth=3)
    assert learnt(visual) == 3 * 2 * 64
    assert learnt(language) == 3 * 2 * 32
    x = random_images()
    with torch.no_grad():
        torch.testing.assert_close(
            visual.model.text_features(), zero_shot(visual), atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            language.model.image_features(x), language.model.encoder.embed_images(x)
        )
    for made in (visual, language):
        torch.nn.functional.cross_entropy(made.model(x), torch.tensor([0, 1, 2, 0])).backward()
        assert all(p.grad is not None for p in made.parameters() if p.requires_grad)
    with pytest.raises(InputError, match="nothing to learn"):
        method("ivlp", n_ctx=0, image_n_ctx=0)


def test_hidden_image_prompts_leave_the_zero_shot_vector(monkeypatch):
    """With the prompts' keys masked at every block the image is what it was (the published check)."""
    made = method("maple", depth=3)
    tower, x = made.model.encoder.image, random_images()
    blocks = tower.blocks
    seen = torch.tensor([[True] * 5 + [False] * 2]).expand(4, -1)
    with torch.no_grad():
        plain = made.model.encoder.embed_images(x)
        assert not torch.allclose(made.model.image_features(x), plain, atol=1e-4)
        monkeypatch.setattr(
            tower, "blocks", lambda tokens, edit=None, mask=None: blocks(tokens, edit, mask=seen)
        )
        torch.testing.assert_close(made.model.image_features(x), plain, atol=1e-5, rtol=1e-5)


def test_coupling_functions_of_later_blocks_begin_equal():
    couple = method("maple", depth=3).model.couple
    assert torch.equal(couple[1].weight, couple[2].weight)
    assert couple[1].weight is not couple[2].weight
    assert not torch.equal(couple[0].weight, couple[1].weight)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_the_name_stands_where_it_should(position):
    made = method("coop", n_ctx=4, init_from_template=False, position=position)
    words = made.model.tokenizer
    for row, slots, name in zip(made.model.ids, made.model.slots, NAMES, strict=True):
        kept = [
            int(token)
            for token, slot in zip(row, slots, strict=True)
            if slot < 0 and int(token) != words.pad
        ]
        whole = words.ids(f"a photo of a {name}.")
        assert kept == [*words.before, *whole[len(words.ids("a photo of a")) :], *words.after]
        assert [int(slot) for slot in slots if slot >= 0] == [0, 1, 2, 3]
    first = {"end": [1, 2, 3, 4], "middle": [1, 2], "front": []}[position]
    assert (made.model.slots[0] >= 0).nonzero().flatten().tolist()[: len(first)] == first


def test_textual_inversion_has_a_vector_in_the_place_of_each_name():
    made = method("coop", init_from_template=False, class_specific=True, position="name")
    words, encoder = made.model.tokenizer, made.model.encoder
    assert made.model.context.shape == (3, 1, 32)
    for at, name in enumerate(NAMES):
        before, _, rest = split_prompt(words, "a photo of a {}.", name)
        row, [place] = (
            made.model.ids[at, : made.model.lengths[at]].tolist(),
            (made.model.slots[at] >= 0).nonzero()[0],
        )
        assert row[:place] == [*words.before, *before]
        assert row[place + 1 :] == [*rest, *words.after]
        with torch.no_grad():  # a word's own embedding there gives the prompt with that word
            made.model.context[at] = encoder.text.table.weight[77]
            wanted = encoder.embed_texts(
                torch.tensor([[*row[:place], 77, *row[place + 1 :]]]), torch.tensor([len(row)])
            )
            torch.testing.assert_close(
                made.model.text_features()[at], wanted[0], atol=1e-5, rtol=1e-5
            )


def test_vectors_of_each_class_fit_no_other_names():
    made = method("coop", n_ctx=3, init_from_template=False, class_specific=True)
    assert made.model.context.shape == (3, 3, 32)
    made.model.set_classes(NAMES)
    with pytest.raises(InputError, match="fit no other names"):
        made.model.set_classes(["tree", "house", "cat"])


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("coop", {"n_ctx": 9}, "9 vectors cannot begin as the"),
        ("coop", {"n_ctx": 0}, "'n_ctx' of method CoOp is 0"),
        ("coop", {"position": "midle"}, "did you mean 'middle'"),
        ("coop", {"class_specific": True}, "set init_from_template=false"),
        ("coop", {"template": "a photo"}, "must hold {} once"),
        ("coop", {"position": "name", "init_from_template": False}, "set class_specific=true"),
        ("maple", {"depth": 4}, "a depth of 4 does not fit the text tower, which has 3 blocks"),
        ("cocoop", {"prompts": 0}, "'prompts' of method CoCoOp is 0"),
    ],
)
def test_bad_options_are_refused(name, config, said):
    with pytest.raises(InputError, match=said):
        method(name, **config)


def test_a_name_beyond_the_context_is_named():
    with pytest.raises(InputError, match="does not fit"):
        method("coop", classes=("circle", "very " * 30 + "long"))
