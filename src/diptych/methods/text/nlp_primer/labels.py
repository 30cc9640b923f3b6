"""Objectives that contrast an input with labels.

Dimensions: B samples, G positive and b negative labels of a text, K labels, L ids, D width of the
token embeddings, E embedding, W width of the matcher, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.templates import checked
from diptych.data.views import LabelView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.make import Make
from diptych.methods.text.nlp_primer.label_views import (
    DescriptionView,
    LabelsView,
    checked_fields,
    class_names,
)
from diptych.methods.text.nlp_primer.matching import (
    ClassifyingEncoder,
    Head,
    Matcher,
    MatchingEncoder,
    label_vectors,
)
from diptych.methods.text.nlp_primer.objective import Objective, ObjectiveConfig
from diptych.methods.text.nlp_primer.taxonomy import Row
from diptych.objectives import info_nce, sigmoid_pairs, supervised
from diptych.objectives.core import different_group
from diptych.spec import Count, Natural, Positive, ShareBelowOne, Width


def label_matching(logits: Tensor, targets: Tensor, there: Tensor | None = None) -> Tensor:
    """The mean over texts of the mean binary cross-entropy of their labels.

        L = mean_i mean_{j of the labels of i} BCE( logit_ij, y_ij )

    logits and targets (B, K); there (B, K) bool says which labels a text has, by default all.
    Source: Rethmeier and Augenstein 2020 (CLESS).

    >>> logits = torch.tensor([[2.0, 1.0, -1.0, 0.0, -3.0]])
    >>> round(label_matching(logits, torch.tensor([[1.0, 1, 0, 0, 0]])).item(), 6)
    0.299037
    """
    found = F.binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="none")
    if there is None:
        return found.mean()
    own = there.to(found)
    return ((found * own).sum(1) / own.sum(1).clamp(min=1)).mean()


def among(values: Tensor, rows: Tensor) -> Tensor:
    """Whether each of values (B, K) is among the sorted numbers of its row (B, M).

    >>> among(torch.tensor([[1, 2], [5, 9]]), torch.tensor([[2, 7], [5, 6]]))
    tensor([[False,  True],
            [ True, False]])
    """
    places = torch.searchsorted(rows, values).clamp(max=rows.shape[1] - 1)
    return rows.gather(1, places) == values


@dataclass(frozen=True, kw_only=True)
class CLESSConfig(ObjectiveConfig):
    """`tau` has no effect.

    - `fields` are where labels are, joined by `+`: a role of texts, such as texts.label, or a label
      with class names, such as labels.object. Without them the words of a text are its labels.
    - `real` and `pseudo` are the most labels of the fields, and the most words of the text, that are
      drawn as its positives.
    - `negatives` is the number of labels that are drawn as negatives, from all positives of the batch
      or from the vocabulary of the training data (`pool`).
    - `width` is that of the matcher's hidden layer.
    """

    fields: str = ""
    real: Count = 4
    pseudo: Natural = 4
    negatives: Count = 16
    pool: Literal["batch", "vocabulary"] = "batch"
    width: Width = 256

    def __post_init__(self) -> None:
        if not checked_fields(self.fields) and not self.pseudo:
            raise InputError(
                "cless has no labels: name fields of labels, such as fields=texts.label, or raise pseudo"
            )


class CLESS(Objective):
    """A text and a label match or not, by a perceptron on both; a label is the mean of its words
    (Rethmeier and Augenstein 2020).

    h is the embedding of a text, not normalised, and l the mean of the token embeddings of a label, by
    the same table as the text's.

        L = mean_i mean_{j of the g_i positive and b_i negative labels} BCE( f(h_i, l_j), y_ij )

    Negatives are drawn in proportion to their frequency as positives. Those that are positives of
    the text are left out, so that b_i may be smaller than `negatives`. Any label is scored by its
    words, so that no label is fixed by training.
    """

    Config = CLESSConfig
    row = Row(
        title="CLESS",
        source="Rethmeier and Augenstein 2020",
        contrast="input-label",
        supervision="unified",
        positives="words of the text; labels with `fields`",
        negatives="in-batch; the vocabulary with `pool`",
    )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.table: nn.Embedding = self.model.text.table  # type: ignore[union-attr,assignment]
        self.matcher = Matcher(self.model.embed_dim, self.table.embedding_dim, config.width)
        self.fields = checked_fields(config.fields)
        self.view = LabelsView(
            tokenizer=make.tokenizer,
            role=config.role,
            fields=self.fields,
            real=config.real,
            pseudo=config.pseudo,
            negatives=config.negatives,
        )
        make.go_on(self.deliver())

    def setup(self, sources: Mapping[str, Any]) -> None:
        source = sources["train"]
        view = replace(self.view, classes=class_names(source, self.fields), vocabulary=None)
        drawn = self.config.pool == "vocabulary"
        several = any(name.startswith("texts.") for name in self.fields)
        schema = source.schema()
        if any(name not in schema and "*" not in name for name in view.reads):
            pass  # what is missing is reported before the first step
        elif drawn or several:
            counted = view.counted(source)
            view = replace(view, labels=counted.labels, vocabulary=counted if drawn else None)
        else:
            view = replace(view, labels=max(1, len(self.fields)))
        self.view = view

    @property
    def from_batch(self) -> bool:
        return self.config.pool == "batch"

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (self.view,)

    def encode(self, batch: Batch, at: At) -> Features:
        labels = batch.texts["labels"]
        return {
            "texts": self.embedded(batch.text)[:, 0],
            "labels": label_vectors(self.table, labels.ids, labels.lengths),
        }

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        there = batch.fields["there"]
        labels = self.matcher.label(features["labels"])
        if "known" in batch.fields:
            others, apart = self._drawn(labels, batch)
            labels = torch.cat([labels, others], 1)
            there = torch.cat([there, apart], 1)
        logits = self.matcher.logits(features["texts"], labels)
        targets = torch.zeros_like(logits)
        targets[:, : self.view.positives] = 1
        found = label_matching(logits, targets, there)
        right = ((logits > 0) == targets.bool()) & there
        return Losses({"labels": found}, {"labels_right": right.sum() / there.sum()})

    def _drawn(self, labels: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Labels (B, b, W) drawn from the positives (B, G, W) of the batch, and which of them (B, b) are
        no positives of the text."""
        pool = batch.fields["there"].flatten().nonzero()[:, 0]
        size = (len(labels), self.config.negatives)
        chosen = pool[torch.randint(len(pool), size).to(pool.device)]
        names = batch.fields["names"].flatten()[chosen]
        return labels.flatten(0, 1)[chosen], ~among(names, batch.fields["known"])

    def deliver(self) -> MatchingEncoder:
        return MatchingEncoder(self.model, self.matcher, next(iter(self.fields), ""))


