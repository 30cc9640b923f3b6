"""The families of dual encoders of transformers that `hf:` loads and `export --to hf` writes.

A family is plain data: which towers compute its two sides, and how its tensors are named.
"""

from dataclasses import dataclass, field
from typing import Any

from diptych.data.images import HALF
from diptych.models.pretrained.convert import Rule, row, rows, scalar, thirds, under

W = r"(?P<w>weight|bias)"
LAYER = r"encoder\.layers\.(?P<layer>\d+)\."

BLOCK = [
    Rule(rf"layer_norm(?P<n>[12])\.{W}", (r"norm\g<n>.\g<w>",)),
    Rule(rf"self_attn\.(?P<part>[qkv])_proj\.{W}", (r"attn.\g<part>.\g<w>",)),
    Rule(rf"self_attn\.out_proj\.{W}", (r"attn.out.\g<w>",)),
    Rule(rf"mlp\.fc(?P<n>[12])\.{W}", (r"mlp.fc\g<n>.\g<w>",)),
]
HEAD = [
    Rule("probe", ("probe",), rows),
    Rule(rf"attention\.in_proj_{W}", (r"attn.q.\g<w>", r"attn.k.\g<w>", r"attn.v.\g<w>"), thirds),
    Rule(rf"attention\.out_proj\.{W}", (r"attn.out.\g<w>",)),
    Rule(rf"layernorm\.{W}", (r"norm.\g<w>",)),
    Rule(rf"mlp\.fc(?P<n>[12])\.{W}", (r"mlp.fc\g<n>.\g<w>",)),
]
UNREAD = [
    Rule(r".*\.position_ids"),  # 0, 1, 2, …: in older files
    Rule(r"text_model\.pooler\..*"),  # no embedding depends on it
]
IMAGE = [
    *under(rf"vision_model\.{LAYER}", r"image.transformer.layers.\g<layer>.", BLOCK),
    *under(r"vision_model\.head\.", "image.pool.", HEAD),
    Rule(rf"vision_model\.embeddings\.patch_embedding\.{W}", (r"image.patch_embed.\g<w>",)),
    Rule(r"vision_model\.embeddings\.class_embedding", ("image.cls",), row),
    Rule(r"vision_model\.embeddings\.position_embedding\.weight", ("image.positions",)),
    Rule(rf"vision_model\.pre_layrnorm\.{W}", (r"image.pre_norm.\g<w>",)),  # transformers' spelling
    Rule(rf"vision_model\.post_layernorm\.{W}", (r"image.norm.\g<w>",)),
]
TEXT = [
    *under(rf"text_model\.{LAYER}", r"text.transformer.layers.\g<layer>.", BLOCK),
    Rule(r"text_model\.embeddings\.token_embedding\.weight", ("text.table.weight",)),
    Rule(r"text_model\.embeddings\.position_embedding\.weight", ("text.positions",)),
    Rule(rf"text_model\.final_layer_norm\.{W}", (r"text.norm.\g<w>",)),
    Rule(rf"text_model\.head\.{W}", (r"text_projection.\g<w>",)),
]
SPACE = [
    Rule(r"visual_projection\.weight", ("image_projection.weight",)),
    Rule(rf"text_projection\.{W}", (r"text_projection.\g<w>",)),
    Rule("logit_scale|temperature", ("logit_scale.value",), scalar),
    Rule("logit_bias", ("logit_bias",), scalar),
]
ACTIVATION = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
"""transformers' names of activations and ours."""

CLIP_IMAGE = {"patch_bias": False, "cls_position": True, "pre_norm": True}
SIGLIP_IMAGE = {"cls": 0, "pooling": "map"}
CLIP_TEXT = {"causal": True, "pooling": "eot", "padding": "longest"}
SIGLIP_TEXT = {"causal": False, "pooling": "last", "padding": "max"}
SQUASHED = {"resize": "squash", "mean": HALF, "std": HALF}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of dual encoder.

    `image` and `text` are the options of our own towers (`vit`, `text`) that compute its sides, or
    None where the module of transformers does; `pooling` is then that of its text module.
    `projections` are the heads of images and of texts. `divisor` says that it learns the divisor of
    similarities, `most` is the largest number of tokens of a text where that is less than its
    positions, `swap_end` says that an end id of 2 means the highest id, and `offset` that positions
    begin behind the pad's id. `several` says that an image has several vectors, so that the model is a
    `MultiVectorModel`. `standard` are the values of `Preprocess` where the folder has none.
    """

    title: str
    model: str  # the class of transformers
    example: str  # a repository on the hub
    image: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    pooling: str = "first"
    projections: tuple[str, str] = ("linear", "linear")
    divisor: bool = False
    bias: bool = False
    standard: dict[str, Any] = field(default_factory=dict)
    most: int | None = None
    swap_end: bool = False
    offset: bool = False
    several: bool = False

    @property
    def rules(self) -> list[Rule]:
        """Its names of tensors and ours."""
        image = [Rule(r"vision_model\.(?P<name>.*)", (r"image.model.\g<name>",))]
        text = [Rule(r"text_model\.(?P<name>.*)", (r"text.model.\g<name>",))]
        return [
            *UNREAD,
            *(IMAGE if self.image else image),
            *(TEXT if self.text else text),
            *SPACE,
        ]

    @property
    def own(self) -> bool:
        """Whether both sides are towers of our own."""
        return self.image is not None and self.text is not None


FAMILIES = {
    "clip": Family(
        title="CLIP",
        model="CLIPModel",
        example="openai/clip-vit-base-patch32",
        image=CLIP_IMAGE,
        text=CLIP_TEXT,
        swap_end=True,
    ),
    "siglip": Family(
        title="SigLIP, SigLIP 2 at a fixed resolution",
        model="SiglipModel",
        example="google/siglip2-base-patch16-224",
        image=SIGLIP_IMAGE,
        text=SIGLIP_TEXT,
        projections=("none", "affine"),
        bias=True,
        standard=SQUASHED,
    ),
    "metaclip_2": Family(
        title="MetaCLIP 2",
        model="MetaClip2Model",
        example="facebook/metaclip-2-worldwide-huge-quickgelu",
        image=CLIP_IMAGE,
        text=CLIP_TEXT,
    ),
    "align": Family(
        title="ALIGN",
        model="AlignModel",
        example="kakaobrain/align-base",
        projections=("none", "affine"),
        divisor=True,
        most=64,
        standard=SQUASHED | {"size": 289, "margin": 346 / 289, "interpolation": "bilinear"},
    ),
    "altclip": Family(
        title="AltCLIP",
        model="AltCLIPModel",
        example="BAAI/AltCLIP",
        image=CLIP_IMAGE,
        offset=True,
    ),
    "chinese_clip": Family(
        title="Chinese-CLIP",
        model="ChineseCLIPModel",
        example="OFA-Sys/chinese-clip-vit-base-patch16",
        image=CLIP_IMAGE,
    ),
    "tipsv2": Family(
        title="TIPS v2",
        model="Tipsv2Model",
        example="google/tipsv2-b14",
        pooling="mean",
        projections=("none", "none"),
        divisor=True,
        standard=SQUASHED | {"mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bilinear"},
    ),
    "blip-2": Family(
        title="BLIP-2's contrastive pair",
        model="Blip2ForImageTextRetrieval",
        example="Salesforce/blip2-itm-vit-g",
        standard={"resize": "squash"},
        several=True,
    ),
}
"""By the `model_type` of config.json."""

REFUSED = {
    "siglip2": "SigLIP 2 NaFlex reads an image as a list of patches in its own proportions",
}
"""Why kinds of dual encoders do not load."""
