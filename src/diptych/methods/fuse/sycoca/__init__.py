"""SyCoCa: Symmetrizing Contrastive Captioners with Attentive Masking (Ma et al., ICML 2024).

CoCa, and its mirror task: masked patches of the image are reconstructed from the text. The patches
that the text is about are masked there; those that it is not about are dropped from what the
captioner reads.

    s_p = max_m cos(I_p, T_m),    drop: the r_l patches of lowest s,    mask: the r_h of highest s
    L = L_CoCa(captions of kept patches) + c · mean over masked patches of ( d_p - unit(x_p) )²

I_p is what the image's vector would be if patch p was all that is pooled, T_m the projected token of
word m; special tokens and pads are no words. There is no gradient through scores. The masked image is
encoded once more, with a learned token at masked patches; it enters neither captions nor contrast. A
decoder whose blocks attend to its tokens and to those of the text gives the pixels d_p; unit(x_p) are
those of the patch, standardised. In the first share `random_masks` of training both masks are random.
Inference is CoCa's, with all patches visible.

From the abstract and a third party's notes; the image decoder, its target, the rate and which
projection makes I_p are ours.

Dimensions: B images, h x w patches, P = h · w, L tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.views import HiddenView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Recipe, Stage
from diptych.methods.families.captions import writes
from diptych.methods.families.pairs import SMALL, tune
from diptych.methods.fuse import coca
from diptych.methods.fuse.sycoca.attentive import highest, lowest, patches_of
from diptych.methods.fuse.sycoca.model import ImageDecoder, SymmetricCaptioner
from diptych.models.model import evaluating
from diptych.models.multimodal import MultimodalLM
from diptych.objectives.reconstruction import Target, reconstruction_errors
from diptych.spec import Count, NotNegative, Share, ShareBelowOne
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.image.vit import ViT
from diptych.towers.nn.parts import thaw
from diptych.towers.tower import ImageTower

card = {
    "title": "SyCoCa: Symmetrizing Contrastive Captioners with Attentive Masking for Multimodal "
    "Alignment",
    "year": 2024,
    "kind": "method",
    "entry": "SyCoCa",
    "provenance": "abstract",
    "abilities": {"generate": "", "log_prob": "", "fuse": "", "reconstruct": ""},
}


@dataclass(frozen=True, kw_only=True)
class Config(coca.Config):
    """Options beside those of coca.

    - `drop` and `mask` are the shares r_l and r_h of the patches, rounded down: those that captions
      do not read, and those that are reconstructed
    - `reconstruction` is the weight c; 0 leaves the image decoder out
    - `random_masks` is the share of training, from its start, in which both masks are random
    - `target` is what is reconstructed: "standardised" pixels of a patch, by squared errors, or
      "raw" ones, by absolute errors
    - `image_depth` is the number of blocks of the image decoder, by default that of the text decoder
    """

    directions: Literal["sum", "mean"] = "mean"
    drop: ShareBelowOne = 0.5
    mask: ShareBelowOne = 0.5
    reconstruction: NotNegative = 1.0
    random_masks: Share = 0.1
    target: Target = "standardised"
    image_depth: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.contrastive and self.random_masks < 1:
            raise InputError(
                "contrastive=0 trains no similarities, by which patches are masked; give random_masks=1"
            )


class SyCoCa(coca.CoCa):
    """CoCa with attentive masking of captions, and text-guided masked image modelling."""

    Config = Config
    model: SymmetricCaptioner

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            *super().next_steps(options),
            "ground {run} IMAGE 'a sentence' --reconstruct DRAWN.png",
        )

    def captioner(self, encoder: DualEncoder, lm: MultimodalLM) -> SymmetricCaptioner:
        config = self.config
        super().captioner(encoder, lm)  # which may start from a run of coca
        decoder = None
        if config.reconstruction:
            tower = _with_mask_token(encoder.image, config.size)
            depth = len(lm.decoder.layers) // (2 if lm.form == "apart" else 1)
            assert encoder.text is not None
            decoder = ImageDecoder(tower, config.image_depth or depth, encoder.text.width)
        made = SymmetricCaptioner(
            encoder,
            writes(self.make.tokenizer),
            lm,
            decoder,
            mask=config.mask,
            target=config.target,
            **config.writing(),
        )
        self.make.go_on(made)
        return made

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        grid = _grid(self.model.image)
        count = grid[0] * grid[1]
        shares = {"main": self.config.mask, "captions": self.config.drop}
        # of two names, so that they are drawn apart
        random = [
            HiddenView(grid=grid, share=patches_of(share, count) / count, name=name)
            for name, share in shares.items()
            if self.config.random_masks
        ]
        return (*super().views(stage, stream), *random)

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the features of coca, and for each role the sum of the errors of masked patches and
        their number."""
        encoder = self.model.encoder
        pixels = batch.image.flat
        image = encoder.encode_image(pixels)
        features = {"image": normalize(encoder.image_vectors(image), dim=-1)}
        for end in self.roles:
            ids, lengths = batch.texts[f"main{end}"].flat
            text = encoder.encode_text(ids, lengths)
            features[f"text{end}"] = normalize(encoder.project_text(text.pooled), dim=-1)
            dropped, masked = self.masks(image, text, lengths, batch, at)
            if self.config.caption:
                seen = encoder.for_decoder(image.keeping(~dropped)) if self.config.drop else image
                features |= self.captioned(self.model.decode(text, seen), ids, lengths, end)
            if self.config.reconstruction:
                patches = self.model.patches(pixels)
                drawn = self.model.draw(patches, masked, text, lengths)
                error, count = reconstruction_errors(drawn, patches, masked, self.config.target)
                features |= {f"error{end}": error, f"masked{end}": count}
        return features

    def masks(
        self, image: Encoded, text: Encoded, lengths: Tensor, batch: Batch, at: At
    ) -> tuple[Tensor, Tensor]:
        """Return the patches (B, P) that captions do not read, and those that are reconstructed."""
        if at.progress < self.config.random_masks:
            return batch.fields["captions.hidden"], batch.fields["main.hidden"]
        scores = self.model.scores(image, text, lengths)
        return lowest(scores, self.config.drop), highest(scores, self.config.mask)

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        found = super().loss(features, batch, at)
        if not self.config.reconstruction:
            return found
        each = [
            features[f"error{end}"].sum() / features[f"masked{end}"].sum().clamp(min=1)
            for end in self.roles
        ]
        term = self.config.reconstruction * torch.stack(each).mean()
        return replace(found, terms={**found.terms, "reconstruction": term})