@dataclass(frozen=True, kw_only=True)
class LabelTextConfig(ObjectiveConfig):
    """Options beside those of all objectives.

    - `field` is where the description of a text's label is: a label with class names, such as
      labels.topic, which are put into `template`, or a role of texts, such as texts.description.
    - `form` is "info" for InfoNCE in both directions, or "binary", in which each pair of a text and
      a description is a match or not.
    """

    field: str = "labels.label"
    template: str = "{}"
    form: Literal["binary", "info"] = "info"

    def __post_init__(self) -> None:
        checked([self.template], "label_text")
        if len(checked_fields(self.field)) != 1:
            raise InputError(
                f"label_text has one field, and field is {self.field!r}; name one, such as labels.topic"
            )


class LabelText(Objective):
    """A text and the description of its label, by the same encoder.

        info      L = ½ ( mean_i CE( cos(h_i, d_j) / tau, j = i ) + mean_i CE( cos(d_i, h_j) / tau, j = i ) )
        binary    L = mean_i [ -log σ(s_ii) - Σ_j log σ(-s_ij) ],       s_ij = cos(h_i, d_j) / tau + b

    j runs over descriptions of other labels than that of i: texts with equal labels are no negatives of
    each other. b is learned: it stands for the log-partition function and the log-odds of noise.
    """

    Config = LabelTextConfig
    row = Row(
        title="Label-text matching",
        source="Radford et al. 2021, with texts as both sides",
        contrast="input-label",
        supervision="supervised",
        positives="the description of the label",
        negatives="in-batch, of other labels",
    )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.bias = nn.Parameter(torch.zeros(())) if config.form == "binary" else None
        self.classes: Mapping[str, tuple[str, ...]] = {}

    @property
    def label(self) -> str | None:
        field = self.config.field
        return field.removeprefix("labels.") if field.startswith("labels.") else None

    def setup(self, sources: Mapping[str, Any]) -> None:
        self.classes = class_names(sources["train"], (self.config.field,))

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        described = DescriptionView(
            tokenizer=self.make.tokenizer,
            field=config.field,
            template=config.template,
            classes=self.classes,
        )
        return (*super().views(stage, stream), described)

    def encode(self, batch: Batch, at: At) -> Features:
        names = {"texts": "main", "labels": "description"}
        return {key: self.model.embed_texts(*batch.texts[name].flat) for key, name in names.items()}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        pair = (features["texts"], features["labels"])
        apart = different_group(batch.fields["label"])
        if self.bias is None:
            return Losses({"labels": info_nce(*pair, self.scale, allowed=apart)})
        return Losses({"labels": sigmoid_pairs(*pair, self.scale, self.bias, allowed=apart)})


@dataclass(frozen=True, kw_only=True)
class SupConTuningConfig(ObjectiveConfig):
    """`label` is a label with class names, and `weight` is λ, the share of the contrastive loss."""

    tau: Positive = 0.3
    label: str = "label"
    weight: ShareBelowOne = 0.9


class SupConTuning(Objective):
    """A classifier of texts whose embeddings are contrasted by their labels (Gunel et al. 2021).

        L = (1 - λ) mean_i CE( W h_i + c, y_i ) + λ SupCon( h / |h|, y ; tau )

    SupCon is the mean over texts with another text of their label in the batch.
    """

    Config = SupConTuningConfig
    row = Row(
        title="Supervised contrastive fine-tuning",
        source="Gunel et al. 2021",
        contrast="input-input",
        supervision="supervised",
        positives="texts with the same label",
        negatives="in-batch, of other labels",
    )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.classifier = Head(self.model.embed_dim)

    def setup(self, sources: Mapping[str, Any]) -> None:
        name = f"labels.{self.config.label}"
        self.classifier.hold(class_names(sources["train"], (name,)).get(name, ()))

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        label = LabelView(label=self.config.label, name="label", needed=True)
        return (*super().views(stage, stream), label)

    def encode(self, batch: Batch, at: At) -> Features:
        return {"texts": self.embedded(batch.text)[:, 0]}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        weight = self.config.weight
        vectors = features["texts"]
        labels = batch.fields["label"]
        logits = self.classifier(vectors)
        contrast = supervised(normalize(vectors, dim=-1)[None], labels, self.config.tau)
        return Losses(
            {
                "classes": (1 - weight) * F.cross_entropy(logits, labels),
                "supcon": weight * contrast,
            },
            {"top1": (logits.argmax(1) == labels).float().mean()},
        )

    def deliver(self) -> ClassifyingEncoder:
        return ClassifyingEncoder(self.model, self.classifier, f"labels.{self.config.label}")
