"""MCL: Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning (ECCV 2024).

A contrastive loss is solved by a few easy features, and others are suppressed. MCL trains one encoder
after another. From the second on, all negatives of a sample have what the earlier encoders see in
common with it, so that only other features tell them apart:

    l_s(i)    the cluster of image i among K, by k-means on the embeddings of encoder s
    c_s(i) =  (l_0(i), …, l_{s-1}(i))          its group in stage s, one of up to K^s
    L      =  the loss of the method `base`, on batches of one group each

Positives are those of `base`. Inference: the embeddings of all encoders side by side, made unit
(`joined.Stages`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych import clusters
from diptych.data.batch import Batch
from diptych.data.loader import require
from diptych.data.plan import OneGroup, Shuffled
from diptych.data.sample import Source
from diptych.data.views import ImageView, LabelView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families import image_only, pairs
from diptych.methods.make import Make
from diptych.methods.pretrain.mcl.groups import combined, coverage, merged
from diptych.methods.pretrain.mcl.joined import Stages
from diptych.methods.registry import is_file, method_class
from diptych.methods.tuning import behind_blocks, has_blocks
from diptych.spec import Count, Natural
from diptych.towers.dual import DualEncoder

card = {
    "title": "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning",
    "year": 2024,
    "kind": "method",
    "entry": "MCL",
    "provenance": "code",
}

_GROUP = "group"  # the field of batches of several groups
_ENOUGH = 0.9  # a stage that trains on a smaller share of the samples warns


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options.

    - `base` is the method whose loss is used, and `options` are its options, other than those of its
      preset `small`. It trains one dual encoder in one stage, as clip, siglip, simclr or byol.
    - `stages` is the number of stages after the first, each with an encoder of its own.
    - `pretrained` says that the model given by `--init` takes the place of the first stage.
    - `clusters` is K. Clusters are of the embeddings of images (`features="embedding"`) or of the
      towers' pooled vectors, which are used downstream of models of images alone (`"pooled"`).
    - `merge` says which clusters make up a group: those of "all" stages so far, or of the "last".
    - `small_groups` says what happens to groups of fewer samples than a batch: "drop" leaves them out,
      "nearest" merges them into the group with the nearest centroid.
    - `batches` are of one group each ("groups"), or "mixed": samples of all groups, of which only
      those of one group are each other's negatives.
    - `locked_text` freezes the text tower from the second stage on; `unlocked` freezes all of the image tower but
      its last groups of parameters: the projection, the last block with the norm behind it, and the
      blocks before, one each. 0 freezes nothing.
    """

    base: str = "clip"
    options: Mapping[str, Any] = field(default_factory=dict)
    stages: Count = 3
    pretrained: bool = False
    clusters: Count = 10
    features: Literal["embedding", "pooled"] = "embedding"
    merge: Literal["all", "last"] = "all"
    small_groups: Literal["drop", "nearest"] = "drop"
    batches: Literal["groups", "mixed"] = "groups"
    locked_text: bool = False
    unlocked: Natural = 0


def _base(name: str) -> type[Method]:
    """Return the class of a base. Raises InputError for a file: a saved model has this name, and a model
    never says what code is run."""
    if is_file(name):
        raise InputError(
            f"method.base is the file {name}; give its module an entry point (docs/add_a_method.md) and write its name"
        )
    return method_class(name)


