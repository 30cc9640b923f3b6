"""Objectives on texts in which a generator replaced tokens.

    generator   p(w | masked text) at the masked places, of a smaller tower over the same word embeddings
    tokens      masked ones are drawn from p, without gradient; all others are those of the text
    encoder     reads these tokens; at each of them a head of training says what it is

Dimensions: B texts, L ids, D width, W words, M masked ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.batch import Batch, Tokens
from diptych.data.sample import Sample
from diptych.data.views import MaskedTextView, View
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.make import Make
from diptych.methods.text.nlp_primer.losses import corrected_words, replaced_tokens, token_losses
from diptych.methods.text.nlp_primer.objective import Objective, ObjectiveConfig
from diptych.methods.text.nlp_primer.taxonomy import Row
from diptych.models.strategies import drawn
from diptych.objectives import nt_xent
from diptych.spec import Above, AtMost, NotNegative, Positive, Share
from diptych.towers import hf
from diptych.towers.build import text_tower
from diptych.towers.nn.words import WordHead, word_losses
from diptych.towers.tower import Tower

Part = Annotated[float, Above(0), AtMost(1)]
"""A share above 0."""

MASKED = "masked"
CROPPED = "cropped"
DRAWS = "draws"


@dataclass(frozen=True, kw_only=True)
class ReplacedView(MaskedTextView):
    """A masked text, texts.NAME (B, 1, L), and a uniform number for each place of a text,
    fields.draws (B, context), by which tokens are drawn. All chosen ids become the mask.

    With `crop`, also texts.cropped (B, 1, L): consecutive ids of the text, that share of them, rounded
    down, one at least.
    """

    name: str = MASKED
    kept: float = 0.0
    random: float = 0.0
    crop: float | None = None

    @property
    def gives(self) -> tuple[str, ...]:
        cropped = () if self.crop is None else (f"texts.{CROPPED}",)
        return (f"texts.{self.name}", f"fields.{DRAWS}", *cropped)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        (ids,) = self.tokenizer.encode(self.drawn(sample, rng, progress))
        masked = self.masked(ids, rng)
        draws = torch.from_numpy(rng.random(self.tokenizer.context, dtype=np.float32))
        found: dict[str, Any] = {f"texts.{self.name}": [masked], f"fields.{DRAWS}": draws}
        if self.crop is not None:
            found[f"texts.{CROPPED}"] = [self._cropped(ids, self.crop, rng)]
        return found

    def _cropped(self, ids: Sequence[int], share: float, rng: np.random.Generator) -> list[int]:
        before = self.tokenizer.before
        after = self.tokenizer.after
        own = ids[len(before) : len(ids) - len(after)]
        length = min(len(own), max(1, int(share * len(own))))
        start = int(rng.integers(len(own) - length + 1))
        return [*before, *own[start : start + length], *after]


class Generator(nn.Module):
    """A tower of the same kind as another one that predicts its masked words.

    It reads the word embeddings of the other tower, through a linear map to its own width, and
    predicts by the same embeddings; it has none itself. `width` and `depth` are its shares of the
    other's width and number of blocks (see `smaller`).
    """

    def __init__(self, text: Tower, width: float, depth: float):
        super().__init__()
        table: Any = text.table
        words, shared = table.weight.shape
        self.tower = text_tower(smaller(text.spec, width, depth))
        own = _without_table(self.tower)
        self.embed = nn.Identity() if own == shared else nn.Linear(shared, own)
        self.head = WordHead(shared, words, hidden=self.tower.width)

    def forward(self, tokens: Tokens, table: nn.Embedding) -> Tensor:
        """Masked texts (B, C, L) -> logits (M, W) of the masked places, in order."""
        assert tokens.marks is not None, "a view that masks marks what was there"
        ids, lengths = tokens.flat
        hidden = self.tower(None, lengths, embeddings=self.embed(table(ids))).tokens
        return self.head(hidden[tokens.marks.flatten(0, 1) >= 0], table.weight)


def smaller(spec: Mapping[str, Any], width: float, depth: float = 1.0) -> dict[str, Any]:
    """The spec of a text tower with a share of the width and of the blocks.

    Attention keeps whole heads of the same size, one at least, so the width is rounded to them.
    Raises InputError for a tower that is not of transformer blocks.

    >>> found = smaller({"name": "text", "width": 768, "heads": 12, "depth": 12}, 1 / 3)
    >>> found["width"], found["heads"], found["depth"]
    (256, 4, 12)
    """
    pooling = {"pooling": "mean"}  # which is not used, and has no parameters
    if "config" in spec:
        return {**spec, **pooling, "config": _smaller_config(spec["config"], width, depth)}
    if not {"width", "depth"} <= spec.keys():
        raise InputError(
            f"the text tower {spec['name']!r} is not of blocks with a width, of which a generator has a share; "
            "choose text or hf"
        )
    heads = spec.get("heads") or max(1, spec["width"] // 64)
    fewer = max(1, round(width * heads))
    return {
        **spec,
        **pooling,
        "width": fewer * (spec["width"] // heads),
        "heads": fewer,
        "depth": max(1, round(depth * spec["depth"])),
    }


def _smaller_config(values: Mapping[str, Any], width: float, depth: float) -> dict[str, Any]:
    """`smaller` for a config of transformers, as plain values."""
    options = dict(values)
    kind = options.pop("model_type")
    config = hf.transformers().AutoConfig.for_model(kind, **options)
    lacking = [
        name
        for name in ("hidden_size", "num_attention_heads", "num_hidden_layers")
        if not isinstance(getattr(config, name, None), int)
    ]
    if lacking:
        raise InputError(
            f"transformers' config of {kind!r} has no {lacking[0]}, of which a generator has a share; "
            "choose another text tower"
        )
    heads = config.num_attention_heads
    fewer = max(1, round(width * heads))
    size = config.hidden_size
    config.hidden_size = fewer * (size // heads)
    config.num_attention_heads = fewer
    config.num_hidden_layers = max(1, round(depth * config.num_hidden_layers))
    if getattr(config, "num_key_value_heads", None):
        config.num_key_value_heads = fewer
    for name in ("intermediate_size", "hidden_dim", "d_ff"):
        if isinstance(getattr(config, name, None), int):
            inner = getattr(config, name)
            setattr(config, name, max(1, round(inner * config.hidden_size / size)))
    return hf.plain(config)


def _without_table(tower: Tower) -> int:
    """Take its word embeddings from a tower and return their width."""
    table: Any = tower.table
    name = next(name for name, module in tower.named_modules() if module is table)
    tower.set_submodule(name, nn.Identity())
    return table.weight.shape[1]


def draw_tokens(logits: Tensor, draws: Tensor) -> Tensor:
    """The tokens (M,) that uniform numbers (M,) draw from logits (M, W), by the inverse of the
    cumulative distribution; without gradient.

    >>> logits = torch.tensor([[0.5, 0.3, 0.2]]).log().repeat(3, 1)
    >>> draw_tokens(logits, torch.tensor([0.1, 0.6, 0.9]))
    tensor([0, 1, 2])
    """
    probabilities = at_least_float32(logits.detach()).softmax(-1)
    return drawn(probabilities, draws.to(probabilities.dtype))


@dataclass(frozen=True)
class Replaced:
    """Texts with replaced tokens: ids (B, L) of what is shown and of what was there, and which places
    were masked and which are real (B, L)."""

    shown: Tensor
    original: Tensor
    masked: Tensor
    real: Tensor
    lengths: Tensor

    @property
    def kept(self) -> Tensor:
        """Whether each token shown is that of the text (B, L), also where it was drawn."""
        return self.shown == self.original


@dataclass(frozen=True, kw_only=True)
class ReplacedConfig(ObjectiveConfig):
    """`rate` is the share of the ids that are masked, `generator` and `depth` are the generator's
    shares of the encoder's width and blocks, `weight` is that of the binary question."""

    rate: Share = 0.15
    generator: Part = 0.25
    depth: Part = 1.0
    weight: NotNegative = 50.0


