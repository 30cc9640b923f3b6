"""Objectives with a noise distribution: words against those of the unigram distribution, and texts
against those of a language model.

Dimensions: B texts, L ids, E embedding, W words, P words of a text, K noise words of each, V ids of a
language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych import collectives
from diptych.data.batch import Batch
from diptych.data.columns import WithColumns
from diptych.data.loader import require
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import LabelView, TextView, View
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.make import Make
from diptych.methods.teacher import LentLM
from diptych.methods.text.nlp_primer.losses import binary_nce, residual_energy
from diptych.methods.text.nlp_primer.objective import Objective, ObjectiveConfig
from diptych.methods.text.nlp_primer.taxonomy import Row
from diptych.models.generate import generate
from diptych.rng import torch_seed
from diptych.spec import Count, ModelSpec, Positive, ShareBelowOne

# ---- words against noise words


@dataclass(frozen=True, kw_only=True)
class NoiseWordsView(TextView):
    """A text, and fields.words (B, P, 1 + K): `words` ids drawn from it, each followed by `noise` ids
    drawn from a noise distribution, whose cumulative sums are `cumulative` (W,).

    Special ids are not drawn from a text. Raises BadSample("short-text") for one without others.
    """

    words: int
    noise: int
    cumulative: np.ndarray = field(compare=False, repr=False)

    @property
    def gives(self) -> tuple[str, ...]:
        return f"texts.{self.name}", "fields.words"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        ((name, (ids,)),) = super().__call__(sample, rng, progress).items()
        before = len(self.tokenizer.before)
        own = np.array(ids[before : len(ids) - len(self.tokenizer.after)], np.int64)
        if not len(own):
            raise BadSample("short-text", "a text without ids has no word to tell from noise")
        words = own[rng.integers(len(own), size=(self.words, 1))]
        drawn = rng.random((self.words, self.noise)) * self.cumulative[-1]
        noise = np.searchsorted(self.cumulative, drawn, side="right")
        return {name: [ids], "fields.words": torch.from_numpy(np.concatenate([words, noise], 1))}


@dataclass(frozen=True, kw_only=True)
class BinaryNCEConfig(ObjectiveConfig):
    """`words` of each text are told from `noise` others each, which are drawn by the counts of words in
    the training texts to the power `power`. `correct=False` leaves out the noise's probability, which
    is negative sampling."""

    words: Count = 8
    noise: Count = 16
    power: Positive = 1.0
    correct: bool = True


class BinaryNCE(Objective):
    """The words of a text against noise words, each a binary classification (Gutmann and Hyvärinen
    2010, Mnih and Teh 2012).

        s(x, w) = <h(x), e_w> + b_w,     D = s - log(K q(w)),     L = `losses.binary_nce`

    h (B, E) is the embedding of the text, not normalised and through a linear map where E is not the
    width of the word embeddings e. The noise is q(w) ∝ (count of w + 1)^power, and b starts as log q
    where D has it.
    """

    Config = BinaryNCEConfig
    counts: Tensor
    row = Row(
        title="Binary NCE",
        source="Gutmann and Hyvärinen 2010, Mnih and Teh 2012",
        contrast="input-label",
        supervision="self",
        positives="words of the text",
        negatives="noise distribution",
    )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        text: Any = self.model.text
        words, width = text.table.weight.shape
        own = self.model.embed_dim
        self.map = nn.Identity() if own == width else nn.Linear(own, width)
        self.bias = nn.Parameter(torch.zeros(words))
        size = make.tokenizer.vocab_size
        self.register_buffer("counts", torch.zeros(size, dtype=torch.long))

    def stages(self) -> Sequence[Stage]:
        return (Stage(prepare=self.count),)

    def count(self, run: Any) -> None:
        """Count the words of the training texts, and set the biases to their logarithms."""
        source = run.sources["train"]
        view = TextView(tokenizer=self.make.tokenizer, role=self.config.role)
        require(source, view.reads, self.name)
        counts = torch.zeros_like(self.counts)

        def add(batch: Batch) -> dict[str, Tensor]:
            ids, lengths = batch.text.flat
            real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
            counts.add_(torch.bincount(ids[real], minlength=len(counts)))
            return {}

        run.map(add, [view], source)
        self.counts.copy_(collectives.gather(counts[None], "counts of words").sum(0))
        if self.config.correct:
            ordinary = self.make.tokenizer.ordinary
            with torch.no_grad():
                found = torch.from_numpy(np.log(self.noise[ordinary])).to(self.bias)
                self.bias[torch.from_numpy(ordinary).to(found.device)] = found

    @property
    def noise(self) -> np.ndarray:
        """The probabilities (W,) of the noise, 0 for special ids; uniform before words are counted."""
        weights = np.zeros(len(self.counts))
        ordinary = self.make.tokenizer.ordinary
        # one more of each, since a text may be read that was not counted
        weights[ordinary] = (self.counts.cpu().numpy()[ordinary] + 1.0) ** self.config.power
        return weights / weights.sum()

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        view = NoiseWordsView(
            tokenizer=self.make.tokenizer,
            role=config.role,
            words=config.words,
            noise=config.noise,
            cumulative=self.noise.cumsum(),
        )
        return (view,)

    def encode(self, batch: Batch, at: At) -> Features:
        text: Any = self.model.text
        words = batch.fields["words"]
        vectors = self.map(self.embedded(batch.text)[:, 0])
        scores = torch.einsum("bpkd,bd->bpk", text.table(words), vectors)
        return {"scores": scores + self.bias[words]}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        scores = features["scores"].flatten(0, 1)
        log_noise = None
        if self.config.correct:
            probabilities = torch.from_numpy(self.noise).to(scores)
            log_noise = probabilities[batch.fields["words"].flatten(0, 1)].log()
        return Losses({"words": binary_nce(scores, log_noise)})


# ---- texts against those of a language model

SAMPLED = "sampled"
"""The column of what the language model says, and the name of its texts."""
_ROW = "sampled_row"


def prefix_of(ids: Sequence[int], share: float, tokenizer: Tokenizer) -> Sequence[int]:
    """The ids of a share of a text's words, rounded down, from its start and without its last
    word."""
    if not ids:
        return ids
    word = np.cumsum(tokenizer.starts_word(ids))
    word -= word[0]
    words = int(word[-1]) + 1
    kept = min(int(share * words), words - 1)
    return ids[: int(np.searchsorted(word, kept))]


@dataclass(frozen=True, kw_only=True)
class PromptView(TextView):
    """The first words of a text as the language model reads them, with the special ids before, and how
    many ids these are, fields.prompt (B,). `prefix` is the share of the words, `length` the most ids
    of a text."""

    prefix: float
    length: int

    @property
    def gives(self) -> tuple[str, ...]:
        return f"texts.{self.name}", "fields.prompt"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        (text,) = self.drawn(sample, rng, None)
        ids = self.tokenizer.ids(text)[: self.length]
        prompt = [*self.tokenizer.before, *prefix_of(ids, self.prefix, self.tokenizer)]
        return {f"texts.{self.name}": [prompt], "fields.prompt": len(prompt)}


@dataclass(frozen=True, kw_only=True)
class ContinuedView(TextView):
    """The first text of a sample, and that of the column `sampled`, which has the same beginning.

    Both are what the tokenizer `lm` decodes from its own ids, at most `length`, so that neither letter
    case nor spaces nor length tell which is which.
    """

    lm: Tokenizer
    length: int

    @property
    def reads(self) -> tuple[str, ...]:
        return (*super().reads, f"arrays.{SAMPLED}")

    @property
    def gives(self) -> tuple[str, ...]:
        return f"texts.{self.name}", f"texts.{SAMPLED}"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        (text,) = self.drawn(sample, rng, None)
        said = sample.arrays[SAMPLED]
        rows = [self.lm.ids(text)[: self.length], said[said >= 0].tolist()]
        one, other = self.tokenizer.encode([self.lm.decode(row) for row in rows])
        return dict(zip(self.gives, ([one], [other]), strict=True))


@dataclass(frozen=True, kw_only=True)
class ResidualEnergyConfig(ObjectiveConfig):
    """`lm` is a language model, which continues a share `prefix` of each text's words at the
    temperature `temperature`, up to `length` ids of it in all."""

    lm: ModelSpec = "tiny-lm"
    prefix: ShareBelowOne = 0.5
    temperature: Positive = 1.0
    length: Count = 64


class ResidualEnergy(Objective):
    """Texts against those of a frozen language model with the same beginning (Deng et al. 2020).

        p(x) ∝ p_LM(x) exp(-E(x)),     L = mean [ -log σ(-E(x)) - log σ(E(x')) ],     x' ~ p_LM( · | prefix of x)

    E is a linear head of training on the embedding. x' is sampled anew before each epoch.
    """

    Config = ResidualEnergyConfig
    row = Row(
        title="Residual energy model",
        source="Deng et al. 2020",
        contrast="input-label",
        supervision="self",
        positives="texts of the data",
        negatives="generator",
    )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.energy = nn.Linear(self.model.embed_dim, 1)
        self.lm = LentLM(config.lm)

    def stages(self) -> Sequence[Stage]:
        return (Stage(prepare=self.sample, every="epoch"),)

    @property
    def length(self) -> int:
        """The most ids of a text, for the language model."""
        lm = self.lm.model
        return min(self.config.length, lm.lm.context - len(lm.tokenizer.before))

    def needs(self, stage: Stage, stream: str = "train") -> tuple[str, ...]:
        return TextView(tokenizer=self.make.tokenizer, role=self.config.role).reads

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        view = ContinuedView(
            tokenizer=self.make.tokenizer,
            role=self.config.role,
            lm=self.lm.model.tokenizer,
            length=self.length,
        )
        return (view,)

    def sample(self, run: Any) -> None:
        """Continue the beginning of each text by the language model."""
        source = run.sources["train"]
        require(source, self.needs(Stage()), self.name)
        config = self.config
        words = self.lm.model.tokenizer
        prompts = PromptView(
            tokenizer=words, role=config.role, prefix=config.prefix, length=self.length
        )
        seed = torch_seed(run.at.seed, "sampled", run.at.epoch)
        rows = np.arange(len(source))

        def say(batch: Batch) -> dict[str, Tensor]:
            return {SAMPLED: self.continued(batch, seed)}

        found = run.map(say, [prompts, LabelView(label=_ROW)], WithColumns(source, {_ROW: rows}))
        run.store("train", {SAMPLED: found[SAMPLED]})

    def continued(self, batch: Batch, seed: int) -> Tensor:
        """Prompts (B, 1, L) and what follows them, (B, length) without the special ids before, filled
        with -1. Random numbers depend on (seed, row of the source)."""
        lm = self.lm.model
        ids = batch.text.ids[:, 0]
        lengths = batch.fields["prompt"]
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        before = len(lm.tokenizer.before)
        most = self.length - int(lengths.min()) + before
        said = generate(
            lm.lm,
            ids,
            mask,
            strategy="sample",
            temperature=self.config.temperature,
            top_p=1.0,
            eot=lm.tokenizer.eot,
            max_tokens=most if most <= lm.lm.context - int(lengths.max()) else None,
            seed=seed,
            row=int(batch.fields[_ROW][0]),
        )
        found = torch.full((len(ids), self.length), -1, dtype=torch.int32)
        for row, prompt, length, more in zip(
            found, ids.tolist(), lengths.tolist(), said, strict=True
        ):
            text = [*prompt[before:length], *more][: self.length]
            row[: len(text)] = torch.tensor(text)
        return found.to(ids.device)

    def encode(self, batch: Batch, at: At) -> Features:
        names = {"data": "main", "samples": SAMPLED}
        return {
            name: self.energy(self.embedded(batch.texts[text])[:, 0])[:, 0]
            for name, text in names.items()
        }

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        data = features["data"]
        samples = features["samples"]
        right = torch.cat([data < 0, samples > 0]).double().mean()
        return Losses({"energy": residual_energy(data, samples)}, {"right": right})
