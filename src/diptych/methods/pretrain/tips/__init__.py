"""TIPS: Text-Image Pretraining with Spatial Awareness (Maninis et al., ICLR 2025).

A ViT has two CLS tokens: e1 is trained with captions from the web, which name what is salient, e2
with synthetic ones, which describe the whole image. Self-distillation and masked prediction make
its patches useful for dense tasks. Each image has one global crop and M local ones:

    L = 1/2 [ InfoNCE(e1, web) + InfoNCE(e2, synthetic) ] + alpha L_distill + beta L_mask
    L_distill = mean_m CE( softmax((h'(e1') - c) / tau_t), softmax(h(e1_m) / tau_s) )       local crops m
    L_mask    = mean_n CE( softmax((g'(p'_n) - d) / tau_t), softmax(g(p^_n) / tau_s) )      hidden patches n

The student's embeddings e and the teacher's e', p' are of the unmasked global crop; p^ are the
student's patches of the global crop in which a share of the patches is replaced by a learned token.
h, g are heads that give cosines with K prototypes (`objectives.PrototypeHead`). The teacher (') is a
moving average of tower and heads, whose momentum rises to 1 by a cosine; c, d are moving averages
of its logits. Where a smaller model is distilled from a trained one, that is the teacher, unchanged,
and L_mask is of all patches of a student that sees them.

Inference: e1 and e2 as the spaces `web` and `synthetic`, and patches, which are compared with texts
by the route `values` of the tower.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.views import Augment, HiddenView, ImageView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families.pairs import SMALL, DuplicatesConfig, Pairs
from diptych.methods.make import Make
from diptych.methods.pretrain.tips.model import SPACES, WithHeads
from diptych.methods.pretrain.tips.objectives import (
    PrototypeHead,
    centred,
    cross_entropy,
    entropy,
)
from diptych.methods.teacher import Teacher
from diptych.objectives import info_nce
from diptych.spec import (
    Count,
    ModelSpec,
    NetworkSpec,
    NotNegative,
    Positive,
    Share,
    ShareBelowOne,
    Width,
    configure,
)
from diptych.towers.nn.parts import Momentum, Temperature, cosine_momentum, thaw

card = {
    "title": "TIPS: Text-Image Pretraining with Spatial Awareness",
    "year": 2025,
    "kind": "method",
    "entry": "TIPS",
    "provenance": "code",
}

_HEAD = "layers=3:bias=true:last_bias=true:norm=none:activation=gelu"
_CLAMP = (0.001, 1.0)  # of the temperature


@dataclass(frozen=True, kw_only=True)
class Config(DuplicatesConfig):
    """Options.

    - `role` names the two captions of an image: that of the first CLS token, then that of the
      second, separated by `;`.
    - `temperature` is the initial one of the contrastive loss, which is learned as it is.
    - `size` is the side of the global crop in pixels, where it is not that of the image tower: the
      tower's positions are interpolated. With `--init` it makes the stage of high resolution.
    - `crops` is M, the number of local crops of `crop_size` pixels, augmented by `local`.
    - `alpha` and `beta` weigh self-distillation and masked prediction; 0 leaves one out. `distill`
      says whether e1 alone is distilled ("web"), or both with their mean ("both").
    - `mask` is the share of hidden patches, random ones, or with `blocks` those under rectangles.
    - `teacher` is a run of this method, such as one with larger towers and as many prototypes, which
      is distilled: it is the teacher, and no patches are hidden.
    - `head` is the MLP before the prototypes (`towers.nn.heads`), `head_width` the width of its
      output, `prototypes` K.
    - `tau_student` and `tau_teacher` are of self-distillation, `mask_tau_student` and
      `mask_tau_teacher` of masked prediction; the last one goes linearly from its first to its second
      value over the first `ramp` of training.
    - `momentum` is the teacher's at the start, `centre_momentum` that of the centres; with 1 they
      stay 0.
    """

    role: str = "web;synthetic"
    augment: Mapping[str, Any] | None = field(default_factory=lambda: {"crop": (0.4, 1.0)})
    temperature: Positive = 0.07
    size: Count | None = None
    crops: Count = 4
    crop_size: Count = 98
    local: Mapping[str, Any] = field(default_factory=lambda: {"crop": (0.05, 0.4)})
    alpha: NotNegative = 1.0
    beta: NotNegative = 2.0
    distill: Literal["web", "both"] = "web"
    mask: ShareBelowOne = 0.75
    blocks: bool = False
    teacher: ModelSpec | None = None
    head: NetworkSpec = f"mlp:hidden=2048:{_HEAD}"
    head_width: Width = 256
    prototypes: Width = 32_768
    tau_student: Positive = 0.1
    tau_teacher: Positive = 0.07
    mask_tau_student: Positive = 0.1
    mask_tau_teacher: tuple[Positive, Positive] = (0.04, 0.07)
    ramp: Share = 0.3
    momentum: Share = 0.994
    centre_momentum: Share = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.role.count(";") != 1:
            raise InputError(
                f"role {self.role!r} does not name one text for each of the two CLS tokens; give it as 'web;synthetic'"
            )


class TIPS(Pairs):
    """A dual encoder with two CLS tokens, whose patches predict those of a teacher."""

    Config = Config
    averaged: ClassVar = ("centre_cls", "centre_patch")
    test_options: ClassVar = {"crops": 1}  # in less time
    # the loss reads more than images and texts, so it cannot be added to another method
    features_from = Method.features_from
    centre_cls: Tensor
    centre_patch: Tensor

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        scale = Temperature(config.temperature, form="divisor", clamp=_CLAMP)
        fit = dict.fromkeys(("image_projection", "text_projection"), "fit")
        self.model = make.dual(logit_scale=scale, spaces=SPACES, **fit)
        tower: Any = self.model.image
        self.local = configure(Augment, dict(config.local), "local")
        lent = config.teacher is not None
        parts = {"cls": config.alpha > 0, "patch": config.beta > 0 and (config.mask > 0 or lent)}
        self.heads = nn.ModuleDict(
            {
                part: PrototypeHead(config.head, tower.width, config.head_width, config.prototypes)
                for part, used in parts.items()
                if used
            }
        )
        self.distills = parts["cls"]
        self.masks = parts["patch"] and not lent
        self._check_tower(tower)
        if self.masks:
            thaw(tower.mask_token)
        # in a tuple, so that its parts are registered once
        self._delivered = (WithHeads(self.model, self.heads),)
        make.go_on(self._delivered[0])
        if config.size is not None and config.size != tower.config.image_size:
            tower.resize(config.size)
        for part in self.heads:
            self.register_buffer(f"centre_{part}", torch.zeros(config.prototypes))
        if config.teacher is not None:
            self.lent = Teacher(config.teacher)
        elif self.heads:
            self.teacher = Momentum(nn.ModuleList([tower, self.heads]), config.momentum)

    def _check_tower(self, tower: Any) -> None:
        """Raise InputError if the image tower cannot see the crops, or hide patches."""
        config = self.config
        patch = tower.config.patch
        for name in ("size", "crop_size") if self.distills else ("size",):
            size = getattr(config, name)
            if size is not None and size % patch:
                raise InputError(
                    f"method.{name} is {size} pixels, and the image tower's patches are of {patch}; give a multiple"
                )
        lacking = [("any_size", self.distills), ("mask_token", self.masks)]
        for name, needed in lacking:
            if needed and not getattr(tower.config, name):
                raise InputError(
                    f"the image tower has no {name}, by which it reads "
                    f"{'local crops' if name == 'any_size' else 'hidden patches'}; give vit:{name}=true:…"
                )
        if self.masks and tower.config.patch_dropout:
            raise InputError(
                "the image tower leaves out patches at random, and each hidden patch is predicted; set patch_dropout=0"
            )

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        web, synthetic = options.get("role", Config.role).split(";")
        return (
            f"evaluate {{run}} --data {{data}} --suite retrieval --role {web}",
            f"evaluate {{run}} --data {{data}} --suite retrieval --role {synthetic} --space synthetic",
            "segment {run} IMAGES --names 'A,B,C' --route values",
        )

    def setup(self, sources: Mapping[str, Any]) -> None:
        """Raise InputError for a model given as teacher that is not of this method, or whose patches
        or prototypes are others."""
        if self.config.teacher is None:
            return
        model = self.lent.model
        tower: Any = self.model.image
        if not isinstance(model.delivered, WithHeads):
            raise InputError(f"the teacher {model.name} is no run of tips, and has no prototypes")
        theirs: Any = model.encoder.image
        if theirs.config.patch != tower.config.patch:
            raise InputError(
                f"the teacher {model.name} reads patches of {theirs.config.patch} pixels, and the image tower patches "
                f"of {tower.config.patch}; give both the same"
            )
        if self.deliver().prototypes != model.delivered.prototypes:
            raise InputError(
                f"the teacher {model.name} has other prototypes; give the prototypes, alpha and beta that it was "
                "trained with"
            )

    def deliver(self) -> WithHeads:
        return self._delivered[0]

    def taught(self) -> tuple[nn.Module, Mapping[str, Any]]:
        """Return the teacher's image tower and heads."""
        if self.config.teacher is not None:
            return self.lent.module.image, self.lent.model.delivered.heads
        tower, heads = self.teacher.module  # type: ignore[misc]
        return tower, heads

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        tower = self.model.image
        views = [*super().views(stage, stream)]
        if self.distills:
            size = replace(tower.preprocess, size=config.crop_size)
            views.append(
                ImageView(preprocess=size, name="local", augment=self.local, count=config.crops)
            )
        if self.masks:
            views.append(
                HiddenView(grid=tower.config.grid, share=config.mask, blocks=config.blocks)
            )
        return views

    def _encode_images(self, batch: Batch, at: At) -> Features:
        pixels = batch.image.flat
        encoded = self.model.image(pixels)
        vectors = normalize(self.model.project_image(encoded.pooled), dim=-1)
        features = {"image": vectors[:, 0], "image2": vectors[:, 1]}
        if not self.heads:
            return features
        tower, heads = self.taught()
        with torch.no_grad():
            taught = tower(pixels)
        if "cls" in self.heads:
            features |= self._distilled(batch, taught.pooled, heads["cls"])
        if "patch" in self.heads:
            hidden: Any = batch.fields["main.hidden"] if self.masks else None
            seen = encoded if hidden is None else self.model.image(pixels, hidden=hidden)
            features |= self._predicted(seen.patches, hidden, taught.patches, heads["patch"], at)
        return features

    def _distilled(self, batch: Batch, taught: Tensor, teacher: nn.Module) -> Features:
        """L_distill of each image, from the teacher's CLS tokens (B, 2, D) of the global crop."""
        config = self.config
        used = slice(0, 1 if config.distill == "web" else 2)
        local = self.model.image(batch.images["local"].flat).pooled[:, used]
        student = self.heads["cls"](local).unflatten(0, (len(batch), -1))  # (B, M, 1 or 2, K)
        with torch.no_grad():
            logits = teacher(taught[:, used])
        targets = centred(logits, self.centre_cls, config.tau_teacher)
        losses = cross_entropy(targets[:, None], student, config.tau_student)
        return {
            "distill": losses.mean((1, 2)),
            "entropy": entropy(targets).mean(1),
            "centre_cls": logits.mean(1),
        }

    def _predicted(
        self, seen: Tensor, hidden: Tensor | None, taught: Tensor, teacher: Any, at: At
    ) -> Features:
        """The sum of L_mask over the hidden patches of each image, or all of them, and their number,
        from the student's patches and the teacher's of the whole global crop (B, P, D)."""
        config = self.config
        if hidden is None:
            hidden = torch.ones(seen.shape[:2], dtype=torch.bool, device=seen.device)
        student = self.heads["patch"](seen[hidden])
        with torch.no_grad():
            vectors = teacher.vectors(taught)
            logits = teacher.cosines(vectors[hidden])
            mean = teacher.cosines(vectors.mean(1))  # the mean of the logits of all patches
        targets = centred(logits, self.centre_patch, self.mask_tau(at))
        losses = cross_entropy(targets, student, config.mask_tau_student)
        rows = hidden.nonzero()[:, 0]
        return {
            "predicted": losses.new_zeros(len(hidden)).index_add(0, rows, losses),
            "hidden": hidden.sum(1).to(losses.dtype),
            "centre_patch": mean,
        }

    def mask_tau(self, at: At) -> float:
        """The teacher's temperature in masked prediction."""
        first, last = self.config.mask_tau_teacher
        done = min(at.progress / self.config.ramp, 1.0) if self.config.ramp else 1.0
        return first + (last - first) * done

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        config = self.config
        scale = self.model.logit_scale()
        terms = {}
        for space, end in zip(SPACES, self.roles, strict=True):
            pair = features[f"image{end}"], features[f"text{end}"]
            terms[space] = info_nce(*pair, scale, **self.equal(batch, end)) / 2
        logged = dict(self.logged(features))
        if "distill" in features:
            terms["distill"] = config.alpha * features["distill"].mean()
            logged["teacher_entropy"] = features["entropy"].mean()
        if "predicted" in features:
            count = features["hidden"].sum().clamp(min=1)
            terms["mask"] = config.beta * features["predicted"].sum() / count
        means = {name: features[name].detach() for name in self.averaged if name in features}
        return Losses(terms, logged, carry=means)

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        for name, mean in carry.items():
            getattr(self, name).lerp_(mean, 1 - self.config.centre_momentum)
        if self.heads and self.config.teacher is None:
            self.teacher.update(cosine_momentum(self.config.momentum, at.progress))


