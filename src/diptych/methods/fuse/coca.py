"""CoCa: Contrastive Captioners are Image-Text Foundation Models (Yu et al., TMLR 2022).

An image encoder and one causal text decoder cut in two halves. The lower half reads no image and
gives the text's vector at a learned token behind it; the upper half attends to the image and writes
the caption. One forward pass serves both losses.

    Z = pooler_256(X),   x = unit(W pooler_1(Z)),   t = unit(V u_CLS)
    L = a [ CE(s x T^T, diagonal) + CE(s t X^T, diagonal) ]
        - b sum_batch sum_t log p(y_t | y_<t, Z) / number of these tokens,      a = 1, b = 2

X are the image's tokens, pooler_n one layer of attention of n learned queries, u the lower half's
tokens. The published caption term is a sum over the tokens of a text, whose weight grows with its
length; this is the mean over the tokens of the global batch, as in open_clip. [choice] It counts the
end of a text but not the start; a text that fills the context may have been cut, so its end is not
trained on. Inference: cosine of x and t; captions by beam search (`model.generate`); frozen tokens
X with a new pooler (`probe --fit pooler`).

open_clip's form, whose weights load as `openclip:coca_ViT-B-32/…`, has an image tower that pools by
queries of its own (pooler="none"), a decoder with layers of cross-attention `apart`, and the mean of
both directions.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from diptych.errors import InputError
from diptych.methods.base import Preset, Recipe
from diptych.methods.families.captions import CaptionsConfig, PairsWithCaptions, writes
from diptych.methods.families.pairs import SMALL, tune
from diptych.methods.make import Make
from diptych.models.multimodal import ContrastiveCaptioner, MultimodalLM
from diptych.objectives import info_nce
from diptych.spec import Count, NetworkSpec
from diptych.towers.dual import DualEncoder
from diptych.towers.image.vit import ViT
from diptych.towers.nn.parts import Temperature, freeze
from diptych.towers.nn.pooling import Poolers
from diptych.towers.tower import ImageTower

card = {
    "title": "CoCa: Contrastive Captioners are Image-Text Foundation Models",
    "year": 2022,
    "kind": "method",
    "entry": "CoCa",
    "provenance": "paper",
    "abilities": {"generate": "", "log_prob": "", "fuse": ""},
}


@dataclass(frozen=True, kw_only=True)
class Config(CaptionsConfig):
    """Options beside those of `CaptionsConfig`, whose `contrastive` and `caption` are the weights a
    and b.

    - `directions` says whether the contrastive loss is the sum or the mean of both directions.
    - `pooler` is the attentional poolers of the image (`towers.nn.pooling`), or "none": the tower
      pools by itself, and the decoder reads its queries, if it has some, or its tokens. With `clips` one
      pooler reads the tokens of all frames, which have positions in time: `cascade:frames=8`.
    - `decoder` is the upper half (`models.multimodal`), by default as deep as the lower one.
    - `size` is the side of the images, where it is not that of the given model: positions are
      interpolated.
    """

    directions: Literal["sum", "mean"] = "sum"
    pooler: NetworkSpec = "cascade:queries=256"
    decoder: NetworkSpec = "joint"
    size: Count | None = None


class CoCa(PairsWithCaptions):
    """The contrastive and the captioning loss of one pass."""

    Config = Config
    reads_clips: ClassVar[bool] = True

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        encoder = make.dual(
            logit_scale=Temperature(config.scale, clamp=(1.0, config.max_scale)),
            image_pooler=None if config.pooler == "none" else config.pooler,
        )
        lm = MultimodalLM(encoder.text, config.decoder, encoder.image.width)
        self.model = self.captioner(encoder, lm)
        if config.size is not None and config.size != encoder.image.image_size:
            _resize(encoder.image, config.size)
        poolers = encoder.image_pooler
        if config.clips and not encoder.pools_clips:
            raise InputError(
                "clips are read in their order by poolers with positions in time; give "
                "--method.pooler cascade:queries=16:frames=8, and start from no model with poolers of its own"
            )
        if isinstance(poolers, Poolers):
            freeze(getattr(encoder.image, "pool", None))  # nothing reads what the tower pools
            if poolers.frames is not None:
                poolers.frames.requires_grad_(config.clips)
        if not config.caption:
            freeze(lm)
            if isinstance(poolers, Poolers) and not poolers.cascade:
                freeze(poolers.generative)

    def captioner(self, encoder: DualEncoder, lm: MultimodalLM) -> ContrastiveCaptioner:
        """Return what is delivered, with the weights that training starts from."""
        words = writes(self.make.tokenizer)
        made = ContrastiveCaptioner(encoder, words, lm, **self.config.writing())
        self.make.go_on(made)
        return made

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> dict[str, Tensor]:
        scale = self.model.encoder.logit_scale()
        how = {"directions": self.config.directions, **equal}
        return {"contrastive": self.config.contrastive * info_nce(image, text, scale, **how)}


def _resize(tower: ImageTower, size: int) -> None:
    """Change the size of a tower's images. Raises InputError for a tower that has none of its own."""
    if not isinstance(tower, ViT):
        raise InputError(
            f"method.size resizes a vit, and this image tower is a {tower.kind}; leave it out"
        )
    tower.resize(size)


