"""Image encoders of transformers behind Encoded."""

import json
from pathlib import Path

import pytest
import torch

from diptych.errors import InputError
from diptych.towers.build import image_tower

transformers = pytest.importorskip("transformers")

VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}


def tower_of(config, **options):
    torch.manual_seed(0)
    return image_tower({"name": "hf", "config": config, **options}).eval()


def images(size=32):
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("config", "width", "tokens", "grid", "prefix"),
    [(VIT, 32, 17, (4, 4), 1), (RESNET, 16, 16, (4, 4), 0)],
)
def test_features_are_those_of_transformers_itself(config, width, tokens, grid, prefix):
    tower = tower_of(config, image_size=32)
    x = images()
    encoded = tower(x)
    found = tower.model(pixel_values=tower.pixels(x))
    torch.testing.assert_close(encoded.pooled, found.pooler_output.flatten(1))
    assert encoded.tokens.shape == (2, tokens, width)
    assert (encoded.grid, encoded.prefix, tower.width) == (grid, prefix, width)
    assert encoded.patches.shape == (2, 16, width)


def test_the_spec_is_plain_and_builds_the_same_tower():
    tower = tower_of(VIT, pooling="mean", preprocess={"size": 32, "resize": "squash"})
    again = image_tower(json.loads(json.dumps(tower.spec)))
    again.load_state_dict(tower.state_dict())
    x = images()
    torch.testing.assert_close(again.eval()(x).pooled, tower(x).pooled)
    torch.testing.assert_close(tower(x).pooled, tower(x).patches.mean(1))
    assert again.preprocess == tower.preprocess


def test_an_edit_reaches_every_layer():
    tower = tower_of(VIT, pooling="first")
    seen = []

    def edit(layer, tokens):
        seen.append(layer)
        return tokens + layer

    x = images()
    changed = tower(x, edit=edit)
    assert seen == [0, 1]
    assert not torch.allclose(changed.pooled, tower(x).pooled)
    with pytest.raises(InputError, match="no token stream"):
        tower_of(RESNET, image_size=32)(x, edit=edit)


def test_a_folder_gives_its_weights(tmp_path: Path):
    tower = tower_of(VIT)
    tower.model.save_pretrained(tmp_path)
    again = image_tower(f"hf:{tmp_path}").eval()
    x = images()
    torch.testing.assert_close(again(x).pooled, tower(x).pooled)
    assert again.spec["folder"] is None
    assert again.image_size == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a folder .* or a config"),
        ({"folder": "nowhere"}, "nowhere holds no config.json"),
        ({"config": {"model_type": "vitt"}}, "did you mean 'vit'"),
        ({"config": {"model_type": "bert"}}, "BertModel takes no pixels"),
    ],
)
def test_what_makes_no_tower_is_one_line(options, message):
    with pytest.raises(InputError, match=message) as error:
        image_tower({"name": "hf", **options})
    assert "\n" not in str(error.value)


def test_hidden_patches_are_refused():
    with pytest.raises(InputError, match="take no hidden patches"):
        tower_of(VIT)(images(), hidden=torch.zeros(2, 16, dtype=torch.bool))
