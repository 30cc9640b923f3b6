"""ViLLA: Fine-Grained Vision-Language Representation Learning from Real-World Data (Varma et al., ICCV
2023).

An image with many regions has one long text. A first model learns which region has which attribute of
the text, from pairs of whole images and texts alone, on frozen features. Then the image tower is
trained on regions with texts of their own.

    mapping    cos_ja = < unit(h_a(r_j)), e_a >,    S_ia = max_j cos_ja / tau
               L = -mean over (i, a): a in text i   log [ exp(S_ia) / ( exp(S_ia) + Σ_{k: a not in text k} exp(S_ka) ) ]
    assign     region j has attribute a of its image's text if  cos_ja > max_j' cos_j'a - eps
    contrast   InfoNCE over all units of the batch: the regions with an attribute, with the sentences of
               their attributes, and the whole images with their whole texts

r_j are the vectors of regions before training, not normalised; e_a is the mean direction of attribute
a's name in several prompts; h_a is a head for each attribute. A text is the normalised mean of its
sentences' vectors by the frozen text tower. Inference: regions and images by cosine with texts
(`embed_regions`, suite `attributes`).

mapping.py   heads, loss and rule of the mapping
texts.py     sentences, and what they mention
report.py    the files that the mapping leaves in the run's folder

Dimensions: B images, R regions, A attributes, S sentences, E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.loader import require
from diptych.data.matcher import Matcher
from diptych.data.templates import BANKS, checked, filled
from diptych.data.tokenizers import pad_batch
from diptych.data.views import ArrayView, ImageView, RegionView, View
from diptych.errors import InputError
from diptych.methods.base import (
    At,
    Features,
    Losses,
    Method,
    Preset,
    Recipe,
    Stage,
    of_validation,
)
from diptych.methods.dense.villa.mapping import Mapper, assigned, column_nce, image_scores
from diptych.methods.dense.villa.report import write_report
from diptych.methods.dense.villa.texts import MentionsView, unit_texts
from diptych.methods.families.few_shot import SMALL
from diptych.methods.make import Make
from diptych.methods.tuning import keep_statistics
from diptych.models.class_names import check_names, mean_directions, read_names
from diptych.models.regions import squashed
from diptych.objectives import info_nce
from diptych.spec import Count, Positive, ShareBelowOne
from diptych.towers.nn.parts import Temperature, freeze
from diptych.towers.regions import (
    at_any_size,
    check_side,
    image_and_regions,
    keep_patches,
)

card = {
    "title": "ViLLA: Fine-Grained Vision-Language Representation Learning from Real-World Data",
    "year": 2023,
    "kind": "method",
    "entry": "ViLLA",
    "provenance": "code",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options.

    - `attributes` are the names that are looked for in texts: "red,blue", or a file with one a line;
      by default the classes of the data's boxes. `plural` finds their plurals too.
    - `role` is that of the texts, of which an image has at most `sentences` sentences.
    - `regions` are those of `data.views.RegionView`: "boxes" of the data, "grid:side=3", or
      "random:count=8"; `max_boxes` is the largest number in an image. No label or text of a box is read.
    - `route` is how regions are computed (`towers.regions`), by default the tower's `dense_route`;
      "crops" is the published one, of ResNets of CLIP. `size` is the side in pixels at which whole
      images are read, by default the tower's.
    - `templates` are the prompts of attributes.
    - `heads` are one for each attribute, or one that all share; `residual` is the share of the
      region's own vector beside the head's (.8 is the published adapter).
    - `legacy_offset` computes the loss of the mapping as the published code does.
    - `mapping_lr`, `mapping_epochs` and `mapping_batch` are the recipe of the mapping.
    - `tau` is the temperature of both stages, `eps` the cosine by which a region may be below the
      best one.
    - `keep_statistics` keeps the running means and variances of the image tower's batch norms.
    - `select` names a number of the validation by which the best epoch of the contrast is chosen;
      it ends after `patience` epochs without a better one. The mapping keeps its last weights.
    """

    attributes: str | tuple[str, ...] = ()
    plural: bool = False
    role: str = "caption"
    sentences: Count = 40
    regions: str = "boxes"
    max_boxes: Count = 16
    route: str | None = None
    size: Count | None = None
    templates: tuple[str, ...] = BANKS["images"]
    heads: Literal["attribute", "shared"] = "attribute"
    residual: ShareBelowOne = 0.0
    legacy_offset: bool = False
    mapping_lr: Positive = 1e-4
    mapping_epochs: Positive = 30.0
    mapping_batch: Count = 48
    tau: Positive = 0.07
    eps: Positive = 0.2
    keep_statistics: bool = True
    select: str | None = None
    patience: Count = 5

    def __post_init__(self) -> None:
        checked(self.templates, "villa")


