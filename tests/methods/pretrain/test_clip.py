"""CLIP and SigLIP as methods: their losses against open_clip's, their published sizes, fine-tuning
of given weights."""

import pytest
import torch
from tests.factories import AT, make_method
from tests.methods.pretrain.helpers import given_model
from tests.training.helpers import make_engine

from diptych.data.tokenizers import build
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.pretrain.siglip import SigLIP


def features(seed=0, count=12):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.nn.functional.normalize(torch.randn(count, 32, generator=generator), dim=1)
        for name in ("image", "text")
    }


@pytest.mark.parity
def test_clip_loss_is_open_clips():
    from open_clip.loss import ClipLoss

    method, given = make_method("clip"), features()
    theirs = ClipLoss()(given["image"], given["text"], method.model.logit_scale())
    assert torch.allclose(method.loss(given, None, AT).total, theirs, atol=1e-6)


@pytest.mark.parity
def test_siglip_loss_is_open_clips():
    from open_clip.loss import SigLipLoss

    method, given = make_method("siglip"), features()
    theirs = SigLipLoss()(
        given["image"], given["text"], method.model.logit_scale(), method.model.logit_bias
    )
    assert torch.allclose(method.loss(given, None, AT).total, theirs, atol=1e-5)


def test_paper_clip_has_the_published_number_of_parameters():
    """ViT-B/32 with CLIP's own vocabulary: 151,277,313, the temperature among them."""
    preset = CLIP.presets["paper"]
    with torch.device("meta"):
        make = Make(
            image=preset.image,
            text=preset.text,
            embed_dim=preset.embed_dim,
            tokenizer=build(preset.tokenizer),
        )
        method = CLIP(CLIP.configure(preset.config), make)
    assert sum(parameter.numel() for parameter in method.parameters()) == 151_277_313


def test_siglip_starts_where_nearly_every_pair_is_a_no():
    method = make_method("siglip")
    assert float(method.model.logit_scale().detach()) == pytest.approx(10)
    assert float(method.model.logit_bias.detach()) == -10


@pytest.mark.parametrize("cls", [CLIP, SigLIP])
def test_training_starts_from_the_weights_that_are_given(tmp_path, cls):
    """Towers, projections, tokenizer and scale are the given model's; what it lacks (SigLIP's bias)
    is added."""
    model = given_model()
    torch.manual_seed(9)
    method = cls(cls.configure({}), Make.of(model))
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, method.model.state_dict()[name])
    assert (method.model.logit_bias is not None) == (cls is SigLIP)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    make_engine(tmp_path, method=method, recipe={"steps": 2}).run()
    assert all(
        torch.equal(before[name], value) for name, value in model.encoder.state_dict().items()
    )
    assert not torch.equal(before["image_projection.weight"], method.model.image_projection.weight)


def test_towers_built_twice_from_given_weights_are_twins_with_their_own_parameters():
    make = Make.of(given_model())
    first, second = make.image(), make.image()
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one is not other
