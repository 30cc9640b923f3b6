"""INTRA: Interaction Relationship-aware Weakly Supervised Affordance Grounding (Jang et al., ECCV
2024).

Which part of a thing a verb touches is learnt from photographs of people who use it, labelled with
the verb and the thing alone. Both towers are frozen. A module reads an image's patches and the verb
and gives a map; the patches are averaged under it, and images whose verbs touch the same part, by a
table that a language model wrote, are to be near each other.

    M = map(F, t) in [0, 1],   f = mean over positions of F M,   z = unit(MLP(f))
    L = contrast(z; verbs, R) + λ contrast(z; things, I)             (`relations.related_contrast`)

F are the frozen patches of an image, in several views, and t its verb, in training with some
probability a synonym. R(y, y') is 1 where two verbs touch the same part. Inference: M for any image
and any text, without hands or labels.

relations.py   table, synonyms, loss                     model.py   map, and what is delivered
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.views import ImageView, LabelView, View, augmentation
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Recipe, Stage
from diptych.methods.dense.intra.model import Affordances
from diptych.methods.dense.intra.relations import (
    VerbView,
    related_contrast,
    relation_table,
    synonym_lists,
)
from diptych.methods.families.few_shot import PAPER, SMALL
from diptych.methods.make import Make
from diptych.spec import Count, NetworkSpec, NotNegative, Positive, Share
from diptych.towers.nn.heads import head
from diptych.towers.nn.parts import Temperature, freeze

card = {
    "title": "INTRA: Interaction Relationship-aware Weakly Supervised Affordance Grounding",
    "year": 2024,
    "kind": "method",
    "entry": "INTRA",
    "provenance": "paper",
    "abilities": {"heat": "--init MODEL"},
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the map and its loss.

    - `verb` and `thing` are the labels of what is done and of what it is done with; both have names.
    - `relations` is a file with the verbs that touch the same part as each, {"hold": ["carry"], …}
      (None: every verb its own), `synonyms` one with other words for each, which take its place
      with probability `swap`.
    - `things` is the weight λ of the loss of things, `tau` the temperature of both.
    - `views` is the number of views of an image, `augment` their augmentation.
    - `route` is how the frozen image tower computes its positions.
    - `depth` and `heads` are those of the map's transformer, `projection` is the MLP and `width` that
      of z.
    """

    verb: str = "verb"
    thing: str = "object"
    relations: str | None = None
    synonyms: str | None = None
    swap: Share = 0.2
    things: NotNegative = 4.0
    tau: Positive = 0.2
    views: Count = 2
    augment: Mapping[str, Any] | None = field(default_factory=dict)
    route: str = "tokens"
    depth: Count = 4
    heads: Count = 4
    projection: NetworkSpec = "mlp:layers=3:norm=none:bias=true:last_bias=true"
    width: Count = 128


class INTRA(Method):
    """A map of where a verb happens, on frozen towers."""

    Config = Config
    adapts: ClassVar[bool] = True
    model: Affordances

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(logit_scale=Temperature(100.0, form="fixed"))
        freeze(encoder)
        self.model = Affordances(encoder, config.depth, config.heads, config.route)
        make.go_on(self.model)
        self.head = head(config.projection, encoder.image.width, config.width, "image")
        self.augment = augmentation(config.augment)
        self.names: tuple[str, ...] = ()
        self.synonyms: Sequence[Sequence[str]] = ()
        self.related = torch.eye(1)

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return "ground {run} IMAGE 'cut with'", "evaluate {run} --data SOURCE --suite affordance"

    def setup(self, sources: Mapping[str, Any]) -> None:
        """Read the verbs' names, their relations and synonyms."""
        name = f"labels.{self.config.verb}"
        known = sources["train"].schema().get(name)
        if known is None:
            return  # an error of its own, which names the field
        if not known.classes:
            raise InputError(
                f"{name} of {sources['train'].name} has no names, and the verbs are read as text; name another label "
                "with --method.verb"
            )
        self.names = tuple(known.classes)
        self.synonyms = synonym_lists(self.names, self.config.synonyms)
        self.related = relation_table(self.names, self.config.relations)

    def train(self, mode: bool = True) -> "INTRA":
        super().train(mode)
        self.model.encoder.eval()
        return self

    def stages(self) -> Sequence[Stage]:
        return (Stage(min_batch=2),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        return (
            ImageView(
                preprocess=self.model.encoder.image.preprocess,
                augment=self.augment,
                count=config.views,
            ),
            VerbView(
                label=config.verb,
                names=self.names,
                synonyms=self.synonyms,
                swap=config.swap,
                tokenizer=self.make.tokenizer,
            ),
            LabelView(label=config.verb, name="verb"),
            LabelView(label=config.thing, name="thing"),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        """Views (B, V, width) as unit vectors, pooled under the map of their verb."""
        views = self.config.views
        with torch.no_grad():
            patches, grid = self.model.positions(batch.image.flat)
            text = self.model.words(*batch.text.flat).repeat_interleave(views, 0)
        heat = self.model.map(patches, grid, text)
        pooled = under(patches, heat)
        return {"z": normalize(self.head(pooled), dim=-1).unflatten(0, (-1, views))}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        config = self.config
        z: Tensor = features["z"]
        flat = z.flatten(0, 1)

        def of_views(name: str) -> Tensor:
            labels: Tensor = batch.fields[name]
            return labels.repeat_interleave(z.shape[1])

        verbs = of_views("verb")
        things = of_views("thing")
        terms = {"verbs": related_contrast(flat, verbs, self.related.to(z.device), config.tau)}
        if config.things:
            own = torch.eye(int(things.max().clamp(min=0)) + 1, device=z.device)
            terms["things"] = config.things * related_contrast(flat, things, own, config.tau)
        return Losses(terms, {"agreement": agreement(flat, verbs, self.related)})

    def deliver(self) -> Affordances:
        return self.model


def under(patches: Tensor, heat: Tensor) -> Tensor:
    """The mean over positions of patches (B, P, D), each times its heat (B, h, w); not divided by the
    sum of the heat.

    >>> patches = torch.tensor([[[1.0, 0], [0, 1], [1, 1], [0, 0]]])
    >>> under(patches, torch.tensor([[[1.0, 0.5], [0, 0.25]]]))
    tensor([[0.2500, 0.1250]])
    """
    return (patches * heat.flatten(1)[..., None]).mean(1)


@torch.no_grad()
def agreement(z: Tensor, verbs: Tensor, related: Tensor, most: int = 512) -> Tensor:
    """The share of the first `most` unit vectors (M, D) whose nearest other one has a related verb.

    >>> z = torch.tensor([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]])
    >>> float(agreement(z, torch.tensor([0, 0, 1, 1]), torch.eye(2)))
    1.0
    """
    z = z[:most]
    verbs = verbs[:most]
    nearest = (z @ z.T).fill_diagonal_(-2).argmax(1)
    known = (verbs >= 0) & (verbs[nearest] >= 0)
    table = related.to(z.device)
    return (table[verbs.clamp(min=0), verbs[nearest].clamp(min=0)] * known).mean()


INTRA.presets = {
    "small": replace(
        SMALL,
        config={"augment": {"crop": (0.6, 1.0)}, "width": 64},
        recipe=Recipe(optimizer="adam", lr=2e-3, batch_size=64, epochs=20),
    ),
    "paper": replace(
        PAPER,
        # 336 of 384 pixels a side
        config={"augment": {"crop": (0.766, 0.766), "ratio": (1.0, 1.0)}},
        recipe=Recipe(optimizer="adam", lr=2e-4, warmup=0, batch_size=256, epochs=20),
    ),
}