class ViLLA(Method):
    """A dual encoder whose image tower learns from regions and the texts that were mapped to them."""

    Config = Config
    adapts = True
    # a step of the mapping uses the heads of the attributes in the batch
    find_unused_parameters = True
    estimated = "contrast"  # the mapping runs no tower
    test_options: ClassVar = {
        "attributes": ("red", "orange", "green", "blue", "circle", "square", "bar", "left", "top"),
        "max_boxes": 3,
        "sentences": 2,
        "route": None,
        "mapping_batch": 16,
    }
    attribute_vectors: Tensor

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        model = make.dual(logit_scale=Temperature(1 / config.tau, form="fixed"))
        if model.text is None:
            raise InputError("villa reads texts; start from a model of images and texts")
        tower = model.image
        self.size = config.size or tower.image_size
        check_side(tower, self.size, "method.size")
        self.model = model if self.size == tower.image_size else at_any_size(model)
        keep_patches(self.model.image)
        freeze(self.model.text, self.model.text_projection, self.model.logit_scale)
        self.names: tuple[str, ...] = ()
        if config.attributes:
            self._hold(read_names(config.attributes, "--method.attributes"))

    @classmethod
    def resolve_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Replace the name of a file of attributes by the names themselves."""
        if not (given := options.get("attributes")):
            return options
        return {**options, "attributes": read_names(given, "--method.attributes")}

    def setup(self, sources: Mapping[str, Any]) -> None:
        """Take the attributes from the classes of the data's boxes, unless options name them. Raises
        InputError where neither does."""
        if self.names:
            return
        source = sources["train"]
        field = source.schema().get("boxes")
        if field is None or not field.classes:
            raise InputError(
                f"the boxes of {source.name} have no class names to look for in its texts; name the attributes: "
                "--method.attributes 'red,blue', or a file with one a line"
            )
        self._hold(field.classes)

    def _hold(self, names: Sequence[str]) -> None:
        """Allocate what depends on the attributes: their vectors and their heads."""
        self.matcher = Matcher(check_names(names), plural=self.config.plural)
        self.names = self.matcher.names
        like = next(self.model.parameters())
        E = self.model.embed_dim
        self.register_buffer("attribute_vectors", like.new_zeros(len(self.names), E))
        count = 1 if self.config.heads == "shared" else len(self.names)
        self.mapper = Mapper(count, E, self.config.residual).to(like.device)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        assert self.model.text is not None
        self.model.text.eval()
        if self.config.keep_statistics:
            keep_statistics(self.model.image)
        return self

    # ---- stages

    def stages(self) -> Sequence[Stage]:
        config = self.config
        heads = {
            "optimizer": "adamw",
            "lr": config.mapping_lr,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.01,
            "schedule": "constant",
            "warmup": 0.0,
            "epochs": config.mapping_epochs,
            "batch_size": config.mapping_batch,
            "clip": None,
        }
        image = [name for name, _ in self.model.named_children() if name.startswith("image")]
        return (
            Stage(
                name="mapping",
                recipe=heads,
                prepare=self.read,
                lr_scale={"": 0.0, "mapper": 1.0},
            ),
            Stage(name="assign", prepare=self.assign, optimize=False),
            Stage(
                name="contrast",
                lr_scale={"": 0.0, **{f"model.{name}": 1.0 for name in image}},
                select=config.select and of_validation(config.select),
                patience=config.patience if config.select else None,
            ),
        )

    @cached_property
    def _regions_view(self) -> RegionView:
        preprocess = squashed(self.model.image.preprocess, self.size)
        return RegionView(
            preprocess=preprocess, max_boxes=self.config.max_boxes, regions=self.config.regions
        )

    @property
    def _mentions_view(self) -> MentionsView:
        config = self.config
        matcher = self.matcher if self.names else Matcher(())
        return MentionsView(
            tokenizer=self.make.tokenizer,
            matcher=matcher,
            max_sentences=config.sentences,
            role=config.role,
        )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        R = self.config.max_boxes
        E = self.model.embed_dim
        there = ArrayView(array="regions_there", shape=(R,))
        if stage.name == "mapping":
            attributes = ArrayView(array="regions_attributes", shape=(len(self.names),))
            return ArrayView(array="regions", shape=(R, E)), there, attributes
        if stage.name == "assign":
            return ArrayView(array="regions", shape=(R, E)), there, self._mentions_view
        return (
            ImageView(preprocess=self._regions_view.preprocess),
            ArrayView(array="regions_boxes", shape=(R, 4)),
            ArrayView(array="units", shape=(R + 1,)),
            ArrayView(array="units_texts", shape=(R + 1, E)),
        )

    def needs(self, stage: Stage, stream: str = "train") -> tuple[str, ...]:
        given = super().needs(stage, stream)
        if stage.name != "mapping":
            return given
        return tuple(dict.fromkeys((*self._read_fields(), *given)))

    def _read_fields(self) -> tuple[str, ...]:
        return (*self._regions_view.reads, *self._mentions_view.reads)

    def read(self, run: Any) -> None:
        """Compute the vectors of all regions and the attributes that the texts mention, before any
        training."""
        source = run.sources["train"]
        require(source, self._read_fields(), self.name)
        if (batch := self.config.mapping_batch) > len(source):
            raise InputError(
                f"the mapping reads batches of {batch}, and {source.name} has {len(source)} samples; lower "
                "--method.mapping_batch"
            )
        self._embed_attributes()

        def found(batch: Batch) -> Features:
            boxes = batch.fields["regions"]
            _, regions = image_and_regions(self.model, batch.image.flat, boxes, self.config.route)
            return {
                "regions": regions,
                "regions_boxes": boxes,
                "regions_there": batch.fields["regions.there"],
                "regions_attributes": batch.fields["mentions"].any(1),
            }

        views = (self._regions_view, self._mentions_view)
        columns = run.map(found, views, source, mapped="regions")
        if not columns["regions_there"].any():
            raise InputError(f"{source.name} has no region in any image; give boxes or a grid")
        if not columns["regions_attributes"].any():
            some = ", ".join(self.names[:3])
            raise InputError(
                f"no text of {source.name} mentions an attribute, such as {some}; name others with --method.attributes"
            )
        run.store("train", columns)

    @torch.no_grad()
    def _embed_attributes(self) -> None:
        """Compute the mean direction of each attribute's prompts."""
        templates = self.config.templates
        words = self.make.tokenizer
        device = self.attribute_vectors.device
        vectors = []
        for name in self.names:
            ids, lengths = pad_batch(
                words.encode([filled(each, name) for each in templates]), words
            )
            vectors.append(self.model.embed_texts(ids.to(device), lengths.to(device)))
        self.attribute_vectors.copy_(mean_directions(torch.cat(vectors), len(self.names)))

    def assign(self, run: Any) -> None:
        """Give each region the attributes that it has, and each unit the vector of its text."""
        source = run.sources["train"]
        [stage] = [stage for stage in self.stages() if stage.name == "assign"]
        columns = run.map(self._assigned, self.views(stage), source, mapped="units_texts")
        run.store("train", columns)
        write_report(run, source, columns, self)

    def _assigned(self, batch: Batch) -> Features:
        fields = batch.fields
        there = fields["regions_there"] > 0
        mentions = fields["mentions"]
        found = there.new_zeros(*there.shape, len(self.names))
        chosen = mentions.flatten(0, 1).any(0).nonzero()[:, 0]
        if len(chosen):
            cosines = self._cosines(fields["regions"], chosen)
            present = mentions.any(1)[:, chosen]
            found[..., chosen] = assigned(cosines, there, present, self.config.eps)
        said = fields["sentences.there"]
        ids, lengths = (tokens[said.flatten()] for tokens in batch.texts["sentences"].flat)
        vectors = self.attribute_vectors.new_zeros(*said.shape, self.model.embed_dim)
        if len(ids):
            vectors[said] = self.model.embed_texts(ids, lengths).to(vectors)
        texts, units = unit_texts(found, fields["chosen"], vectors, said)
        return {
            "regions_found": found,
            "regions_sentences": fields["chosen"],
            "units": units,
            "units_texts": texts,
        }

    def _cosines(self, regions: Tensor, chosen: Tensor) -> Tensor:
        """Cosines (B, R, C) of regions with the chosen attributes."""
        like = next(self.mapper.parameters())
        return self.mapper(regions.to(like), self.attribute_vectors.to(like), chosen)

    # ---- a step

    def encode(self, batch: Batch, at: At) -> Features:
        if at.stage == "mapping":
            return {"regions": batch.fields["regions"]}
        images = batch.image.flat
        boxes = batch.fields["regions_boxes"]
        image, regions = image_and_regions(self.model, images, boxes, self.config.route)
        return {"units": F.normalize(torch.cat([regions, image[:, None]], dim=1), dim=-1)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        if at.stage == "mapping":
            return self._mapping_loss(features["regions"], batch)
        kept = batch.fields["units"] > 0
        units = features["units"][kept]
        texts = batch.fields["units_texts"][kept].to(units)
        return Losses(
            {"contrastive": info_nce(units, texts, 1 / self.config.tau)}, {"units": kept.sum()}
        )

    def _mapping_loss(self, regions: Tensor, batch: Batch) -> Losses:
        """The contrast of images for each attribute that a text of the batch mentions. The heads are
        run here, since which of them are used depends on the whole batch."""
        there = batch.fields["regions_there"] > 0
        known = there.any(1)  # an image without regions has no score
        positive = batch.fields["regions_attributes"][known] > 0
        chosen = positive.any(0).nonzero()[:, 0]
        if not len(chosen):
            chosen = chosen.new_zeros(1)
        cosines = self._cosines(regions[known], chosen)
        scores = image_scores(cosines, there[known], self.config.tau)
        positive = positive[:, chosen]
        term = column_nce(scores, positive, legacy_offset=self.config.legacy_offset)
        return Losses({"attributes": term}, {"attributes_seen": len(chosen)})

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data {data} --suite attributes",
            "classify {run} IMAGES --boxes FILE",
        )


_RECIPE = Recipe(
    optimizer="adam",
    lr=5e-5,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.2,
    schedule="constant",
    warmup=0.0,
    batch_size=256,
    epochs=100,
)
ViLLA.presets = {
    "small": replace(
        SMALL,
        config={"mapping_lr": 1e-3},
        recipe=replace(
            _RECIPE, optimizer="muon", lr=8e-3, weight_decay=0.1, batch_size=64, epochs=10
        ),
    ),
    "paper": Preset(
        config={"route": "crops"},
        image="timm:resnet50_clip:image_size=224",
        text="text:width=512:depth=12:heads=8:activation=quick_gelu",
        tokenizer="clip",
        embed_dim=1024,
        recipe=_RECIPE,
    ),
    "tune": Preset(
        config={},
        recipe=replace(
            _RECIPE,
            optimizer="adamw",
            lr=3e-5,
            weight_decay=0.1,
            warmup=0.1,
            batch_size=64,
            epochs=5,
        ),
    ),
}
