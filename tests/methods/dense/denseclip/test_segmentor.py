"""The segmentor: scores as cosines, context in the image, prompts read at their end, and gradients
through the frozen text tower."""

from dataclasses import replace

import pytest
import torch
from tests.factories import make_method, random_images

from diptych.errors import InputError
from diptych.methods.dense.denseclip.features import dense_features
from diptych.methods.dense.denseclip.scored import GAMMA, score_maps
from diptych.testing import Toy

VIT = "vit:image_size=32:patch=8:width=32:depth=4:heads=2"
NAMES = ("red", "a blue bar", "green")


def segmentor(names=NAMES, **config):
    small = {"width": 16, "inner": 16, "decoder_width": 16, "dropout": 0.0}
    made = make_method("denseclip", image=VIT, **{**small, **config}).model
    made.set_classes(names)
    return made.double().eval()


def test_without_gamma_scores_are_cosines_with_the_plain_texts():
    made = segmentor()
    assert made.gamma.shape == (32,)
    assert made.gamma.unique().tolist() == pytest.approx([GAMMA])
    x = random_images(3)
    with torch.no_grad():
        near = made(x)[1]
        made.gamma.zero_()
        _, scores = made(x)
        plain = torch.nn.functional.normalize(made.class_texts(), dim=-1)
        positions = dense_features(made.encoder, x).positions
        for image in range(3):
            for class_ in range(3):
                for y in range(4):
                    for at in range(4):
                        z = positions[image, :, y, at]
                        expected = float(z @ plain[class_] / z.norm())
                        assert float(scores[image, class_, y, at]) == pytest.approx(expected)
    assert float(scores.abs().max()) <= 1
    assert not torch.equal(near, scores)
    torch.testing.assert_close(near, scores, atol=0.05, rtol=0)


def test_scores_ignore_lengths():
    positions = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    texts = torch.randn(2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(score_maps(7 * positions, 0.1 * texts), score_maps(positions, texts))


@pytest.mark.parametrize("context", ["post", "pre", "none"])
def test_the_order_of_classes_permutes_scores(context):
    made = segmentor(context=context)
    other = segmentor([NAMES[at] for at in (2, 0, 1)], context=context)
    shared = {n: v for n, v in made.state_dict().items() if not n.startswith("head.")}
    other.load_state_dict(shared, strict=False)
    if context == "post":
        with torch.no_grad():
            for each in (made, other):
                each.gamma.fill_(1.0)
    x = random_images(2)
    with torch.no_grad():
        torch.testing.assert_close(other(x)[1], made(x)[1][:, [2, 0, 1]])


def test_a_prompt_is_read_at_its_end_behind_the_vectors():
    """[SOT, a, EOT] with 8 vectors: the end is at 2 + 8 of 13 places, and further ones change
    nothing."""
    made = segmentor(["red"])
    first = len(made.tokenizer.before)
    [length] = made.lengths.tolist()
    name = len(made.tokenizer.ids("red"))
    assert first == 1
    assert length - 1 == first + name + 8
    embeddings = made.embeddings(made.context)
    assert embeddings.shape[1] == length
    torch.testing.assert_close(embeddings[0, first : first + 8], made.context)
    longer = torch.cat([embeddings, torch.randn(1, 13, 32, dtype=torch.float64)[:, length:]], 1)
    with torch.no_grad():
        tower = made.encoder.text
        read = tower(None, made.lengths, embeddings=longer)
        torch.testing.assert_close(read.pooled[0], read.tokens[0, length - 1])
        torch.testing.assert_close(made.encoder.project_text(read.pooled), made.class_texts())


def test_gradients_pass_the_frozen_text_tower():
    made = segmentor()
    made.train()
    assert not made.encoder.text.training
    made(random_images(2))[1].square().sum().backward()
    assert made.context.grad is not None
    assert bool(made.context.grad.any())
    assert all(parameter.grad is None for parameter in made.encoder.text.parameters())
    assert made.gamma.grad is not None
    assert bool(made.encoder.image.patch_embed.weight.grad.any())


def test_prompts_of_each_image_equal_those_one_by_one(monkeypatch):
    from diptych.methods.dense.denseclip import scored as module

    made = segmentor(context="pre")
    x = random_images(3)
    with torch.no_grad():
        whole = made(x)[1]
        apart = torch.cat([made(x[at : at + 1])[1] for at in range(3)])
        monkeypatch.setattr(module, "AT_ONCE", 4)
        pieces = made(x)[1]
    torch.testing.assert_close(whole, apart)
    torch.testing.assert_close(whole, pieces)
    assert float((whole[0] - whole[1]).abs().max()) > 1e-6
    made(x)[1].sum().backward()
    assert bool(made.context.grad.any())


def test_the_head_reads_the_scores_beside_one_map():
    for scaled in (False, True):
        made = segmentor(scaled_scores=scaled)
        seen = {}
        made.head.register_forward_pre_hook(lambda _, given, seen=seen: seen.update(maps=given[0]))
        with torch.no_grad():
            _, scores = made(random_images(1))
        widths = [each.shape[1] for each in seen["maps"]]
        assert widths == [32, 32, 32 + 3, 32]
        factor = 0.07 if scaled else 1.0
        torch.testing.assert_close(factor * seen["maps"][2][:, 32:], scores)


def test_vectors_begin_as_a_truncated_normal():
    made = segmentor(n_ctx=8)
    assert float(made.context.detach().abs().max()) <= 2
    assert 0.7 < float(made.context.detach().std()) < 1.05
    assert float(segmentor(context_std=0.02).context.detach().abs().max()) < 0.1


def test_classes_are_those_of_training():
    made = segmentor()
    with pytest.raises(InputError, match="the head was trained for 3 classes"):
        made.set_classes(["red", "pink"])
    with pytest.raises(InputError, match="does not fit"):
        segmentor(["red " * 40])
    bare = make_method("denseclip", image=VIT).model
    with pytest.raises(InputError, match="knows no classes"):
        bare(random_images(1))


def test_a_model_without_texts_is_refused():
    with pytest.raises(InputError, match="no text tower"):
        make_method("denseclip", image=VIT, text="none")


def test_a_mask_without_names_is_refused():
    made = make_method("denseclip", image=VIT)
    source = Toy(4, ["images.main", "masks.class"])
    schema = source.schema()
    bare = {**schema, "masks.class": replace(schema["masks.class"], classes=())}
    source.schema = lambda: bare
    with pytest.raises(InputError, match="the mask 'class' of 'toy' has no class names"):
        made.setup({"train": source})