class ReplacedTokens(Objective):
    """An objective on texts with tokens of a generator, which learns beside the encoder."""

    Config = ReplacedConfig
    crop: float | None = None

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.generator = Generator(self.text, config.generator, config.depth)

    @property
    def text(self) -> Any:
        """The text tower."""
        return self.model.text

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        view = ReplacedView(
            tokenizer=self.make.tokenizer, role=config.role, rate=config.rate, crop=self.crop
        )
        return (view,)

    def replaced(self, batch: Batch) -> tuple[Features, Replaced]:
        """The generator's losses of each sample, and the texts with its tokens."""
        tokens = batch.texts[MASKED]
        assert tokens.marks is not None, "the view marks what is masked"
        logits = self.generator(tokens, self.text.table)
        ids, lengths = tokens.flat
        marks = tokens.marks.flatten(0, 1)
        masked = marks >= 0
        draws = batch.fields[DRAWS][:, : ids.shape[1]]
        shown = ids.clone()
        shown[masked] = draw_tokens(logits, draws[masked])
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        original = torch.where(masked, marks, ids)
        found = Replaced(shown, original, masked, real, lengths)
        return word_losses(logits, tokens.marks), found

    def questions(self, logits: Tensor, answers: Tensor, texts: Replaced) -> Features:
        """The losses of a binary question about the real tokens, and counts, of each sample."""
        right = (logits > 0) == answers
        dtype = at_least_float32(logits).dtype
        return {
            "token_loss": token_losses(logits, answers, texts.real),
            "tokens": texts.real.sum(1).to(dtype),
            "replaced": (~texts.kept & texts.real).sum(1).to(dtype),
            "right": (right & texts.real).sum(1).to(dtype),
        }

    def question_loss(self, features: Features) -> tuple[Tensor, dict[str, Tensor]]:
        """ELECTRA's loss of the whole batch, and what is logged of it."""
        parts = [features[name] for name in ("word_loss", "words", "token_loss", "tokens")]
        words = features["words"].sum().clamp(min=1)
        tokens = features["tokens"].sum()
        logged = {
            "generator": features["word_loss"].sum() / words,
            "generator_right": features["words_right"].sum() / words,
            "replaced": features["replaced"].sum() / tokens,
            "right": features["right"].sum() / tokens,
        }
        found = replaced_tokens(*parts, weight=self.config.weight)
        return found, {name: value.detach() for name, value in logged.items()}


