"""Latent diffusion in the folders of diffusers: the published schedule, latents, padded texts, the
gradient through the network, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.factories import random_images

import diptych
from diptych.errors import InputError

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the smallest sizes, in the form of Stable Diffusion 1."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    root = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    blocks: Any = {"layers_per_block": 1, "norm_num_groups": 4}
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        **blocks,
    ).save_pretrained(root / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        **blocks,
    ).save_pretrained(root / "vae")
    config = CLIPTextConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    CLIPTextModel(config).save_pretrained(root / "text_encoder")
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    scheduler.save_pretrained(root / "scheduler")
    (root / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    words = root / "tokenizer"
    words.mkdir()
    letters = [chr(at) for at in range(ord("a"), ord("z") + 1)]
    signs = ["<|startoftext|>", "<|endoftext|>", *letters, *(each + "</w>" for each in letters)]
    (words / "vocab.json").write_text(json.dumps({sign: at for at, sign in enumerate(signs)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": signs[0], **dict.fromkeys(("eos_token", "pad_token"), signs[1])}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 12, **special}
    (words / "tokenizer_config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="module")
def model(folder):
    found = diptych.load(f"diffusers:{folder}")
    found.draws = 2
    return found


def test_the_schedule_is_the_published_one(model):
    kept = model.diffusion.kept[[0, 100, 500, 999]]
    assert kept.tolist() == pytest.approx([0.99915, 0.894223, 0.276333, 0.004660], abs=1e-6)


def test_latents_are_scaled_and_texts_padded_by_its_own_tokenizer(model):
    assert model.diffusion.shape == (4, 8, 8)
    assert model.preprocess.size == 16
    x = random_images(2, 16)
    theirs = model.delivered.vae.encode(x.float() / 127.5 - 1).latent_dist.mode()
    torch.testing.assert_close(model.diffusion.latents(x), 0.18215 * theirs)
    assert model.tokenizer.encode(["a dog"]) == [[0, 28, 5, 16, 34, 1]]
    rows, mask = model._rows(["a dog", "cat"])
    assert rows.shape == (2, 12, 16)
    assert mask.all()
    ids = torch.tensor([[0, 28, 5, 16, 34, *[1] * 7]])
    theirs = model.delivered.text_encoder(input_ids=ids).last_hidden_state
    torch.testing.assert_close(rows[:1], theirs)


def test_it_matches_and_draws(model):
    found = model.match(random_images(3, 16), ["a dog", "a cat", "two"], batch_size=2)
    assert found.shape == (3,)
    assert found.isfinite().all()
    assert model.draw("a dog", 1, steps=2)[0].size == (16, 16)


def test_the_gradient_passes_through_the_frozen_network(model):
    z = torch.randn(1, 4, 8, 8, requires_grad=True)
    rows, mask = model._rows(["a dog"])
    model.diffusion(z, torch.tensor([7]), rows.detach(), mask).square().sum().backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
    assert all(each.grad is None for each in model.delivered.parameters())


def test_what_cannot_be_used_is_refused(folder, tmp_path):
    def copy(name: str, file: str, **values: Any) -> Path:
        shutil.copytree(folder, tmp_path / name)
        path = tmp_path / name / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        return tmp_path / name

    velocity = copy("v", "scheduler/scheduler_config.json", prediction_type="v_prediction")
    with pytest.raises(InputError, match="predicts v_prediction, not noise"):
        diptych.load(f"diffusers:{velocity}")
    two = copy("xl", "model_index.json", tokenizer_2=["transformers", "CLIPTokenizer"])
    with pytest.raises(InputError, match="reads two text encoders"):
        diptych.load(f"diffusers:{two}")
    damaged = copy("d", "model_index.json")
    (damaged / "unet" / "config.json").unlink()
    with pytest.raises(InputError, match="no latent diffusion model that diffusers can read"):
        diptych.load(f"diffusers:{damaged}")
    with pytest.raises(InputError, match="holds no model_index.json"):
        diptych.load(f"diffusers:{tmp_path}")
    with pytest.raises(InputError, match="in its own folder"):
        diptych.load(f"diffusers:{folder}", weights=folder / "unet")
