"""MMGeoLM, the encoder MMCLIP: Hard Negative Contrastive Learning for Fine-Grained Geometric
Understanding in Large Multimodal Models (2025, arXiv 2505.20152).

A dual encoder is trained on lists. Each sample has one image, one caption and K negatives of its
own: captions that state another fact, or images drawn from edited code. No term joins two samples.

    text stage     z_j = s <x, t_j>           L = mean of -z_0 + log Σ_j exp z_j
    image stage    z_j = s <x_j, t> + b       L = mean of Σ_j softplus(-y_j z_j),   y_0 = 1, others -1

x, t are unit vectors, s = exp(theta) and b are learned, and candidate 0 is the right one. The two
forms are those of the published scripts; each stage takes either. Inference: cosine similarity.

lists.py      losses of lists
negatives.py  wrong captions by rules and by retrieval
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.sample import BadSample
from diptych.data.views import EditsView, ImageView, TextView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families.pairs import SMALL
from diptych.methods.make import Make
from diptych.methods.pretrain.mmgeolm.lists import Form, list_logits, list_loss
from diptych.methods.tuning import keep_statistics
from diptych.spec import Count, Positive
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature

card = {
    "title": "Hard Negative Contrastive Learning for Fine-Grained Geometric Understanding in Large Multimodal Models",
    "year": 2025,
    "kind": "method",
    "entry": "MMGeoLM",
    "provenance": "code",
}

AXES = ("text", "image")
_MEASURED = 500  # samples whose captions are compared before the text stage
_READ = 100  # samples of which one must have negatives for each stage


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the lists; the negatives are the `edits` of a sample.

    - `role` is the role of the captions, of samples and edits alike.
    - `order` is the order of the stages, "text" and "image", or one of them.
    - `texts` and `images` are the most negatives in a list (K) of each stage; of more, random ones
      are drawn in each epoch.
    - `kinds` are the kinds of edits that are negatives, () for all.
    - `text_loss`, `text_bias`, `image_loss` and `image_bias` are the form of the loss, and whether
      the bias is added, in each stage.
    - `frozen` are towers that are not trained.
    - `keep_statistics` keeps the running means and variances of the towers' batch norms.
    - `scale` and `bias` are initial values; those of a given model are kept.
    """

    role: str = "caption"
    order: tuple[str, ...] = AXES
    texts: Count = 5
    images: Count = 9
    kinds: tuple[str, ...] = ()
    text_loss: Form = "softmax"
    text_bias: bool = False
    image_loss: Form = "sigmoid"
    image_bias: bool = True
    frozen: tuple[str, ...] = ()
    keep_statistics: bool = False
    scale: Positive = 10.0
    bias: float = -10.0

    def __post_init__(self) -> None:
        for option, given, least in (("order", self.order, 1), ("frozen", self.frozen, 0)):
            if len(given) < least or len(set(given)) < len(given) or not set(given) <= set(AXES):
                raise InputError(
                    f"{option} is {list(given)}; it must be text, image or both, each once"
                )