def _grid(tower: ImageTower) -> tuple[int, int]:
    """The number of patches (h, w) of a tower's images. Raises InputError if it has none."""
    device = next(tower.parameters()).device
    with evaluating(tower), torch.no_grad():
        grid = tower(torch.zeros(1, *tower.preprocess.shape, device=device)).grid
    if grid is None:
        raise InputError(
            f"patches are scored by their tokens, and the image tower {tower.kind} pools them away; give a vit"
        )
    return grid


def _with_mask_token(tower: ImageTower, size: int | None) -> ViT:
    """The tower with a mask token to be trained, for images of its own size or of another. Raises
    InputError for one that cannot mask patches."""
    if not isinstance(tower, ViT):
        raise InputError(
            f"patches are masked in a vit, and this image tower is a {tower.kind}; give --image-tower vit:…, or "
            "reconstruction=0"
        )
    sides = [size] if size else tower.preprocess.shape[-2:]
    if tower.config.patch_dropout or any(side % tower.config.patch for side in sides):
        raise InputError(
            "all pixels of masked patches are reconstructed; give the image tower patch_dropout=0, and sides that "
            f"are multiples of its patch of {tower.config.patch} pixels"
        )
    thaw(tower.add_mask_token())
    return tower


_PAPER = coca.CoCa.presets["openclip"]
SyCoCa.presets = {
    "small": replace(
        coca.CoCa.presets["small"],
        image="vit:image_size=48:patch=8:stem=conv:width=128:depth=3:heads=4:cls=0:pooling=mean:mask_token=true",
        embed_dim=128,
        recipe=replace(SMALL.recipe, batch_size=64, epochs=20),
    ),
    "paper": replace(
        _PAPER,
        image=f"{_PAPER.image}:mask_token=true",
        recipe=Recipe(
            lr=5e-4,
            weight_decay=0.2,
            warmup=2000,
            epochs=20,
            batch_size=2048,
            precision="bfloat16",
        ),
    ),
}
SyCoCa.presets = {
    **SyCoCa.presets,
    "tune": tune(SyCoCa.presets["small"], pooler=Config.pooler),
}
