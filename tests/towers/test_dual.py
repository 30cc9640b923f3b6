"""The dual encoder, and golden embeddings of a tiny seeded one."""

import json

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor

from diptych.errors import InputError
from diptych.towers.build import image_tower, text_tower
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature


def tiny(**options):
    image = image_tower("vit:image_size=16:patch=8:width=32:depth=2:heads=2:pre_norm=true")
    text = text_tower("text:width=24:depth=2:heads=2", vocab_size=40, context=10, eot=2)
    return DualEncoder(image, text, 16, **options).eval()


def inputs():
    x = (torch.arange(2 * 3 * 16 * 16) ** 2 % 251).to(torch.uint8).view(2, 3, 16, 16)
    ids, lengths = (
        torch.tensor([[1, 5, 9, 2, 0], [1, 30, 2, 0, 0], [1, 7, 7, 8, 2]]),
        torch.tensor([4, 3, 5]),
    )
    return x, ids, lengths


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@jaxtyped(typechecker=beartype)
def embed(
    dual: DualEncoder,
) -> tuple[Float[Tensor, "2 E=16"], Float[Tensor, "3 E=16"], Float[Tensor, "2 3"]]:
    x, ids, lengths = inputs()
    a, b = dual.embed_images(x), dual.embed_texts(ids, lengths)
    return a, b, dual.similarity(a, b)


@pytest.mark.parametrize(
    "options",
    [{}, {"logit_bias": -10.0, "logit_scale": Temperature(10.0)}, {"text_projection": "affine"}],
)
def test_embeddings_are_unit_vectors_whose_dot_product_is_the_cosine(options):
    a, b, cosines = embed(tiny(**options))
    torch.testing.assert_close(a.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(
        cosines, torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    )


def test_embeddings_are_projected_pooled_vectors_and_tokens_project_too():
    dual, (x, ids, lengths) = tiny(), inputs()
    encoded = dual.encode_image(x)
    torch.testing.assert_close(
        dual.embed_images(x),
        torch.nn.functional.normalize(dual.project_image(encoded.pooled), dim=-1),
    )
    assert dual.project_image(encoded.tokens).shape == (2, 5, 16)
    assert dual.project_text(dual.encode_text(ids, lengths).tokens).shape == (3, 5, 16)


def test_the_config_is_plain_and_rebuilds_the_module():
    dual = tiny(
        logit_bias=-10.0,
        logit_scale=Temperature(10.0, clamp=(1.0, 100.0)),
        text_projection="affine",
    )
    config = json.loads(json.dumps(dual.config()))
    again = DualEncoder.from_config(config).eval()
    assert again.config() == dual.config()
    again.load_state_dict(dual.state_dict())
    for a, b in zip(embed(again), embed(dual), strict=True):
        assert torch.equal(a, b)
    assert again.logit_scale().item() == pytest.approx(10.0)
    assert again.logit_bias.item() == -10


def test_one_in_a_batch_equals_one_alone_and_padding_changes_nothing():
    dual, (x, ids, lengths) = tiny(), inputs()
    torch.testing.assert_close(
        dual.embed_images(x[:1]), dual.embed_images(x)[:1], atol=1e-5, rtol=0
    )
    whole = dual.embed_texts(ids, lengths)
    torch.testing.assert_close(
        dual.embed_texts(ids[1:2, :3], lengths[1:2]), whole[1:2], atol=1e-5, rtol=0
    )
    padded = torch.nn.functional.pad(ids, (0, 5), value=9)
    torch.testing.assert_close(dual.embed_texts(padded, lengths), whole, atol=1e-5, rtol=0)


def test_a_tower_of_two_vectors_a_image_is_refused():
    image = image_tower("vit:image_size=16:patch=8:width=32:depth=1:heads=2:cls=2")
    with pytest.raises(InputError, match="pools 2 vectors an image.*set cls=1"):
        DualEncoder(image, tiny().text, 32)
    mean = image_tower("vit:image_size=16:patch=8:width=32:depth=1:heads=2:cls=2:pooling=mean")
    assert DualEncoder(mean, tiny().text, 32).embed_images(inputs()[0]).shape == (2, 32)


def test_golden_embeddings_of_a_seeded_model():
    """RELIABILITY 20: seed, initialisation and forward pass together may not move."""
    torch.manual_seed(1234)
    a, b, _ = embed(tiny())
    torch.testing.assert_close(a[:, :4], torch.tensor(GOLDEN_IMAGE), atol=1e-5, rtol=0)
    torch.testing.assert_close(b[:, :4], torch.tensor(GOLDEN_TEXT), atol=1e-5, rtol=0)


def test_the_sizes_of_clip_are_as_published():
    """ViT-B/32 with a 12-layer text tower of 512: 151,277,313 parameters with the scale (Radford et
    al., 2021)."""
    with torch.device("meta"):
        clip = DualEncoder(
            image_tower("vit:patch=32:width=768:pre_norm=true:cls_position=true:patch_bias=false"),
            text_tower("text:width=512:depth=12", vocab_size=49408, context=77),
            512,
        )
    assert sum(p.numel() for p in clip.parameters()) == 151_277_313
    assert (
        sum(p.numel() for p in (*clip.text.parameters(), clip.text_projection.weight)) == 63_428_096
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dmi": 3}, "did you mean 'embed_dim'"),
        ({"image_projection": "none"}, "32 wide and has no projection to 16"),
        ({"text_projection": "lin"}, "did you mean 'linear'"),
        ({"logit_scale": {"init": -1.0}}, "not positive"),
        ({"logit_scale": {"init": "abc"}}, "the logit_scale of this dual encoder"),
    ],
)
def test_a_bad_config_is_an_error_of_one_line(change, message):
    with pytest.raises(InputError, match=message):
        DualEncoder.from_config({**tiny().config(), **change})


