"""SDS-CLIP: Augmenting CLIP with Improved Visio-Linguistic Reasoning (Basu et al., 2023).

A little of a trained CLIP is tuned by its own loss, and by the error with which a frozen
text-to-image diffusion model denoises what a linear map makes of the image's vector:

    z = h(f(x)),    z_t = √a_t z + √(1 - a_t) e,    t ~ U{0 … T-1},  e ~ N(0, I)
    L = L_CLIP + λ mean_i || eps(z_t, t, c(y_i)) - e ||²

f(x) is the projected vector of the image before it is made unit, c(y) the diffusion model's own text
encoder. The gradient passes through the frozen network to z, so to h and f; DreamFusion's, of the
same name, leaves out the network's Jacobian. Trained are h and the norms of both towers, all else is
frozen: norms of the text tower learn by L_CLIP alone. Inference: CLIP's similarity; h and the
diffusion model are not needed.

[ours] h may be trained alone first (`warm`). [choice] The squared error is the mean over the numbers
of a latent; of their sum λ would be the product of both.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.views import ImageView, NoiseView, TextView, View
from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.pretrain.clip import Config as ClipConfig
from diptych.methods.tuning import norm_rates
from diptych.models.diffusion import DRAWS, DiffusionModel, mean_errors
from diptych.spec import DenoiserSpec, NotNegative, Share
from diptych.towers.nn.denoiser import noise_errors
from diptych.towers.nn.parts import Frozen

card = {
    "title": "SDS-CLIP: Augmenting CLIP with Improved Visio-Linguistic Reasoning",
    "year": 2023,
    "kind": "method",
    "entry": "SDSCLIP",
    "provenance": "abstract",
}

HELD_OUT = "held_out"
"""The stream on which the error is measured after training, if it is given."""
MEASURED = "sds_error.json"


@dataclass(frozen=True, kw_only=True)
class Config(ClipConfig):
    """Options beside CLIP's, of which `decay` is none.

    - `denoiser` is the diffusion model: a RUN of `denoise`, or `diffusers:FOLDER`.
    - `weight` is λ; 0 leaves CLIP's loss on the norms alone, and needs no denoiser.
    - `reduction` of the squared errors over the numbers of a latent.
    - `times` are the shares of T between which t is drawn.
    - `warm` overrides the recipe of a first stage, which trains the map alone; {} for none.
    """

    denoiser: DenoiserSpec = ""
    weight: NotNegative = 1e-3
    reduction: Literal["mean", "sum"] = "mean"
    times: tuple[Share, Share] = (0.0, 1.0)
    warm: Mapping[str, Any] = field(default_factory=dict)
    keep_statistics: bool = True

    several: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay != 1:
            raise InputError("decay is of whole layers, and only norms are trained; leave it out")
        if self.times[0] >= self.times[1]:
            raise InputError(f"times={self.times} holds no time; give a lower and a higher share")


class NoiseTeacher(Frozen):
    """The frozen diffusion model of a spec, loaded when it is first used.

    Raises InputError then if there is no such model, or it predicts no noise.
    """

    def __init__(self, spec: str):
        super().__init__(None, spec)

    @cached_property
    def model(self) -> DiffusionModel:
        try:
            model = store.load(self.name)
        except InputError as error:
            raise InputError(f"the denoiser cannot be loaded: {error}") from error
        if not isinstance(model, DiffusionModel):
            raise InputError(
                f"{self.name} predicts no noise; name a RUN of denoise or diffusers:FOLDER as denoiser"
            )
        self.hold(model.to(self.checksum.device).delivered)
        return model

    @property
    def module(self) -> Any:
        return self.model.delivered

    @torch.no_grad()
    def rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The rows (B, L, E) of the batch's texts, in its own tokens, and their mask (B, L)."""
        return self.module.rows(*batch.texts["teacher"].flat)

    def noised(self, x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return self.module.noised(x, noise, time)


class LatentMapper(nn.Module):
    """A linear map of vectors (B, E) to latents (B, *shape).

    >>> LatentMapper(8, (4, 16, 16))(torch.zeros(2, 8)).shape
    torch.Size([2, 4, 16, 16])
    """

    def __init__(self, width: int, shape: Sequence[int]):
        super().__init__()
        self.shape = tuple(shape)
        self.linear = nn.Linear(width, prod(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, self.shape)


class SDSCLIP(CLIP):
    """CLIP's loss and the error of a frozen denoiser, on the norms of a trained model."""

    Config = Config
    adapts = True
    # norms alone have few numbers: without crops there is less to learn by heart
    test_options: ClassVar[Mapping[str, Any]] = {"warm": {"steps": 2}, "augment": None}
    features_from = (
        Method.features_from
    )  # the loss reads more than images and texts, so it cannot be added to another method

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        if self.model.sides != ("image", "text"):
            raise InputError(
                "distillation tunes images and texts together, and this model lacks one of the towers; start from "
                "a model of both"
            )
        if config.weight and not config.denoiser:
            raise InputError(
                "no denoiser is given; train one with `diptych train denoise` and name its run with "
                "--method.denoiser, or diffusers:FOLDER"
            )
        self.teacher = NoiseTeacher(config.denoiser) if config.weight else None
        self.mapper: nn.Module | None = None
        self.measures = False

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data {data}",
            "evaluate {run} --data examples.jsonl --suite composition",
        )

    def setup(self, sources: Mapping[str, Any]) -> None:
        """Build the map to the teacher's latents."""
        if self.teacher is not None:
            self.mapper = LatentMapper(self.model.embed_dim, self.teacher.module.shape)
        self.measures = HELD_OUT in sources
        if self.measures and self.teacher is None:
            raise InputError(
                f"weight=0 trains no map whose error could be measured; leave out --data {HELD_OUT}=…"
            )

    def stages(self) -> Sequence[Stage]:
        (stage,) = super().stages()
        frozen = norm_rates("model", self.model)
        stages = [replace(stage, lr_scale=frozen)]
        if self.config.warm and self.teacher is not None:
            alone = {"model": 0.0}
            stages.insert(0, replace(stage, name="map", lr_scale=alone, recipe=self.config.warm))
        if self.measures:
            measure = Stage(
                name="measure", streams=(HELD_OUT,), prepare=self._measure, optimize=False
            )
            stages.append(measure)
        return stages

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        image, text = super().views(stage, stream)
        if self.teacher is None:
            return image, text
        assert isinstance(image, ImageView)
        assert isinstance(text, TextView)
        model = self.teacher.model
        words = replace(text, tokenizer=model.tokenizer, name="teacher", like=text.gives[0])
        first, last = self._times()
        return image, text, words, NoiseView(shape=model.diffusion.shape, steps=last - first)

    def _times(self) -> tuple[int, int]:
        """The first time, and that behind the last."""
        assert self.teacher is not None
        steps = len(self.teacher.module.kept)
        first, last = (round(share * steps) for share in self.config.times)
        return first, max(last, first + 1)

    def _encode_images(self, batch: Batch, at: At) -> Features:
        vector = self._vectors(batch)
        found = {"image": F.normalize(vector, dim=-1)}
        if self.teacher is not None and self.mapper is not None:
            fields: Any = batch.fields
            rows, mask = self.teacher.rows(batch)
            noise = fields["noise"].to(vector)
            time = fields["time"] + self._times()[0]
            found["error"] = noise_errors(
                self.teacher, self.mapper(vector), noise, time, rows, mask
            )
        return found

    def _vectors(self, batch: Batch) -> Tensor:
        """The projected vectors (B, E) of the images, not normalised."""
        return self.model.project_image(self.model.encode_image(batch.image.flat).pooled)

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        losses = super().loss(features, batch, at)
        if self.teacher is None:
            return losses
        error = features["error"].mean()
        numbers = prod(self.teacher.module.shape)
        factor = numbers if self.config.reduction == "sum" else 1
        logged = {"error_mean": error.detach(), "error_sum": numbers * error.detach()}
        return Losses(
            {**losses.terms, "sds": self.config.weight * factor * error},
            {**losses.logged, **logged},
        )

    def _measure(self, run: Any) -> None:
        """Write the mean error on the held-out pairs, over draws that are the same for all."""

        def errors(batch: Batch) -> dict[str, Tensor]:
            assert self.teacher is not None
            assert self.mapper is not None
            z = self.mapper(self._vectors(batch))
            return {"error": mean_errors(self.teacher.module, z, *self.teacher.rows(batch), DRAWS)}

        source = run.sources[HELD_OUT]
        stage = self.stages()[-1]
        found = run.map(errors, self.views(stage, HELD_OUT), source, batch_size=64)["error"]
        values = {"error": float(found.mean()), "n": len(found), "draws": DRAWS}
        run.write(MEASURED, lambda path: path.write_text(json.dumps(values), encoding="utf-8"))


SDSCLIP.presets = {
    "small": replace(
        CLIP.presets["small"],
        config={
            "augment": {"crop": (0.8, 1.0)},
            "denoiser": "",
            "weight": 1.0,
            "warm": {"steps": 200, "lr": 1e-2},
        },
        recipe=Recipe(lr=1e-2, weight_decay=0.0, warmup=0.1, batch_size=32, steps=300),
    ),
    "paper": Preset(
        config={"augment": None, "denoiser": "diffusers:stable-diffusion-v1-4"},
        image="vit:image_size=224:patch=16:width=768:depth=12:heads=12:pre_norm=true",
        text="text:width=512:depth=12:heads=8",
        tokenizer="clip",
        embed_dim=512,
        recipe=Recipe(lr=5e-5, weight_decay=0.1, batch_size=32, epochs=5),
    ),
}
