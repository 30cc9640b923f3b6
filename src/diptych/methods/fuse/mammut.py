"""MaMMUT (Kuo et al., 2023), in the form in which openMaMMUT and the runs of the scaling laws of
Nezhurina et al. (2025) were trained.

One text stack is run twice a step with the same weights. The first pass reads no image and sees the
whole text; its mean is the text's vector. The second is causal, attends to the image, and writes the
caption. Layers of cross-attention stand behind every second layer and are left out in the first pass.

    x = unit(W norm(mean X)),   t = unit(mean text(y))
    L = a/2 [ CE(s x T^T, diagonal) + CE(s t X^T, diagonal) ]
        - b sum_batch sum_t log p(y_t | y_<t, X M) / number of these tokens,        a = b = 1

X are all tokens of the image tower before its final norm, CLS included, and M is a free matrix.
There is no projection of texts: the space has the width of the text stack. The vocabulary's layer
begins at 0, so that the first caption loss is ln V and the image has no influence yet. The mean of a
text leaves out the padding; with a tokenizer of padding=max it has all places of the context, padding too, as
the released models were trained. The end of a text is trained on unless it fills the context, as it
may have been cut. [choice] The original has a focal contrastive loss and video tubes, which neither
this form nor openMaMMUT has. Inference: cosine of x and t; captions by beam search.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from diptych.methods.base import Preset, Recipe
from diptych.methods.families.captions import CaptionsConfig, PairsWithCaptions, writes
from diptych.methods.families.pairs import SMALL, tune
from diptych.methods.make import Make
from diptych.models.multimodal import TwoPassCaptioner, TwoPassLM
from diptych.objectives import info_nce
from diptych.spec import NotNegative
from diptych.towers.nn.parts import Temperature, freeze

card = {
    "title": "MaMMUT: A Simple Architecture for Joint Learning for MultiModal Tasks",
    "year": 2023,
    "kind": "method",
    "entry": "MaMMUT",
    "provenance": "code",
    "abilities": {"generate": "", "log_prob": "", "fuse": ""},
}


@dataclass(frozen=True, kw_only=True)
class Config(CaptionsConfig):
    """Options of `CaptionsConfig`. `contrastive` and `caption` are the weights a and b."""

    caption: NotNegative = 1.0


class MaMMUT(PairsWithCaptions):
    """The contrastive and the captioning loss, each of a pass of its own."""

    Config = Config
    text_space = True
    model: TwoPassCaptioner  # type: ignore[assignment]  # which holds the dual encoder

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        encoder = make.dual(
            logit_scale=Temperature(config.scale, clamp=(1.0, config.max_scale)),
            text_projection="none",
        )
        lm = TwoPassLM(encoder.text, encoder.image.width)
        self.model = TwoPassCaptioner(encoder, writes(make.tokenizer), lm, **config.writing())
        make.go_on(self.model)
        if not config.caption:
            freeze(lm)

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> dict[str, Tensor]:
        scale = self.model.encoder.logit_scale()
        return {"contrastive": self.config.contrastive * info_nce(image, text, scale, **equal)}


def _published(
    image: tuple[int, int], text: tuple[int, int], *, patch: int, lean: bool, **recipe: Any
) -> Preset:
    """A published size: widths and depths of the image tower and the text stack."""
    width, depth = image
    text_width, layers = text
    blocks = "lean" if lean else "apart"
    return Preset(
        config={"augment": None},
        image=f"vit:image_size=224:patch={patch}:width={width}:depth={depth}:heads={width // 64}:patch_bias=false:"
        "cls_position=true:pre_norm=true:pooling=all:norm_after_pool=true",
        text=f"text:width={text_width}:depth={layers}:heads={text_width // 64}:causal=false:pooling=mean:"
        f"cross=0:cross_every=2:cross_blocks={blocks}",
        tokenizer="clip:context=77:padding=max",
        embed_dim=text_width,
        recipe=Recipe(
            **{"lr": 2.5e-3, "warmup": 6000, "steps": 71_023, "batch_size": 180_224, **recipe},
            betas=(0.9, 0.95),
            weight_decay=0.2,
            precision="bfloat16",
        ),
    )


SMALL_TEXT = (
    "text:width=128:depth=2:heads=4:causal=false:pooling=mean:cross=0:cross_every=2:"
    "cross_blocks=apart:dropout=0.1"
)
MaMMUT.presets = {
    "small": replace(SMALL, config={**SMALL.config, "scale": 5.0}, text=SMALL_TEXT, embed_dim=128),
    "paper": _published((1024, 24), (768, 12), patch=14, lean=False),  # openMaMMUT-L/14
    "base": _published((768, 12), (512, 12), patch=32, lean=True),
    "s32": _published((384, 12), (384, 12), patch=32, lean=True),
}
MaMMUT.presets = {**MaMMUT.presets, "tune": tune(MaMMUT.presets["small"])}
