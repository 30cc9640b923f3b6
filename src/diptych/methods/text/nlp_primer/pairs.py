"""Objectives that contrast an input with other inputs.

Dimensions: B samples, A anchors of a text, P positives of an anchor, L ids, D width, E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.views import LabelView, MaskedTextView, TextView, View
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.make import Make
from diptych.methods.text.nlp_primer.losses import momentum_contrast, triplet
from diptych.methods.text.nlp_primer.objective import Objective, ObjectiveConfig
from diptych.methods.text.nlp_primer.taxonomy import Row
from diptych.methods.text.nlp_primer.views import (
    Change,
    ChangedTextView,
    Cut,
    CutView,
    DocumentSpansView,
    HiddenSpanView,
)
from diptych.objectives import nt_xent, supervised
from diptych.spec import Count, Dropout, NotNegative, Positive, Share
from diptych.towers.nn.parts import Momentum, Queue
from diptych.towers.nn.words import WordHead, masked_losses


class TwoVersions(Objective):
    """Two versions of each text, by NT-Xent: those of other texts in both versions are negatives.

        L = mean over the 2B of CE( cos(z_i, all others) / tau, the other version of i )

    A subclass gives views whose texts, in order, are the two versions.
    """

    def encode(self, batch: Batch, at: At) -> Features:
        rows = [
            self.model.embed_texts(*column.flat)
            for tokens in batch.texts.values()
            for column in tokens.columns()
        ]
        return {"views": torch.stack(rows, 1)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        one, other = features["views"].unbind(1)
        return Losses({"pairs": nt_xent(one, other, self.config.tau)})


@dataclass(frozen=True, kw_only=True)
class ConSERTConfig(ObjectiveConfig):
    """`first` and `second` are the changes of the two versions: none, shuffle, token_cutoff,
    feature_cutoff or dropout. `tokens` and `features` are the shares that are cut, `embedding_dropout`
    the rate of dropout."""

    tau: Positive = 0.1
    first: Cut = "feature_cutoff"
    second: Cut = "shuffle"
    tokens: Share = 0.15
    features: Share = 0.2
    embedding_dropout: Dropout = 0.2


class ConSERT(TwoVersions):
    """Two versions that differ in the embeddings of their tokens (Yan et al. 2021).

    The embeddings that the first block reads are changed: positions permuted, rows or columns set to
    zero, or dropout.
    """

    Config = ConSERTConfig
    row = Row(
        title="ConSERT",
        source="Yan et al. 2021",
        contrast="input-input",
        supervision="self",
        positives="the text with changed embeddings",
        negatives="in-batch, both versions",
    )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        view = CutView(
            tokenizer=self.make.tokenizer,
            role=config.role,
            cuts=(config.first, config.second),
            width=self.model.text.width,  # type: ignore[union-attr]
            tokens=config.tokens,
            features=config.features,
        )
        return (view,)

    def encode(self, batch: Batch, at: At) -> Features:
        tokens = batch.text
        assert tokens.marks is not None, "the view marks what is cut"
        ids, lengths = tokens.flat
        rows = (tokens.marks >= 0).flatten(0, 1)
        columns = batch.fields["features"].flatten(0, 1)
        dropped = torch.tensor([self.config.first == "dropout", self.config.second == "dropout"])
        dropped = dropped.to(ids.device).repeat(len(tokens.ids))[:, None, None]

        def edit(layer: int, embeddings: Tensor) -> Tensor:
            if layer:
                return embeddings
            cut = F.pad(rows, (0, embeddings.shape[1] - rows.shape[1]))
            kept = embeddings.masked_fill(cut[..., None] | columns[:, None], 0)
            noisy = F.dropout(kept, self.config.embedding_dropout, self.training)
            return torch.where(dropped, noisy, kept)

        vectors = self.model.embed_texts(ids, lengths, edit=edit)
        return {"views": vectors.unflatten(0, (-1, 2))}


@dataclass(frozen=True, kw_only=True)
class MirrorConfig(ObjectiveConfig):
    """`span` is the number of ids that are hidden."""

    tau: Positive = 0.04
    span: Count = 2


class MirrorBERT(TwoVersions):
    """A text and itself with a hidden span, each under dropout (Liu et al. 2021)."""

    Config = MirrorConfig
    row = Row(
        title="Mirror-BERT",
        source="Liu et al. 2021",
        contrast="input-input",
        supervision="self",
        positives="the text with a hidden span, and dropout",
        negatives="in-batch, both versions",
    )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        return (HiddenSpanView(tokenizer=self.make.tokenizer, role=config.role, span=config.span),)


@dataclass(frozen=True, kw_only=True)
class CAPTConfig(ObjectiveConfig):
    """`rate` is the share of the words that are hidden."""

    tau: Positive = 0.1
    rate: Share = 0.15


class CAPT(TwoVersions):
    """A text and its masked version (Luo et al. 2020)."""

    Config = CAPTConfig
    row = Row(
        title="CAPT",
        source="Luo et al. 2020",
        contrast="input-input",
        supervision="self",
        positives="the text with hidden words",
        negatives="in-batch, both versions",
    )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        own: dict[str, Any] = {"tokenizer": self.make.tokenizer, "role": self.config.role}
        return (
            TextView(**own),
            MaskedTextView(name="masked", like="texts.main", rate=self.config.rate, **own),
        )


@dataclass(frozen=True, kw_only=True)
class CLEARConfig(ObjectiveConfig):
    """`first` and `second` are the changes of the two versions: none, deletion, substitution or
    reordering, of a share `share` of the words; `synonyms` is the table of substitutions. `masking`
    weighs the loss of masked words, of which there is a share `rate`."""

    tau: Positive = 0.1
    first: Change = "deletion"
    second: Change = "substitution"
    share: Share = 0.3
    synonyms: str = "common"
    masking: NotNegative = 1.0
    rate: Share = 0.15


class MaskedToo(Objective):
    """An objective that also predicts masked words; `masked` names the texts that hold them."""

    masked = "masked"

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        text: Any = self.model.text
        self.words = (
            WordHead(text.table.weight.shape[1], len(text.table.weight)) if config.masking else None
        )

    def masked_features(self, batch: Batch) -> Features:
        """The losses of the masked words of each sample; none where they have no weight."""
        if self.words is None:
            return {}
        text: Any = self.model.text
        return masked_losses(self.words, text, batch.texts[self.masked])

    def masked_loss(self, features: Features) -> Mapping[str, Tensor]:
        """The term of masked words, a mean over all of the batch."""
        if self.words is None:
            return {}
        words = features["words"].sum().clamp(min=1)
        return {"words": self.config.masking * features["word_loss"].sum() / words}


class CLEAR(MaskedToo, TwoVersions):
    """Two versions with changed words, and the prediction of masked words (Wu et al. 2020)."""

    Config = CLEARConfig
    row = Row(
        title="CLEAR",
        source="Wu et al. 2020",
        contrast="input-input",
        supervision="self",
        positives="the text with deleted, replaced or moved words",
        negatives="in-batch, both versions",
    )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        own: dict[str, Any] = {"tokenizer": self.make.tokenizer, "role": config.role}
        versions = ChangedTextView(
            changes=(config.first, config.second),
            share=config.share,
            table=config.synonyms,
            **own,
        )
        if not config.masking:
            return (versions,)
        return versions, MaskedTextView(name=self.masked, rate=config.rate, **own)

    def encode(self, batch: Batch, at: At) -> Features:
        vectors = self.model.embed_texts(*batch.text.flat).unflatten(0, (-1, 2))
        return {"views": vectors, **self.masked_features(batch)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        found = super().loss(features, batch, at)
        return Losses({**found.terms, **self.masked_loss(features)})


@dataclass(frozen=True, kw_only=True)
class DeCLUTRConfig(ObjectiveConfig):
    """`anchors` are drawn from a text, and `positives` for each of them, of `min_length` to `max_length` ids.
    `masking` weighs the loss of masked words of the anchors, of which there is a share `rate`."""

    tau: Positive = 0.05
    anchors: Count = 2
    positives: Count = 2
    min_length: Count = 32
    max_length: Count = 512
    masking: NotNegative = 1.0
    rate: Share = 0.15


class DeCLUTR(MaskedToo):
    """Spans of a text and spans near them (Giorgi et al. 2021).

    The mean of the unit vectors of an anchor's positives is its partner:

        L = NT-Xent of the A · B anchors and their partners + MLM of the anchors
    """

    Config = DeCLUTRConfig
    row = Row(
        title="DeCLUTR",
        source="Giorgi et al. 2021",
        contrast="input-input",
        supervision="self",
        positives="spans that overlap or touch the anchor, averaged",
        negatives="in-batch, spans of the same text too",
    )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        own: dict[str, Any] = {"tokenizer": self.make.tokenizer, "role": config.role}
        masked = MaskedTextView(name=self.masked, rate=config.rate, **own)
        spans = DocumentSpansView(
            anchors=config.anchors,
            positives=config.positives,
            min_length=config.min_length,
            max_length=config.max_length,
            masked=masked if config.masking else None,
            **own,
        )
        return (spans,)

    def encode(self, batch: Batch, at: At) -> Features:
        anchors, positives = (
            self.model.embed_texts(*batch.texts[name].flat).unflatten(0, (len(batch), -1))
            for name in ("anchors", "positives")
        )
        means = positives.unflatten(1, (self.config.anchors, -1)).mean(2)
        views = torch.stack([anchors, normalize(means, dim=-1)], 2)
        return {"views": views, **self.masked_features(batch)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        one, other = features["views"].flatten(0, 1).unbind(1)
        pairs = nt_xent(one, other, self.config.tau)
        return Losses({"pairs": pairs, **self.masked_loss(features)})


@dataclass(frozen=True, kw_only=True)
class CERTConfig(ObjectiveConfig):
    """`positive` is the role of texts that mean the same, such as back-translations. `momentum` is
    that of the copy that embeds keys, `queue` their number."""

    tau: Positive = 0.07
    positive: str = "paraphrase"
    momentum: Share = 0.999
    queue: Count = 96606


class CERT(Objective):
    """A text and a translation of it back from another language, by MoCo (Fang et al. 2020).

        L = mean_i CE( [<q_i, k_i>, <q_i, queue>] / tau, 0 )

    q is the embedding of the text, k that of the translation by a slow copy of the encoder.
    """

    Config = CERTConfig
    row = Row(
        title="CERT",
        source="Fang et al. 2020",
        contrast="input-input",
        supervision="self",
        positives="back-translation",
        negatives="a queue of keys of a slow encoder",
    )

    def __init__(self, config: CERTConfig, make: Make):
        super().__init__(config, make)
        self.slow = Momentum(self.model, config.momentum)
        self.queue = Queue(config.queue, self.model.embed_dim)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        words = self.make.tokenizer
        return (
            TextView(tokenizer=words, role=self.config.role),
            TextView(tokenizer=words, name="positive", role=self.config.positive),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        slow: Any = self.slow.module
        with torch.no_grad():
            keys = slow.embed_texts(*batch.texts["positive"].flat)
        return {"queries": self.model.embed_texts(*batch.text.flat), "keys": keys}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        keys = features["keys"]
        queue = self.queue.rows.to(keys)
        found = momentum_contrast(features["queries"], keys, queue, self.config.tau)
        return Losses({"queue": found}, carry={"keys": keys})

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        self.queue.push(carry["keys"])
        self.slow.update()


@dataclass(frozen=True, kw_only=True)
class TripletConfig(ObjectiveConfig):
    """`margin` is that of cosines. `positive` and `negative` are roles of texts; without them the
    positive is another pass through dropout, and the negative the nearest positive of another
    sample."""

    margin: Positive = 1.0
    positive: str | None = None
    negative: str | None = None


class Triplet(Objective):
    """A text is nearer to its positive than to its negative, by a margin (Schroff et al. 2015)."""

    Config = TripletConfig
    row = Row(
        title="Triplet margin",
        source="Schroff et al. 2015",
        contrast="input-input",
        supervision="self",
        positives="dropout; a role with `positive`",
        negatives="the nearest in the batch; a role with `negative`",
    )

    @property
    def from_batch(self) -> bool:
        return not self.config.negative

    def setup(self, sources: Mapping[str, Any]) -> None:
        if not self.config.positive:
            self.warn_of_no_dropout()

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        roles = {
            "main": self.config.role,
            "positive": self.config.positive,
            "negative": self.config.negative,
        }
        return [
            TextView(tokenizer=self.make.tokenizer, name=name, role=role)
            for name, role in roles.items()
            if role
        ]

    def encode(self, batch: Batch, at: At) -> Features:
        names = ["main", "positive" if self.config.positive else "main"]
        names += ["negative"] * bool(self.config.negative)
        rows = [self.model.embed_texts(*batch.texts[name].flat) for name in names]
        return {"views": torch.stack(rows, 1)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        anchors, positives, *given = features["views"].unbind(1)
        negatives = given[0] if given else nearest_other(anchors, positives)
        return Losses({"triplet": triplet(anchors, positives, negatives, self.config.margin)})


def nearest_other(anchors: Tensor, positives: Tensor) -> Tensor:
    """The positive (B, E) of another sample that is nearest to each anchor (B, E)."""
    cosines = anchors.detach() @ positives.detach().T
    cosines.fill_diagonal_(-torch.inf)
    return positives[cosines.argmax(1)]


@dataclass(frozen=True, kw_only=True)
class SupConConfig(ObjectiveConfig):
    """`label` is the label whose equal values are positives."""

    tau: Positive = 0.1
    label: str = "label"


class SupCon(Objective):
    """Texts with the same label, in two passes each, are positives (Khosla et al. 2020)."""

    Config = SupConConfig
    row = Row(
        title="Supervised contrastive loss",
        source="Khosla et al. 2020",
        contrast="input-input",
        supervision="supervised",
        positives="texts with the same label",
        negatives="in-batch, of other labels",
    )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (*super().views(stage, stream), LabelView(label=self.config.label, name="label"))

    def encode(self, batch: Batch, at: At) -> Features:
        return {"views": normalize(self.embedded(batch.text, 2), dim=-1)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        views = features["views"].transpose(0, 1)
        return Losses({"supcon": supervised(views, batch.fields["label"], self.config.tau)})
