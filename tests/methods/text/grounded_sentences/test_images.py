"""The mean over ten crops."""

import pytest
import torch

from diptych.errors import InputError
from diptych.methods.text.grounded_sentences.images import TenCrops
from diptych.towers.build import image_tower

SPEC = "conv:image_size=28:widths=(8,16):depths=(1,1)"


def made() -> TenCrops:
    torch.manual_seed(0)
    return TenCrops.of(image_tower(SPEC)).eval()


def test_crops_are_those_of_torchvision_and_their_vectors_are_averaged():
    ten_crop = pytest.importorskip("torchvision.transforms.v2").functional.ten_crop
    tower = made()
    x = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = torch.stack([tower.inner(crop).pooled for crop in ten_crop(x, [28, 28])])
        found = tower(x)
    torch.testing.assert_close(found.pooled, expected.mean(0))
    assert found.tokens.shape == (3, 10, 16)


def test_an_image_and_its_mirror_image_have_the_same_vector():
    tower = made()
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(tower(x).pooled, tower(x.flip(-1)).pooled)


def test_images_are_scaled_as_published_and_the_spec_builds_the_same_tower():
    assert TenCrops.of(image_tower("conv:image_size=224")).preprocess.size == 256
    tower = made()
    again = image_tower(tower.spec).eval()
    again.load_state_dict(tower.state_dict())
    x = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again(x).pooled, tower(x).pooled)


def test_what_crops_cannot_do_is_refused():
    with pytest.raises(InputError, match="crops=1"):
        made()(torch.zeros(1, 3, 32, 32), hidden=torch.zeros(1, 4))
    with pytest.raises(InputError, match="crops=1"):
        TenCrops.of(image_tower("vit:image_size=32:patch=16:width=16:depth=1:heads=2:cls=2"))
    with pytest.raises(InputError, match="crops=1"):
        TenCrops.of(image_tower("resnet3d:image_size=16:slices=8:widths=(8,8,8,8)"))
