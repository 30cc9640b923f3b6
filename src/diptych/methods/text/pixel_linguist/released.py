"""Published towers of strips: `pixel_linguist:FOLDER`, PIXEL's or Pixel Linguist's in the layout of the hub.

    config.json                         sizes, model_type pixel
    pytorch_model.bin, or safetensors   vit.*, as transformers names the parts of ViT
    a font (.ttf, .otf)                 GoNotoCurrent, with which texts are drawn; else Unifont

Of the positions the first 64 are kept, as by the published run, which starts from PIXEL's 529. The decoder of the
stage `masked` and the layers behind the tower are not read: the layer before the mean is new, and inference does
without it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.render import TextRenderer
from diptych.errors import InputError, unknown
from diptych.methods.text.pixel_linguist.config import Config
from diptych.methods.text.pixel_linguist.model import Head, SentenceEncoder
from diptych.models.pretrained.convert import Rule, fill, rows, under
from diptych.models.pretrained.files import read_json, read_weights
from diptych.models.pretrained.hf_families import ACTIVATION

PATCHES = 64
FONTS = (".ttf", ".otf")
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
)

W = r"(?P<w>weight|bias)"
PARTS = (("query", "q"), ("key", "k"), ("value", "v"))
LAYER = [
    Rule(rf"layernorm_before\.{W}", (r"norm1.\g<w>",)),
    Rule(rf"layernorm_after\.{W}", (r"norm2.\g<w>",)),
    *(
        Rule(rf"attention\.attention\.{long}\.{W}", (rf"attn.{short}.\g<w>",))
        for long, short in PARTS
    ),
    Rule(rf"attention\.output\.dense\.{W}", (r"attn.out.\g<w>",)),
    Rule(rf"intermediate\.dense\.{W}", (r"mlp.fc1.\g<w>",)),
    Rule(rf"output\.dense\.{W}", (r"mlp.fc2.\g<w>",)),
]
RULES = [
    *under(r"encoder\.layer\.(?P<layer>\d+)\.", r"image.transformer.layers.\g<layer>.", LAYER),
    Rule(r"embeddings\.cls_token", ("image.cls",), rows),
    Rule(
        r"embeddings\.position_embeddings",
        ("image.positions",),
        lambda x: (x[0, : PATCHES + 1],),
    ),
    Rule(rf"embeddings\.patch_embeddings\.projection\.{W}", (r"image.patch_embed.\g<w>",)),
    Rule(rf"layernorm\.{W}", (r"image.norm.\g<w>",)),
]


def read(folder: Path) -> tuple[SentenceEncoder, None, dict[str, Any]]:
    """The model of published weights, in evaluation mode, and the options of Pixel Linguist. Texts are
    drawn, so there is no tokenizer.

    Raises InputError for what is no folder of PIXEL, for several fonts, and for sizes that do not fit.
    """
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}; name one with PIXEL's config.json and weights"
        )
    state = {
        name.removeprefix("vit."): value
        for name, value in read_weights(folder).items()
        if name.startswith("vit.")
    }
    image = _tower(read_json(folder / "config.json"), state, folder)
    encoder = fill(
        {
            "image": image,
            "text": None,
            "embed_dim": image["width"],
            "image_projection": "none",
            "logit_scale": {"form": "fixed", "init": Config().scale},
        },
        state,
        RULES,
        str(folder),
    )
    options = _font(folder)
    config = Config(**options)
    renderer = TextRenderer(
        patches=encoder.image.config.grid[1],
        patch=image["patch"],
        font=config.font,
        size=config.font_size,
    )
    head = Head(image["width"], config.head_dropout)
    return SentenceEncoder(encoder, head, renderer).eval(), None, options


def _tower(config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
    """The spec of the tower. Raises InputError for what is no PIXEL."""
    positions = state.get("embeddings.position_embeddings")
    kernel = state.get("embeddings.patch_embeddings.projection.weight")
    missing = [name for name in SIZES if name not in config]
    if positions is None or kernel is None or missing:
        raise InputError(
            f"{folder} holds no PIXEL, which has vit.embeddings.* and a config.json with {', '.join(SIZES)}; name "
            "pixel-base, or a run of pixel_linguist"
        )
    if config["hidden_act"] not in ACTIVATION:
        raise unknown(f"activation of {folder}", config["hidden_act"], ACTIVATION)
    patch = kernel.shape[-1]
    size = (patch, patch * min(PATCHES, positions.shape[1] - 1))
    preprocess = Preprocess(size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return {
        "name": "vit",
        "image_size": size,
        "patch": patch,
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "mlp_ratio": config["intermediate_size"] / config["hidden_size"],
        "activation": ACTIVATION[config["hidden_act"]],
        "eps": config["layer_norm_eps"],
        "cls_position": True,
        "pooling": "mean",
        "dropout": config.get("hidden_dropout_prob", 0.0),
        "preprocess": preprocess.to_dict(),
    }


def _font(folder: Path) -> dict[str, Any]:
    """The option of the font in a folder, if there is one."""
    found = sorted(path for path in folder.iterdir() if path.suffix in FONTS)
    if len(found) > 1:
        raise InputError(
            f"{folder} holds {len(found)} fonts; keep the one with which texts are drawn"
        )
    return {"font": str(found[0].resolve())} if found else {}
