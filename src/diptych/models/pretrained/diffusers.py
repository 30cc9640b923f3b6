"""Latent diffusion of diffusers, given texts: `diffusers:FOLDER`, such as Stable Diffusion 1 and 2.

unet/, vae/                    the network that predicts noise, and the autoencoder of its latents
text_encoder/, tokenizer/      its own CLIP text encoder, padded to the context
scheduler/                     the variances of the noise

Dimensions: B images, L tokens, E width of the text encoder.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.images import HALF, Preprocess
from diptych.data.tokenizers import from_folder
from diptych.data.tokenizers.hf import quiet
from diptych.errors import InputError, brief
from diptych.models.diffusion import DiffusionModel
from diptych.models.pretrained.files import read_json
from diptych.towers.nn.denoiser import noised

DIFFUSERS = "diffusers"
"""The prefix of these models."""


class LatentDiffusion(nn.Module):
    """Modules of diffusers behind the interface of `models.diffusion.Diffusion`.

    Latents are the modes of the autoencoder, scaled to unit variance. The text encoder reads its
    padding, so all rows are attended to.
    """

    kept: Tensor
    bound = None

    def __init__(self, unet: Any, vae: Any, text_encoder: Any, kept: Tensor):
        super().__init__()
        self.unet = unet
        self.vae = vae
        self.text_encoder = text_encoder
        side = unet.config.sample_size
        self.shape = (unet.config.in_channels, side, side)
        stride = 2 ** (len(vae.config.block_out_channels) - 1)
        self.preprocess = Preprocess(size=side * stride, mean=HALF, std=HALF)
        self.register_buffer("kept", kept.float(), persistent=False)

    def latents(self, x: Tensor) -> Tensor:
        pixels = x.to(self.kept.dtype) / 127.5 - 1
        return self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor

    def pixels(self, z: Tensor) -> Tensor:
        return self.vae.decode(z / self.vae.config.scaling_factor).sample.clamp(-1, 1)

    def rows(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.text_encoder(input_ids=ids).last_hidden_state
        return rows, torch.ones_like(ids, dtype=torch.bool)

    def noised(self, x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return noised(x, noise, self.kept[time])

    def forward(self, x: Tensor, time: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        return self.unet(x, time, encoder_hidden_states=rows).sample


def load(name: str, weights: Path | None = None) -> DiffusionModel:
    """Load the latent diffusion model of a folder.

    Raises InputError for a folder that diffusers cannot read, and for a model that predicts
    something else than noise, or reads more than one text encoder.
    """
    where = f"{DIFFUSERS}:{name}"
    folder = Path(name).expanduser()
    if weights is not None:
        raise InputError(f"the weights of {where} are in its own folder; name that alone")
    if not (folder / "model_index.json").is_file():
        raise InputError(f"{name} holds no model_index.json; name a folder of diffusers")
    if "tokenizer_2" in read_json(folder / "model_index.json"):
        raise InputError(
            f"{where} reads two text encoders, of which one is supported; name another"
        )
    module = LatentDiffusion(*_parts(folder, where)).eval().requires_grad_(False)
    context = module.text_encoder.config.max_position_embeddings
    tokenizer = from_folder(folder / "tokenizer", context=context, padding="max", local=True)
    return DiffusionModel(module, tokenizer, name=where)


def _parts(folder: Path, where: str) -> tuple[Any, Any, Any, Tensor]:
    """The network, the autoencoder, the text encoder and the shares of variance that remain."""
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
        from transformers import CLIPTextModel
    except ImportError:
        raise InputError(
            "diffusers: models need diffusers and transformers; pip install 'diptych[diffusion]'"
        ) from None
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    try:
        with quiet():
            unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", **options)
            vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", **options)
            text = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", **options)
            noise: Any = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    except Exception as error:  # diffusers raises many kinds
        raise InputError(
            f"{where} is no latent diffusion model that diffusers can read ({brief(error)}); copy it again"
        ) from None
    kind = noise.config.prediction_type
    if kind != "epsilon":
        raise InputError(f"{where} predicts {kind}, not noise (epsilon); name a model that does")
    return unet.float(), vae.float(), text.float(), noise.alphas_cumprod
