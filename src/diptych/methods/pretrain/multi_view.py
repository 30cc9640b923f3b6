"""MV-InfoNCE and MV-DHEL: A Principled Framework for Multi-View Contrastive Learning (Koromilas et
al., 2025).

One loss term per instance aligns all of its N views at once. MV-DHEL also separates alignment,
across views, from uniformity, within each view, so that many views do not collapse the space. U[l,
i] are unit vectors:

    MV-DHEL      L = mean_i [ -log A_i + Σ_l log Σ_{j≠i} exp(U[l,i]·U[l,j] / tau) ]
    MV-InfoNCE   L = mean_i [ -log P_i + log Σ_l Σ exp(U[l,i]·U[m,j] / tau) ]

P_i sums exp(U[l,i]·U[m,i] / tau) over the ordered pairs of views, A_i over the unordered ones.
`objectives.multiview` has both as in the code and as in the paper, and the objectives that they are
compared with: NT-Xent over pairs of views, against the mean of the others, poly-view; DHEL and KCL
for two views. The views are those of an image and its texts: `images` augmentations and `texts`
captions, with a tower and a projector for each modality. Inference: `represent` returns the towers'
outputs before the projectors, as in the paper; embeddings are the outputs behind them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.sample import BadSample, Source
from diptych.data.views import ArrayView, ImageView, TextView, View
from diptych.errors import InputError, unknown
from diptych.methods.base import At, Features, Losses, Preset, Recipe, Stage
from diptych.methods.families.image_only import STRONG
from diptych.methods.families.pairs import SMALL, PairConfig, Pairs, adopted, tune
from diptych.methods.make import NO_TOWER, Make
from diptych.objectives import dhel, kcl, mv_dhel, mv_infonce, pairwise, poly_view
from diptych.objectives.multiview import average
from diptych.spec import AtLeast, Count, NetworkSpec, Positive, fits
from diptych.towers.nn.heads import head
from diptych.towers.nn.parts import Temperature

card = {
    "title": "A Principled Framework for Multi-View Contrastive Learning",
    "year": 2025,
    "kind": "method",
    "entry": "MultiView",
    "provenance": "code",
}

_FIRST = 100  # samples that are read to count their texts

LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "mv_dhel": mv_dhel,
    "mv_infonce": mv_infonce,
    "pairwise": pairwise,
    "average": average,
    "poly_view": poly_view,
    "dhel": lambda views, tau: dhel(views[0], views[1], tau),
    "kcl": lambda views, tau: kcl(views[0], views[1]),
}
_OF_TWO = ("dhel", "kcl")
_FORMS = ("mv_dhel", "mv_infonce")


@dataclass(frozen=True, kw_only=True)
class Config(PairConfig):
    """Options of the views and the objective.

    - `objective` is one of LOSSES; `form` is that of `mv_dhel` and `mv_infonce`; `tau` is fixed.
    - `images` and `texts` are the numbers of views. No text of `role` is drawn twice, and samples
      with too few are left out.
    - `projector` is the head behind each tower (`towers.nn.heads`).
    - `arrays` maps further modalities, arrays of the data such as another encoder's features, to
      their widths. Each is one view, with separate layers and a projector.
    """

    objective: str = "mv_dhel"
    form: Literal["code", "paper"] = "code"
    tau: Positive = 0.2
    images: Count = 1
    texts: Annotated[int, AtLeast(0)] = 4
    projector: NetworkSpec = "mlp:last_norm=scaled"
    arrays: Mapping[str, int] = field(default_factory=dict)

    several: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective not in LOSSES:
            raise unknown("objective of multi_view", self.objective, LOSSES)
        views = self.images + self.texts + len(self.arrays)
        if views < 2:
            raise InputError(
                "one image is no views to contrast; give two views in all, with images=2 or texts=1"
            )
        if self.objective in _OF_TWO and views > 2:
            raise InputError(f"{self.objective} takes two views, not {views}; choose mv_dhel")
        for name, size in self.arrays.items():
            if not fits(size, Count):
                raise InputError(
                    f"the array {name!r} has {size!r} numbers; give its count, as {{{name}: 512}}"
                )


class MultiView(Pairs):
    """Views of an image and its texts under one of the objectives."""

    Config = Config
    chunkable = False  # batch norm in the projectors mixes samples

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        if (make.text_spec == NO_TOWER) != (config.texts == 0):
            raise InputError(
                "views without texts go with --text-tower none, and only those: set texts=0 with it"
            )
        self.model = make.dual(
            logit_scale=Temperature(1 / config.tau, form="fixed"),
            image_projection=config.projector,
            text_projection=config.projector,
        )
        inner = self.model.image.width
        outer = self.model.embed_dim
        self.encoders = nn.ModuleDict(
            {
                name: nn.Sequential(
                    head("mlp", size, inner, name), head(config.projector, inner, outer, name)
                )
                for name, size in config.arrays.items()
            }
        )
        loss = LOSSES[config.objective]
        self.objective = partial(loss, form=config.form) if config.objective in _FORMS else loss

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Raise InputError if none of the first samples has as many texts as there are text
        views."""
        config = self.config
        source = sources["train"]
        if not config.texts or f"texts.{config.role}" not in source.schema():
            return
        counts = []
        for at in range(min(len(source), _FIRST)):
            with suppress(BadSample):
                counts.append(len(source[at].captions(config.role)))
        if counts and max(counts) < config.texts:
            raise InputError(
                f"samples of {source.name} have at most {max(counts)} texts of role {config.role!r}, and "
                f"{config.texts} views of texts are asked for; lower --method.texts"
            )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        preprocess = self.model.image.preprocess
        views: list[View] = [
            ImageView(preprocess=preprocess, augment=self.augment, count=config.images)
        ]
        if config.texts:
            views.append(
                TextView(
                    tokenizer=self.make.tokenizer,
                    role=config.role,
                    count=config.texts,
                    repeat=False,
                )
            )
        return [
            *views,
            *(ArrayView(array=name, shape=(size,)) for name, size in config.arrays.items()),
        ]

    def encode(self, batch: Batch, at: At) -> Features:
        count = len(batch)
        found = [self.model.embed_images(batch.image.flat).unflatten(0, (count, -1))]
        if self.config.texts:
            found.append(self.model.embed_texts(*batch.text.flat).unflatten(0, (count, -1)))
        for name, encoder in self.encoders.items():
            values: Any = batch.fields[name]
            found.append(normalize(encoder(values), dim=-1)[:, None])
        return {"views": torch.cat(found, 1)}

    def parts(self) -> Mapping[str, Callable[[Batch, At], Features]]:
        return {"all": self.encode}

    def features_from(self, features: Features, owner: str) -> Features:
        """Return the image and the texts of a method on pairs as views, as many as it has."""
        texts = [name for name in features if name.rstrip("0123456789") == "text"]
        if self.config.objective in _OF_TWO and len(texts) > 1:
            raise InputError(
                f"{self.config.objective} takes two views, and {owner} gives {1 + len(texts)}; choose "
                "multi_view:objective=mv_dhel"
            )
        found = adopted(self.name, features, owner, "image", *(texts or ["text"]))
        return {"views": torch.stack([*found.values()], 1)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        views = features["views"].transpose(0, 1)
        return Losses({self.config.objective: self.objective(views, self.config.tau)})


MultiView.presets = {
    "small": replace(
        SMALL,
        config={**SMALL.config, "role": "*", "texts": 1, "images": 2},
        recipe=replace(SMALL.recipe, batch_size=128),
    ),
    "paper": Preset(
        config={"images": 4, "texts": 0, "tau": 0.1, "augment": STRONG},
        image="timm:resnet50:image_size=224",
        text=NO_TOWER,
        embed_dim=128,
        recipe=Recipe(
            optimizer="sgd",
            lr=0.3,
            betas=(0.9, 0.0),
            weight_decay=1e-6,
            warmup=0.1,
            epochs=100,
            batch_size=256,
        ),
    ),
}
MultiView.presets = {**MultiView.presets, "tune": tune(MultiView.presets["small"])}