class ELECTRA(ReplacedTokens):
    """Whether each token is that of the text or a generator's (Clark et al. 2020).

        L = mean over masked tokens of -log p(token) + 50 · mean over all tokens of BCE( d, replaced )

    d are logits of a head on the encoder's tokens. A drawn token that equals the original counts as
    original.
    """

    row = Row(
        title="ELECTRA",
        source="Clark et al. 2020",
        contrast="input-label",
        supervision="self",
        positives="the tokens of the text",
        negatives="tokens of a generator",
    )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.without_projection()
        width = self.text.width
        self.discriminator = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1), nn.Flatten(-2)
        )

    def encode(self, batch: Batch, at: At) -> Features:
        found, texts = self.replaced(batch)
        hidden = self.model.encode_text(texts.shown, texts.lengths).tokens
        logits = self.discriminator(hidden)
        return {**found, **self.questions(logits, ~texts.kept, texts)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        found, logged = self.question_loss(features)
        return Losses({"replaced_tokens": found}, logged)


@dataclass(frozen=True, kw_only=True)
class COCOLMConfig(ReplacedConfig):
    """`tau` is the temperature of the contrast, `crop` the share of the ids that a cropped text keeps.
    `corrected` are the tokens at which words are predicted: the masked ones, or all."""

    tau: Positive = 1.0
    generator: Part = 1.0
    depth: Part = 1 / 3
    crop: Part = 0.9
    corrected: Literal["masked", "all"] = "masked"


class COCOLM(ReplacedTokens):
    """Corrects a generator's tokens, and contrasts the text with them and a cropped one (Meng et al.
    2021).

        L = mean over masked tokens of the generator's -log p(token)
            + 50 · mean over all tokens of BCE( c, kept )            c: logit that the token shown is right
            + mean over masked tokens of `losses.corrected_words`    it is copied, or another one is said
            + NT-Xent of the texts shown and cropped
    """

    Config = COCOLMConfig
    row = Row(
        title="COCO-LM",
        source="Meng et al. 2021",
        contrast="input-input",
        supervision="self",
        positives="a cropped text and the text with a generator's tokens",
        negatives="in-batch, both versions; tokens of a generator",
    )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.crop = config.crop
        words, width = self.text.table.weight.shape
        self.words = WordHead(width, words, hidden=self.text.width)
        self.copies = nn.Sequential(nn.Linear(self.text.width, 1), nn.Flatten(-2))

    def encode(self, batch: Batch, at: At) -> Features:
        found, texts = self.replaced(batch)
        encoded = self.model.encode_text(texts.shown, texts.lengths)
        copies = self.copies(encoded.tokens)
        shown = normalize(self.model.project_text(encoded.pooled), dim=-1)
        cropped = self.model.embed_texts(*batch.texts[CROPPED].flat)
        return {
            **found,
            **self.questions(copies, texts.kept, texts),
            **self._corrections(encoded.tokens, copies, texts),
            "views": torch.stack([shown, cropped], 1),
        }

    def _corrections(self, hidden: Tensor, copies: Tensor, texts: Replaced) -> Features:
        """The losses of corrected words, and how many there are, of each sample."""
        places = texts.masked if self.config.corrected == "masked" else texts.real
        logits = self.words(hidden[places], self.text.table.weight)
        losses = corrected_words(logits, copies[places], texts.original[places], texts.kept[places])
        placed = losses.new_zeros(places.shape).masked_scatter(places, losses)
        return {"correction": placed.sum(1), "corrections": places.sum(1).to(losses.dtype)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        found, logged = self.question_loss(features)
        corrections = features["corrections"].sum().clamp(min=1)
        shown, cropped = features["views"].unbind(1)
        terms = {
            "replaced_tokens": found,
            "corrected_words": features["correction"].sum() / corrections,
            "pairs": nt_xent(shown, cropped, self.config.tau),
        }
        return Losses(terms, logged)