def test_a_config_that_lacks_a_tower_says_so():
    with pytest.raises(InputError, match="lacks embed_dim, text"):
        DualEncoder.from_config({"image": "vit"})


# first four numbers of each unit vector
GOLDEN_IMAGE = [
    [0.081772, -0.367106, 0.090219, 0.344911],
    [-0.526799, -0.320159, -0.215403, 0.233484],
]
GOLDEN_TEXT = [
    [0.091001, -0.180424, -0.316500, 0.220370],
    [-0.210797, -0.043456, -0.410420, 0.061970],
    [0.032422, -0.196131, -0.232775, 0.310247],
]


def test_a_side_may_be_absent():
    x, ids, lengths = inputs()
    both = tiny()
    texts = DualEncoder(None, both.text, 16).eval()
    texts.load_state_dict(
        {name: value for name, value in both.state_dict().items() if "image" not in name}
    )
    torch.testing.assert_close(texts.embed_texts(ids, lengths), both.embed_texts(ids, lengths))
    assert (texts.sides, both.sides) == (("text",), ("image", "text"))
    again = DualEncoder.from_config(json.loads(json.dumps(texts.config())))
    assert again.state_dict().keys() == texts.state_dict().keys()
    for asks in (texts.embed_images, texts.project_image):
        with pytest.raises(InputError, match="no image tower: it embeds texts alone; name a model"):
            asks(x)
    images = DualEncoder.from_config({**both.config(), "text": None})
    assert images.sides == ("image",)
    with pytest.raises(InputError, match="no text tower: it embeds images alone"):
        images.embed_texts(ids, lengths)


def test_two_heads_of_texts_alone_have_shares_too():
    dual = DualEncoder(None, tiny().text, 16, text_projection="two:hidden=8")
    assert dual.shares == (0.5, 0.5)
    dual.set_share(0.25)
    assert dual.config()["text_projection"] == "two:hidden=8:share=0.25"


def test_patches_may_be_pooled_behind_the_projection():
    image = image_tower("conv:image_size=16:widths=(8,):depths=(0,)")
    projection = "mlp:hidden=6:bias=true:norm=layer:activation_first=true:eps=1e-6"
    dual = DualEncoder(image, None, 4, image_projection=projection, pool="after").eval()
    kinds = [type(layer).__name__ for layer in dual.image_projection]
    assert kinds == ["Linear", "ReLU", "LayerNorm", "Linear"]
    assert dual.image_projection[2].eps == 1e-6
    x = torch.rand(2, 3, 16, 16)
    patches = dual.project_image(dual.encode_image(x).patches)
    expected = torch.nn.functional.normalize(patches.mean(1), dim=-1)
    torch.testing.assert_close(dual.embed_images(x), expected)
    again = DualEncoder.from_config(json.loads(json.dumps(dual.config())))
    again.load_state_dict(dual.state_dict())
    torch.testing.assert_close(again.eval().embed_images(x), expected)
    assert "pool" not in DualEncoder(image, None, 4).config()
    with pytest.raises(InputError, match="unknown pool of a dual encoder 'behind'"):
        DualEncoder(image, None, 4, pool="behind")


def test_a_clip_is_the_unit_mean_of_its_frames_whatever_their_order():
    x, _, _ = inputs()
    dual = tiny()
    clips = torch.stack([x, x.flip(0)])
    frames = dual.embed_images(x)
    mean = frames.mean(0)
    expected = (mean / mean.norm()).expand(2, -1)
    assert torch.allclose(dual.embed_images(clips), expected, atol=1e-6)
    with pytest.raises(InputError, match="a clip has several"):
        dual.encode_image(clips)
