"""Models of timm behind Encoded."""

import json
import sys

import pytest
import torch

from diptych.errors import InputError
from diptych.towers.build import image_tower

timm = pytest.importorskip("timm")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def images(size, n=2):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "prefix", "grid", "levels"),
    [
        ("resnet10t:image_size=64", 0, (2, 2), 1),
        ("vit_tiny_patch16_224:image_size=64", 1, (4, 4), 0),
        ("deit_tiny_distilled_patch16_224:image_size=64", 2, (4, 4), 0),
        ("mobilenetv3_small_050:image_size=64", 0, (2, 2), 1),
        ("swin_tiny_patch4_window7_224", 0, (7, 7), 1),
        ("resnet10t:image_size=64:levels=true", 0, (2, 2), 5),
        ("vit_tiny_patch16_224:image_size=64:pool=avg", 1, (4, 4), 0),
    ],
)
def test_features_are_those_of_timm_itself(name, prefix, grid, levels):
    tower = image_tower(f"timm:{name}").eval()
    x = images(tower.image_size)
    encoded = tower(x)
    features = tower.model.forward_features(tower.pixels(x))
    torch.testing.assert_close(encoded.pooled, tower.model.forward_head(features, pre_logits=True))
    assert encoded.pooled.shape == (2, tower.width)
    assert (encoded.prefix, encoded.grid, len(encoded.levels)) == (prefix, grid, levels)
    assert encoded.patches.shape[:2] == (2, grid[0] * grid[1])
    if levels:
        torch.testing.assert_close(encoded.tokens.mT.unflatten(2, grid), encoded.levels[-1])


def test_size_mean_std_and_interpolation_come_from_the_pretrained_config():
    tower = image_tower("timm:vit_tiny_patch16_224.augreg_in21k")
    assert tower.preprocess.mean == (0.5, 0.5, 0.5)
    assert (tower.image_size, tower.preprocess.interpolation) == (224, "bicubic")
    assert image_tower("timm:resnet10t").preprocess.mean == (0.485, 0.456, 0.406)


def test_the_spec_rebuilds_the_tower():
    tower, x = image_tower("timm:resnet10t:image_size=64").eval(), images(64)
    again = image_tower(json.loads(json.dumps(tower.spec))).eval()
    assert again.spec == tower.spec
    again.load_state_dict(tower.state_dict())
    assert torch.equal(again(x).pooled, tower(x).pooled)


def test_an_edit_reaches_the_blocks_of_a_vit_and_no_cnn():
    tower, seen = image_tower("timm:vit_tiny_patch16_224:image_size=64").eval(), []

    def edit(layer, tokens):
        seen.append(layer)
        return tokens + 1 if layer == 3 else tokens

    x = images(64)
    edited, plain = tower(x, edit=edit).pooled, tower(x).pooled
    assert seen == list(range(12))
    assert not torch.allclose(edited, plain)
    with pytest.raises(InputError, match="no token stream"):
        image_tower("timm:resnet10t:image_size=64")(x, edit=edit)


def test_batch_norm_mixes_samples_only_while_training():
    tower = image_tower("timm:resnet10t:image_size=64")
    assert tower.train().mixes_samples
    assert not tower.eval().mixes_samples
    assert not image_tower("timm:vit_tiny_patch16_224:image_size=64").train().mixes_samples


def test_an_unknown_model_names_the_nearest_and_a_missing_library_its_extra(monkeypatch):
    with pytest.raises(InputError, match="did you mean 'resnet18"):
        image_tower("timm:resnet1_8")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"pip install 'diptych\[vision\]'"):
        image_tower("timm:resnet18")


def test_a_resnet_has_a_small_stem_for_small_images():
    tower = image_tower("timm:resnet18:image_size=32:small_stem=true").eval()
    assert tower.spec["small_stem"] is True
    assert "small_stem" not in image_tower("timm:test_resnet").spec  # the checksums of older models
    encoded = tower(images(32))
    assert encoded.grid == (4, 4)  # 1 x 1 with the large stem
    assert sum(p.numel() for p in tower.parameters()) == 11_168_832
    with pytest.raises(InputError, match="is no ResNet; leave out small_stem"):
        image_tower("timm:vit_tiny_patch16_224:small_stem=true")
    with pytest.raises(InputError, match="keeps its first convolution"):
        image_tower("timm:test_resnet:small_stem=true:pretrained=true")


def test_an_efficientnet_goes_without_its_head_convolution():
    """ALIGN's image towers: B7 is 640 wide then, and its pooled features are the mean of its last
    map."""
    tower = image_tower("timm:efficientnet_b0:image_size=64:head_conv=false").eval()
    encoded = tower(images(64))
    assert encoded.pooled.shape == (2, 320) == (2, tower.width)
    torch.testing.assert_close(encoded.pooled, encoded.tokens.mean(1))
    with torch.device("meta"):
        assert image_tower("timm:efficientnet_b7:head_conv=false").width == 640
    with pytest.raises(InputError, match="no head convolution"):
        image_tower("timm:resnet10t:head_conv=false")


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_weights_of_a_file_are_read_without_the_classifier(tmp_path, kind):
    from safetensors.torch import save_file

    given = timm.create_model("test_resnet", num_classes=5)
    path = tmp_path / f"weights.{kind}"
    if kind == "pth":
        torch.save({"state_dict": given.state_dict()}, path)
    else:
        save_file(given.state_dict(), path)
    tower = image_tower(f"timm:test_resnet:weights={path}")
    own = tower.model.state_dict()
    for name, value in given.state_dict().items():
        assert name.startswith("fc.") or torch.equal(own[name], value), name
    assert "weights" not in tower.spec
    assert tower.spec == image_tower("timm:test_resnet").spec


def test_weights_of_another_model_or_with_code_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    spec = f"timm:test_resnet:weights={path}"
    with pytest.raises(InputError, match="FileNotFoundError"):
        image_tower(spec)
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    for other, message in (
        ({}, r"lack conv1.*name a file of this model"),
        ({**state, "more.weight": torch.zeros(1)}, "have more.weight"),
        ({**state, "bn1.weight": torch.zeros(3)}, "size mismatch"),
    ):
        torch.save(other, path)
        with pytest.raises(InputError, match=message):
            image_tower(spec)
    torch.save({**state, "code": test_weights_of_another_model_or_with_code_are_refused}, path)
    with pytest.raises(InputError, match="cannot be loaded"):
        image_tower(spec)
    with pytest.raises(InputError, match="pretrained=true downloads other weights"):
        image_tower(f"{spec}:pretrained=true")


def test_a_model_of_one_size_is_not_resized():
    tower = image_tower("timm:test_resnet:image_size=64")
    tower.resize(96)
    assert tower.image_size == image_tower(tower.spec).image_size == 96
    with pytest.raises(InputError, match="give image_size=64 in its spec"):
        image_tower("timm:test_vit").resize(64)