class MMGeoLM(Method):
    """A dual encoder trained on each sample's own list of captions, then of images."""

    Config = Config
    model: DualEncoder
    find_unused_parameters = True  # the bias, in a stage whose loss has none

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.model = make.dual(logit_scale=Temperature(config.scale), logit_bias=config.bias)

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return "evaluate {run} --data {data} --suite composition", "embed {run} SOURCE --out EMB"

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.config.keep_statistics:
            keep_statistics(self.model.image, self.model.text)
        return self

    def setup(self, sources: Mapping[str, Any]) -> None:
        """Raise InputError if the first samples have no negatives for a stage."""
        source = sources["train"]
        if "edits" not in source.schema():
            return  # an error of its own, which names the field
        lacking = {axis: "captions" if axis == "text" else "images" for axis in self.config.order}
        for index in range(min(len(source), _READ)):
            try:
                edits = source[index].edits
            except BadSample:
                continue
            if self.config.kinds:
                edits = [edit for edit in edits if edit.kind in self.config.kinds]
            if any(edit.captions(self.config.role) for edit in edits):
                lacking.pop("text", None)
            if any("main" in edit.images for edit in edits):
                lacking.pop("image", None)
            if not lacking:
                return
        for axis, what in lacking.items():
            others = [each for each in self.config.order if each not in lacking]
            remedy = f", or leave the stage out with --method.order [{others[0]}]" if others else ""
            named = f" of kind {' or '.join(self.config.kinds)}" if self.config.kinds else ""
            raise InputError(
                f"{source.name}: the first samples have no edits{named} with {what}, which the stage {axis!r} "
                f"compares; `diptych data negatives` makes them{remedy}"
            )

    def stages(self) -> Sequence[Stage]:
        frozen = {f"model.{tower}": 0.0 for tower in self.config.frozen}
        return [
            Stage(
                name=axis,
                lr_scale=frozen,
                min_batch=1,
                prepare=self._compare if axis == "text" else None,
            )
            for axis in self.config.order
        ]

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        edits: dict[str, Any] = (
            {"tokenizer": self.make.tokenizer, "max_edits": config.texts}
            if stage.name == "text"
            else {"preprocess": self.model.image.preprocess, "max_edits": config.images}
        )
        return (
            # as the edits are read: a crop would tell the sample from its edits
            ImageView(preprocess=self.model.image.preprocess, augment=None),
            TextView(tokenizer=self.make.tokenizer, role=config.role),
            EditsView(kinds=config.kinds, role=config.role, **edits),
        )

    def _compare(self, run: Any) -> None:
        """Warn of captions that the tokenizer cuts to those of their sample."""
        tokenizer = self.make.tokenizer
        source = run.sources["train"]
        same = 0
        count = 0
        for index in range(0, len(source), -(-len(source) // _MEASURED)):
            try:
                sample = source[index]
            except BadSample:  # the loader counts it
                continue
            own = sample.captions(self.config.role)[:1]
            others = [edit.captions(self.config.role)[:1] for edit in sample.edits]
            ids = tokenizer.encode(own + [text for each in others for text in each])
            same += sum(each == ids[0] for each in ids[1:])
            count += max(0, len(ids) - 1)
        if same:
            run.warn(
                f"{same} of {count} negative captions read like the caption of their sample, whole or in the first "
                f"{tokenizer.context} tokens, and are left out; mend them, or give the tokenizer a longer context"
            )

    def encode(self, batch: Batch, at: At) -> Features:
        return {**self._encode_images(batch, at), **self._encode_texts(batch, at)}

    def parts(self) -> Mapping[str, Callable[[Batch, At], Features]]:
        return {"images": self._encode_images, "texts": self._encode_texts}

    def _encode_images(self, batch: Batch, at: At) -> Features:
        own = batch.image.pixels
        if at.stage == "text":
            return {"image": self.model.embed_images(own.flatten(0, 1))}
        edits = batch.images["edits"].pixels
        there = batch.fields["edits.there"] & (edits != own).flatten(2).any(2)
        flat = torch.cat([own.flatten(0, 1), edits[there]])
        return _lists("image", self.model.embed_images(flat), there)

    def _encode_texts(self, batch: Batch, at: At) -> Features:
        own, lengths = batch.text.flat
        if at.stage == "image":
            return {"text": self.model.embed_texts(own, lengths)}
        edits = batch.texts["edits"]
        longest = max(own.shape[-1], edits.ids.shape[-1])
        pad = self.make.tokenizer.pad
        own, others = (
            F.pad(ids, (0, longest - ids.shape[-1]), value=pad) for ids in (own, edits.ids)
        )
        there = batch.fields["edits.there"] & (others != own[:, None]).any(2)
        ids = torch.cat([own, others[there]])
        return _lists(
            "text", self.model.embed_texts(ids, torch.cat([lengths, edits.lengths[there]])), there
        )

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        axis = at.stage
        anchor = features["image" if axis == "text" else "text"]
        there = features["there"] > 0
        bias = self.model.logit_bias if getattr(self.config, f"{axis}_bias") else None
        logits = list_logits(anchor, features[axis], self.model.logit_scale(), bias)
        form = getattr(self.config, f"{axis}_loss")
        wrong = logits[:, 1:].masked_fill(~there[:, 1:], -torch.inf)
        first = (logits[:, :1] > wrong).all(1)
        return Losses(
            {"list": list_loss(logits, there, form=form)},
            {
                "scale": self.model.logit_scale(),
                "first": first.float().mean(),
                "negatives": features["there"][:, 1:].sum(1).mean(),
            },
        )


def _lists(name: str, vectors: Tensor, there: Tensor) -> Features:
    """Return the vectors of B samples, then of their negatives where `there` (B, K), as lists
    (B, 1 + K, E), and which members of the lists exist."""
    own, others = vectors.split([len(there), len(vectors) - len(there)])
    filled = own.new_zeros(*there.shape, own.shape[-1])
    filled = filled.index_put(there.nonzero(as_tuple=True), others)
    exists = F.pad(there, (1, 0), value=True)
    return {name: torch.cat([own[:, None], filled], 1), "there": exists.to(own.dtype)}


MMGeoLM.presets = {
    "small": replace(SMALL, config={}),
    "paper": Preset(
        image="vit:image_size=378:patch=14:width=1152:depth=27:heads=16:mlp_ratio=3.7362:pooling=map",
        text="text:width=1152:depth=27:heads=16:mlp_ratio=3.7362:causal=false:pooling=last",
        tokenizer="bpe:vocab_size=32000:context=64:padding=max",
        embed_dim=1152,
        recipe=Recipe(
            lr=2e-5,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            warmup=0.03,
            epochs=1,
            batch_size=5,
            precision="bfloat16",
        ),
    ),
}
MMGeoLM.presets = {
    **MMGeoLM.presets,
    "tune": replace(
        MMGeoLM.presets["small"],
        config={"keep_statistics": True},
        recipe=replace(MMGeoLM.presets["paper"].recipe, precision="float32"),
    ),
}
