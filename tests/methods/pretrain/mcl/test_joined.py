"""The encoders of several stages as one."""

import copy

import pytest
import torch
from tests.factories import make_method

from diptych.errors import InputError
from diptych.methods.make import Make
from diptych.methods.pretrain.mcl import MCL
from diptych.methods.pretrain.mcl.joined import Stages
from diptych.models.export.openclip import misfit
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature


@pytest.fixture(scope="module")
def stages():
    """Three stages of towers that differ; the last has vectors three times as long."""
    found = make_method(MCL, embed_dim=8, stages=2).eval().deliver()
    with torch.no_grad():
        found.encoders[2].image_projection.weight.mul_(3)
    return found


def pixels(stages, count=4):
    size = stages.image.image_size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def test_embeddings_are_raw_vectors_side_by_side_made_unit(stages):
    x = pixels(stages)
    raw = []
    for encoder in stages.encoders:
        pooled = encoder.image(x).pooled
        raw.append(encoder.image_projection(pooled))
    expected = []
    for row in range(len(x)):
        vector = torch.cat([each[row] for each in raw])
        expected.append(vector / vector.norm())
    found = stages.joined().embed_images(x)
    torch.testing.assert_close(found, torch.stack(expected))
    assert found.shape == (4, 3 * 8)
    share = found[:, 16:].square().sum(1)
    equal = torch.cat([torch.nn.functional.normalize(each, dim=1) for each in raw], 1) / 3**0.5
    assert (share > equal[:, 16:].square().sum(1)).all()  # longer vectors weigh more


def test_the_cosine_of_unit_parts_is_the_mean_of_the_stages_cosines(stages):
    x = pixels(stages)
    parts = [stages.space(f"stage{number}").embed_images(x) for number in range(3)]
    whole = torch.nn.functional.normalize(torch.cat(parts, 1), dim=1)
    mean = torch.stack([part @ part.T for part in parts]).mean(0)
    torch.testing.assert_close(whole @ whole.T, mean)


def test_texts_and_features_are_side_by_side_too(stages):
    ids = torch.tensor([[5, 6, 7], [8, 9, 0]])
    lengths = torch.tensor([3, 2])
    joined = stages.joined()
    raw = [each.text_projection(each.text(ids, lengths).pooled) for each in stages.encoders]
    expected = torch.nn.functional.normalize(torch.cat(raw, 1), dim=1)
    torch.testing.assert_close(joined.embed_texts(ids, lengths), expected)
    encoded = joined.encode_image(pixels(stages))
    assert encoded.pooled.shape[1] == joined.image.width == 3 * stages.image.width
    assert encoded.tokens.shape[2] == joined.image.width


def test_a_space_is_the_encoder_of_one_stage(stages):
    x = pixels(stages)
    assert stages.spaces == ("all", "stage0", "stage1", "stage2")
    one = stages.space("stage1")
    assert torch.equal(one.embed_images(x), stages.encoders[1].embed_images(x))
    assert torch.equal(stages.space("all").embed_images(x), stages.joined().embed_images(x))


def test_patches_are_projected_stage_by_stage_where_they_are_pooled_last():
    base = make_method(MCL, embed_dim=8, stages=2).eval().deliver().encoders[0]
    after = DualEncoder(base.image, base.text, 8, logit_scale=Temperature(), pool="after")
    stages = Stages([after, copy.deepcopy(after)])
    x = pixels(stages)
    raw = [each.image_vectors(each.encode_image(x)) for each in stages.encoders]
    expected = torch.nn.functional.normalize(torch.cat(raw, 1), dim=1)
    torch.testing.assert_close(stages.joined().embed_images(x), expected)


def test_joined_encoders_are_neither_exported_nor_trained_as_one(stages):
    model = stages.to_model(make_method("clip").make.words, stages.image.preprocess, "joined")
    assert "joined" in misfit(model)
    with pytest.raises(InputError, match="joined"):
        Make.of(model).dual(logit_scale=Temperature())
    assert len(model.identity) == 64