class MCL(Method):
    """Encoders that are trained one after another, each on batches of what the others cannot tell
    apart."""

    Config = Config

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        cls = _base(config.base)
        if cls.adapts or cls is MCL:
            raise InputError(
                f"method.base is {config.base}, which trains no encoder of its own; name one that does, such as clip "
                "or simclr"
            )
        options = cls.configure({**cls.preset("small").config, **config.options})
        self.bases = nn.ModuleList(cls.of(options, make) for _ in range(config.stages + 1))
        self._check()
        first = self._bases[0]
        # Set on the instance, not on the class.
        self.chunkable = first.chunkable  # type: ignore[misc]
        self.find_unused_parameters = first.find_unused_parameters  # type: ignore[misc]
        self.whole = first.whole  # type: ignore[misc]
        self.averaged = first.averaged  # type: ignore[misc]

    def _check(self) -> None:
        first = self._bases[0]
        found = first.stages()
        single = len(found) == 1 and not found[0].prepare and found[0].streams == ("train",)
        if not single or getattr(first, "model", None) is not first.deliver():
            raise InputError(
                f"method.base is {self.config.base}, which trains more than one dual encoder in one stage; name one "
                "that does not, such as clip or simclr"
            )
        if not isinstance(found[0].plan, Shuffled):
            raise InputError(
                "mcl chooses which samples share a batch, and so do the options distinct and together of "
                f"{self.config.base}; leave them out"
            )
        stateful = type(first).after_step is not Method.after_step or first.averaged
        if self.config.batches == "mixed" and stateful:
            raise InputError(
                f"{self.config.base} keeps state of whole batches; leave out --method.batches mixed"
            )
        if self.config.unlocked and not has_blocks(self._encoder(0).image):
            raise InputError(
                "unlocked counts transformer blocks, and this image tower has none; leave it out"
            )
        self._encoder(0).image  # noqa: B018  # raises InputError where there is none

    @property
    def _bases(self) -> list[Method]:
        return list(self.bases)  # type: ignore[arg-type]

    def _encoder(self, number: int) -> DualEncoder:
        return self._bases[number].model

    @classmethod
    def continues(cls, options: Mapping[str, Any]) -> bool:
        return bool(options.get("pretrained"))

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        base = _base(options.get("base", cls.Config.base))
        return base.next_steps(options.get("options", {}))

    def setup(self, sources: Mapping[str, Any]) -> None:
        # now, not after the first stage
        clusters.ready(len(sources["train"]), self.config.clusters, "mcl")
        for base in self._bases:
            base.setup(sources)

    # ---- stages

    def stages(self) -> Sequence[Stage]:
        begin = 1 if self.config.pretrained else 0
        return [self._stage(number) for number in range(begin, len(self.bases))]

    def _stage(self, number: int) -> Stage:
        [stage] = self._bases[number].stages()
        prefix = f"bases.{number}"
        rates = {
            f"{prefix}.{name}".rstrip("."): rate
            for name, rate in {"": 1.0, **stage.lr_scale, **self._locks(number)}.items()
        }
        grouped = number > 0 and self.config.batches == "groups"
        return replace(
            stage,
            name=f"stage{number}",
            plan=OneGroup(f"group{number}") if grouped else stage.plan,
            lr_scale={"bases": 0.0, **rates},
            clip={f"{prefix}.{name}": bound for name, bound in stage.clip.items()},
            prepare=self.group if number else None,
        )

    def _locks(self, number: int) -> dict[str, float]:
        """Rates by prefix of a base's parameters: 0 for what is frozen."""
        if number == 0:
            return {}
        rates = {}
        if self.config.locked_text:
            rates |= {"model.text": 0.0, "model.text_projection": 0.0}
        if self.config.unlocked:
            tower: Any = self._encoder(number).image
            blocks = len(tower.transformer.layers)
            last = range(max(0, blocks - self.config.unlocked + 1), blocks)
            rates |= {"model.image": 0.0}
            rates |= {f"model.image.transformer.layers.{at}": 1.0 for at in last}
            if last:  # what lies behind the blocks is trained with the last of them
                rates |= {f"model.image.{name}": 1.0 for name in behind_blocks(tower)}
        return rates

    @staticmethod
    def _number(at: At) -> int:
        return int(at.stage.removeprefix("stage"))

    def _base(self, at: At) -> tuple[Method, At]:
        """The method of a stage, and the position as that method sees it."""
        return self._bases[self._number(at)], replace(at, stage="train")

    # ---- groups

    def group(self, run: Any) -> None:
        """Before a stage: cluster all images by the encoder of the stage before, and store the groups
        of this one."""
        number = self._number(run.at)
        encoder = self._encoder(number - 1)
        source = run.sources["train"]
        views = (ImageView(preprocess=encoder.image.preprocess),)
        require(source, views[0].reads, self.name)
        vectors = run.map(partial(self._vectors, encoder), views, source)["vectors"]
        own, centroids = self.cluster(vectors, run.at.seed)
        earlier = range(number - 1) if self.config.merge == "all" else ()
        labels = [np.asarray(source.labels(f"cluster{each}")) for each in earlier]
        groups = combined([*labels, own], self.config.clusters)
        if self.config.small_groups == "nearest":
            groups = merged(groups, vectors, run.batch_size)
        run.store("train", {f"cluster{number - 1}": own, f"group{number}": groups})
        self._report(run, number, {"clusters": own, "groups": groups, "centroids": centroids})

    def cluster(self, vectors: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the clusters (N,) of vectors (N, E) and their centroids (K, E)."""
        return clusters.k_means(vectors, self.config.clusters, seed)

    @torch.no_grad()
    def _vectors(self, encoder: DualEncoder, batch: Batch) -> Mapping[str, Tensor]:
        if self.config.features == "embedding":
            found = encoder.embed_images(batch.image.flat)
        else:
            found = normalize(encoder.encode_image(batch.image.flat).pooled, dim=-1)
        return {"vectors": found.float()}

    def _report(self, run: Any, number: int, found: Mapping[str, np.ndarray]) -> None:
        """Write the groups of a stage into the run's folder, and warn if many samples are left
        out."""
        one = self.config.batches == "groups"
        covered = coverage(found["groups"], run.batch_size) if one else 1.0
        metadata = {
            "clusters": self.config.clusters,
            "seed": run.at.seed,
            "batch_size": run.batch_size,
            "coverage": round(covered, 4),
        }
        text = {name: str(value) for name, value in metadata.items()}
        arrays = {name: np.ascontiguousarray(value) for name, value in found.items()}
        run.write(f"groups-{number}.safetensors", lambda path: save_file(arrays, path, text))
        if covered < _ENOUGH:
            run.warn(
                f"stage {number} trains on {covered:.0%} of the samples, since the rest fills no batch of "
                f"{run.batch_size} of one group; lower --batch-size or --method.clusters, or give "
                "--method.small_groups nearest"
            )

    # ---- steps

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        return self._bases[0].samples(stage, stream, source)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        number = int(stage.name.removeprefix("stage"))
        views = self._bases[number].views(stage, stream)
        if number == 0 or self.config.batches == "groups":
            return views
        return (*views, LabelView(label=f"group{number}", name=_GROUP))

    def encode(self, batch: Batch, at: At) -> Features:
        base, seen = self._base(at)
        return base.encode(batch, seen)

    def parts(self) -> Mapping[str, Callable[[Batch, At], Features]]:
        def part(name: str, batch: Batch, at: At) -> Features:
            base, seen = self._base(at)
            return base.parts()[name](batch, seen)

        return {name: partial(part, name) for name in self._bases[0].parts()}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        base, seen = self._base(at)
        if _GROUP not in batch.fields:
            return base.loss(features, batch, seen)
        groups = batch.fields[_GROUP]
        members = [(groups == group).nonzero().flatten() for group in groups.unique()]
        found = []
        for rows in members:
            own = {name: value[rows] for name, value in features.items()}
            found.append(base.loss(own, _rows(batch, rows), seen))
        shares = [len(rows) / len(batch) for rows in members]
        return Losses(
            _means(shares, [each.terms for each in found]),
            _means(shares, [each.logged for each in found]),
        )

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        base, seen = self._base(at)
        base.after_step(carry, seen)

    def deliver(self) -> Stages:
        return Stages([base.model for base in self._bases])


def _rows(batch: Batch, rows: Tensor) -> Batch:
    """The samples of a batch with these numbers."""
    keys = [batch.keys[row] for row in rows.tolist()]
    return replace(batch.map(lambda tensor: tensor[rows]), keys=keys)


def _means(shares: Sequence[float], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The means of named values over groups, by their shares of the batch."""
    return {
        name: sum(share * each[name] for share, each in zip(shares, found, strict=True))
        for name in found[0]
    }


# No averaged weights: clusters are of an encoder's last weights, and so is what is delivered.
_RECIPE = replace(pairs.SMALL.recipe, ema=None)

_SMALL = {"stages": 2, "clusters": 4, "small_groups": "nearest"}

MCL.presets = {
    "small": replace(pairs.SMALL, config=_SMALL, recipe=replace(_RECIPE, epochs=10)),
    "images": replace(
        image_only.SMALL,
        config={"base": "simclr", "features": "pooled", **_SMALL},
        recipe=replace(_RECIPE, epochs=10),
    ),
    # CC12M, from the weights of OpenAI: --init openclip:ViT-L-14-quickgelu/openai
    "paper": Preset(
        config={
            "options": {"augment": None, "scale": 1 / 0.07},
            "pretrained": True,
            "locked_text": True,
            "unlocked": 6,
        },
        image="vit:image_size=224:patch=14:width=1024:depth=24:heads=16:pre_norm=true:activation=quick_gelu",
        text="text:width=768:depth=12:heads=12:activation=quick_gelu",
        tokenizer="clip",
        embed_dim=768,
        recipe=Recipe(
            lr=5e-4,
            betas=(0.9, 0.98),
            eps=1e-6,
            weight_decay=0.2,
            schedule="constant",
            warmup=600,
            epochs=20,
            batch_size=8000,
            precision="bfloat16",
        ),
    ),
}
_TUNE = pairs.tune(pairs.SMALL)
MCL.presets = {
    **MCL.presets,
    "tune": replace(_TUNE, config={"options": _TUNE.config, "pretrained": True, **_SMALL}),
}
