"""DebCSE: Rethinking Unsupervised Contrastive Sentence Embedding Learning in the Debiasing
Perspective (Miao, Du and Zhang, CIKM 2023).

A reconstruction from the abstract alone. It says that positives and negatives are chosen by inverse
propensity weighted sampling, by surface and by semantic similarity, so that pairs made without
labels resemble those of labels. All formulas are ours. [reconstruction]

A teacher embeds all sentences before each epoch: the encoder after a warm-up as SimCSE, or a model
that is given. For a pair of sentences, with the teacher's cosine:

    m = (cos + 1) / 2          s = (1 - edits of words / greater length + ratio of lengths) / 2

    positive    p ∝ exp(m / t) / clip(s, e, 1),        m ≥ m_pos, of the sentence itself, changed texts, neighbours
    negatives   p ∝ exp(m / t) / clip(1 - s, e, 1),    m ≤ m_neg, of other sentences

    L_i = -log e(i, i+) / [ e(i, i+) + Σ_{j≠i} w_ij e(i, j+) + Σ_h w_ih e(i, n_ih) ],     e = exp(c / tau)

c is the cosine behind a head of training. w_ij is 0 where m > m_neg, and for equal sentences; else 1, or
the inverse propensity with mean 1. No gradient reaches p or w. Inference: as SimCSE.

sampler.py       probabilities, and what can be inspected
candidates.py    changed texts and near sentences
draw.py          the pairs of an epoch
weights.py       the weights w and the loss
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.eda import Kind, synonyms
from diptych.data.loader import require
from diptych.data.sample import Source
from diptych.data.surface import BOTH, surface_similarity
from diptych.data.surface import check as check_surface
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import ArrayView, LabelView, TextView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.families.sentences import (
    PAPER,
    SMALL,
    SentenceConfig,
    Sentences,
    anchored,
    tune,
)
from diptych.methods.make import Make
from diptych.methods.teacher import Teacher
from diptych.methods.text.debcse.candidates import NEGATIVE, NEGATIVES, POSITIVE, Drawn, Own
from diptych.methods.text.debcse.draw import WORDS, Draw
from diptych.methods.text.debcse.sampler import PairSampler, Pool
from diptych.methods.text.debcse.weights import pair_weights, weighted_info_nce
from diptych.spec import Above, AtMost, Count, ModelSpec, Natural, NotNegative, Positive, Share
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Momentum

card = {
    "title": "DebCSE: Rethinking Unsupervised Contrastive Sentence Embedding Learning in the Debiasing Perspective",
    "year": 2023,
    "kind": "method",
    "entry": "DebCSE",
    "provenance": "abstract",
}


@dataclass(frozen=True, kw_only=True)
class Config(SentenceConfig):
    """Options beside those of all methods on sentences; `role` is one role.

    - `warm` is the number of epochs of SimCSE before pairs are drawn; 0 with a `teacher`, which is a
      model that embeds texts. Without one the teacher is the encoder after these epochs, or with
      `refresh` as it is before each epoch.
    - `changes` are the ways in which a sentence is changed to candidates of its positive, by the table
      `synonyms` (`data.eda`); `candidates` is the role of further ones, such as back-translations.
    - `neighbours` is the number of near sentences among the candidates of a positive, `pool` that
      among those of a negative; `negatives` are drawn (h). They are sought among `corpus` sentences,
      drawn anew before each epoch, or all if there are fewer.
    - `surface` maps kinds of surface similarity (`data.surface`) to their weights.
    - `temperature` is t, `clip` the least propensity e, `min_positive` m_pos, `max_negative` m_neg.
    - `propensity` and `guard` switch the propensities and m_neg off.
    - `weight` is "mask", weights 0 and 1, or "ipw", inverse propensities.
    - `inspect` is the number of sentences whose candidates are written to the run's folder, as
      pairs-EPOCH.jsonl, before each epoch.
    """

    warm: NotNegative = 1.0
    teacher: ModelSpec | None = None
    refresh: bool = False
    changes: tuple[Literal["repetition", "deletion", "synonym"], ...] = (
        "repetition",
        "deletion",
        "synonym",
    )
    synonyms: str = "common"
    candidates: str | None = None
    neighbours: Natural = 8
    pool: Natural = 64
    negatives: Natural = 1
    corpus: Count = 65_536
    surface: Mapping[str, float] = field(default_factory=lambda: dict(BOTH))
    temperature: Positive = 0.05
    clip: Annotated[float, Above(0), AtMost(1)] = 0.1
    min_positive: Share = 0.7
    max_negative: Share = 0.9
    propensity: bool = True
    guard: bool = True
    weight: Literal["mask", "ipw"] = "mask"
    inspect: Natural = 0

    def __post_init__(self) -> None:
        check_surface(self.surface)
        if any(mark in self.role for mark in ",=+*["):
            raise InputError(
                f"role {self.role!r} is a mixture, and pairs are drawn of one sentence a sample; name one role"
            )
        if self.teacher is not None and self.refresh:
            raise InputError(
                f"the teacher {self.teacher} does not change, so refresh has no meaning; leave one out"
            )
        if self.negatives > self.pool:
            raise InputError(
                f"{self.negatives} negatives cannot be drawn from a pool of {self.pool}; raise --method.pool"
            )


class DebCSE(Sentences):
    """SimCSE for some epochs, then pairs that are drawn before each epoch.

    `pool` has the candidates of the last draw: `method.pool.inspect(sentence)`.
    """

    Config = Config
    # a new encoder, as teacher, takes all sentences of the toy for equal
    test_options: ClassVar[dict[str, Any]] = {
        "warm": 0.0,
        "max_negative": 1.0,
        "neighbours": 0,
        "pool": 8,
        "changes": ("repetition",),
    }
    pool: Pool | None = None

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.sampler = PairSampler(
            temperature=config.temperature,
            clip=config.clip,
            min_positive=config.min_positive,
            max_negative=config.max_negative,
            propensity=config.propensity,
            guard=config.guard,
        )
        self.teacher = (
            Momentum(self.model, 1.0)
            if config.teacher is None
            else Teacher(config.teacher, texts_alone=True)
        )

    def setup(self, sources: Mapping[str, Any]) -> None:
        self.warn_of_no_dropout()
        # before the first step: a package or the table may be missing
        surface_similarity([[0]], [[0]], self.config.surface)
        synonyms(self.config.synonyms)

    @property
    def own(self) -> Own:
        """How candidates are made of a sentence."""
        config = self.config
        kinds: tuple[Kind, ...] = config.changes
        return Own(kinds=kinds, table=synonyms(config.synonyms), given=config.candidates)

    def stages(self) -> Sequence[Stage]:
        pairs = Stage(name="pairs", prepare=self.prepare, every="epoch")
        if not self.config.warm:
            return (pairs,)
        return Stage(name="warm", recipe={"epochs": self.config.warm, "steps": None}), pairs

    def needs(self, stage: Stage, stream: str = "train") -> tuple[str, ...]:
        given = (self.config.candidates,) if self.config.candidates else ()
        return tuple(f"texts.{role}" for role in (self.config.role, *given))

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        return source if stage.name == "warm" else Drawn(source, self.config.role, self.own)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        words = self.make.tokenizer
        found: list[View] = [TextView(tokenizer=words, role=config.role)]
        if stage.name == "warm":
            return found
        roles = [POSITIVE, *(f"{NEGATIVE}{number}" for number in range(config.negatives))]
        found += [TextView(tokenizer=words, name=role, role=role) for role in roles]
        width = self.teaching[0].embed_dim
        found += [ArrayView(array=name, shape=(width,)) for name in ("of_anchor", "of_positive")]
        found += [
            ArrayView(array=name, shape=(config.negatives,))
            for name in ((NEGATIVES, "negative_surface") if config.negatives else ())
        ]
        if config.weight == "ipw":
            found += [
                ArrayView(array=f"words_{name}", shape=(WORDS,)) for name in ("anchor", "positive")
            ]
        return [*found, LabelView(label="equal")]

    @property
    def teaching(self) -> tuple[DualEncoder, Tokenizer]:
        """The teacher's encoder and its tokenizer."""
        if isinstance(self.teacher, Momentum):
            return self.teacher.module, self.make.tokenizer  # type: ignore[return-value]
        return self.teacher.model.encoder, self.teacher.model.tokenizer

    def encode(self, batch: Batch, at: At) -> Features:
        if at.stage == "warm":
            return {"views": self.embedded(batch.text, 2)}
        names = [
            "main",
            POSITIVE,
            *(f"{NEGATIVE}{number}" for number in range(self.config.negatives)),
        ]
        return {"views": torch.cat([self.embedded(batch.texts[name]) for name in names], 1)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        views = self.head(features["views"])
        if at.stage == "warm":
            return Losses({"views": anchored(views, self.scale)})
        weights, hard = self.weights(batch)
        found = weighted_info_nce(views, self.scale, weights, hard)
        others = ~torch.eye(len(weights), dtype=torch.bool, device=weights.device)
        return Losses({"pairs": found}, {"guarded": (weights[others] == 0).double().mean()})

    def weights(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the weights of a batch's pairs: (B, B) of anchors with positives, whose diagonal is 1,
        and (B, h) of anchors with their own negatives."""
        config = self.config
        fields = batch.fields
        count = len(fields["equal"])
        kept = torch.ones(count, count, dtype=torch.bool, device=fields["equal"].device)
        if config.guard:
            cosine = fields["of_anchor"] @ fields["of_positive"].T
            kept = cosine <= 2 * config.max_negative - 1
            kept &= fields["equal"][:, None] != fields["equal"]
        hard = fields[NEGATIVES] >= 0 if config.negatives else kept[:, :0]
        if config.weight == "mask":
            return pair_weights(kept, hard)
        return pair_weights(kept, hard, self._inverse(self._surfaces(batch)))

    def _inverse(self, surfaces: Tensor) -> Tensor:
        found = self.sampler.inverse(surfaces.cpu().numpy())
        return torch.from_numpy(found).to(surfaces.device)

    def _surfaces(self, batch: Batch) -> Tensor:
        """The surface similarities (B, B + h) of anchors with positives and their own negatives."""
        anchors, positives = (
            [
                [int(word) for word in row if word >= 0]
                for row in batch.fields[f"words_{name}"].tolist()
            ]
            for name in ("anchor", "positive")
        )
        count = len(anchors)
        one = [words for words in anchors for _ in range(count)]
        found = surface_similarity(one, positives * count, self.config.surface)
        surfaces = torch.from_numpy(found).reshape(count, count).to(batch.fields["equal"].device)
        if not self.config.negatives:
            return surfaces
        return torch.cat([surfaces, batch.fields["negative_surface"].to(surfaces.dtype)], 1)

    # ---- the draw

    def prepare(self, run: Any) -> None:
        """Draw a positive and negatives for each sentence of the data, by the teacher's embeddings."""
        config = self.config
        source = run.sources["train"]
        require(source, self.needs(Stage(name="pairs")), self.name)
        renew = config.refresh or run.at.epoch == 0
        if isinstance(self.teacher, Momentum) and renew:
            self.teacher.update(0.0)
        found = Draw(self.sampler, self.own, config).of(run, source, *self.teaching)
        self.pool = found.pool
        if config.inspect:
            lines = self.pool.lines(config.inspect)
            text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
            name = f"pairs-{run.at.epoch}.jsonl"
            run.write(name, lambda path: path.write_text(text, encoding="utf-8"))
        run.store("train", found.columns)


DebCSE.presets = {
    "small": SMALL,
    "paper": replace(PAPER, config={"weight": "ipw"}),
    "tune": tune(SMALL),
}