_VIT = "cls=2:cls_std=0:layer_scale=1.0:mask_token=true:any_size=true:interpolation=bilinear:mean=(0,0,0):std=(1,1,1)"
_TEXT = "activation=relu:causal=false:pooling=mean:positions=sinusoidal:scale_embedding=true"


def _paper(
    width: int,
    depth: int,
    heads: int,
    *,
    mlp: int | None = None,
    text_depth: int = 12,
    activation: str = "gelu",
) -> Preset:
    """The recipe at one size of both towers; `mlp` is the hidden width of a block, by default four
    times the width."""
    ratio = (mlp or 4 * width) / width
    shared = f"width={width}:heads={heads}:mlp_ratio={ratio}"
    return Preset(
        config={name: getattr(Config, name) for name in ("head", "head_width", "prototypes")},
        image=f"vit:image_size=224:patch=14:depth={depth}:{shared}:activation={activation}:eps=1e-6:{_VIT}",
        text=f"text:depth={text_depth}:{shared}:{_TEXT}",
        tokenizer="bpe:vocab_size=32000:context=64",
        embed_dim=width,
        recipe=Recipe(
            lr=5e-4,
            betas=(0.9, 0.98),
            weight_decay=0.1,
            warmup=0.05,
            epochs=70,
            batch_size=16_384,
            precision="bfloat16",
        ),
    )


TIPS.presets = {
    "small": Preset(
        config={
            "augment": {"crop": (0.4, 1.0), "ramp": (0.06, 0.6)},
            "temperature": 0.2,
            "crops": 2,
            "crop_size": 24,
            "head": f"mlp:hidden=256:{_HEAD}",
            "head_width": 256,
            "prototypes": 256,
            "momentum": 0.98,
        },
        image=f"vit:image_size=48:patch=8:stem=conv:depth=3:width=128:heads=4:{_VIT}",
        text=f"text:depth=1:width=128:heads=4:dropout=0.1:{_TEXT}",
        tokenizer=SMALL.tokenizer,
        embed_dim=128,
        recipe=replace(SMALL.recipe, batch_size=64, epochs=20),
    ),
    "paper": _paper(768, 12, 12),
    "vit_s": _paper(384, 12, 6),
    "vit_l": _paper(1024, 24, 16),
    "vit_so400m": _paper(1152, 27, 16, mlp=4304, text_depth=27),
    "vit_g": _paper(1536, 40, 24, activation="swiglu"),
}