def _published(
    width: int, heads: int, image: tuple[int, int], text: tuple[int, int], **recipe: Any
) -> Preset:
    """A published size: the image tower's depth and width of the feed-forward layer, and those of
    each half of the decoder."""
    depth, hidden = image
    layers, of_text = text
    return Preset(
        config={"pooler": f"cascade:queries=256:heads={heads}", "augment": None},
        image=f"vit:image_size=288:patch=18:width={width}:depth={depth}:heads={heads}:mlp_ratio={hidden / width}:"
        "cls=0:pooling=mean",
        text=f"text:width={width}:depth={layers}:heads={heads}:mlp_ratio={of_text / width}:pooling=cls",
        tokenizer="bpe:vocab_size=64000:context=64",
        embed_dim=width,
        recipe=Recipe(
            optimizer="adafactor",
            lr=8e-4,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            schedule="linear",
            warmup=0.02,
            **{"steps": 500_000, "batch_size": 65_536, **recipe},
            precision="bfloat16",
        ),
    )


CoCa.presets = {
    "small": replace(
        SMALL,
        config={**SMALL.config, "scale": 5.0, "pooler": "cascade:queries=16"},
        text="text:width=128:depth=2:heads=4:pooling=cls:dropout=0.1",
    ),
    "paper": _published(1408, 16, (40, 6144), (18, 5632)),
    "large": _published(1024, 16, (24, 4096), (12, 4096)),
    "base": _published(768, 12, (12, 3072), (12, 3072)),
    "ablation": _published(768, 12, (12, 3072), (6, 3072), batch_size=4096),
    # The shape and the loss of open_clip's coca_ViT-B-32; the learned token sees no padding here.
    "openclip": Preset(
        config={"pooler": "none", "decoder": "apart", "directions": "mean", "augment": None},
        image="vit:image_size=224:patch=32:width=768:depth=12:heads=12:patch_bias=false:cls_position=true:"
        "pre_norm=true:pooling=queries:queries=256:pool_width=512:pool_heads=8",
        text="text:width=512:depth=12:heads=8:pooling=cls",
        tokenizer="clip:context=76",
        embed_dim=512,
        recipe=Recipe(
            lr=1e-3,
            weight_decay=0.2,
            warmup=2000,
            epochs=32,
            batch_size=32768,
            precision="bfloat16",
        ),
    ),
}
CoCa.presets = {**CoCa.presets, "tune": tune(CoCa.presets["small"], pooler=Config.pooler)}
