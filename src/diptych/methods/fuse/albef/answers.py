"""Answers to questions about images: a decoder that reads what the multimodal encoder makes of image and
question.

    Q = multimodal(text tower(question), image),    L = - mean over questions of Σ_t log p(a_t | a_<t, Q)

The decoder has the layers of the multimodal encoder, causal, with cross-attention to Q, and starts from
their weights. With a momentum copy of all of it, each term is (1 - alpha) times that above and alpha
times the cross-entropy with the copy's prediction. Inference: the answer is generated, or it is the
likeliest of a list, whose first k by their first token are compared.

Dimensions: B questions, L tokens, M tokens of an image, A answers of a list, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.images import Preprocess
from diptych.data.questions import asked_of
from diptych.data.sample import Sample
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.data.views import ImageView, View
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.families.captions import writes
from diptych.methods.fuse.albef.base import FusionMethod
from diptych.methods.fuse.albef.model import MultimodalEncoder, text_of
from diptych.methods.make import Make
from diptych.models.captioner import Captioner, CaptionModel, Prompt
from diptych.models.causal_lm import CausalLM
from diptych.models.delivered import Validation
from diptych.models.model import ImagesLike, evaluating
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Momentum, Temperature, freeze
from diptych.towers.text.text import TextConfig, TextTower
from diptych.towers.tower import Tower

FIRST = 128
"""The answers of a list whose whole probability is computed."""


@dataclass(frozen=True, kw_only=True)
class AnswerView:
    """A question, texts.question (B, 1, L), and an answer to it, texts.answer (B, 1, L), in lower case:
    in training random ones, else the first.

    An answer is drawn as often as people gave it. Raises BadSample("no-question") for a sample without
    a question with an answer.
    """

    tokenizer: Tokenizer
    reads = ("texts.question", "texts.answer")
    gives = ("texts.question", "texts.answer")

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        question, answer = asked_of(sample, rng, progress is not None)
        rows = [self.tokenizer.encode([text.lower()]) for text in (question, answer)]
        return dict(zip(self.gives, rows, strict=True))


class Answerer(Captioner):
    """A dual encoder, the multimodal encoder of images and questions, and a decoder of answers."""

    validation = Validation("answers", ("exact", "vqa"))

    def __init__(self, encoder: DualEncoder, words: Tokenizer, depth: int | None = None):
        super().__init__()
        text = text_of(encoder)
        self.encoder = encoder
        self.multimodal = MultimodalEncoder(text, encoder.image.width, depth)
        freeze(self.multimodal.words)  # no words are masked
        self.lm = CausalLM(decoder_like(text, self.multimodal, words))
        self._words = words

    @property
    def words(self) -> Tokenizer:
        return self._words

    def start_decoder(self) -> None:
        """Give the decoder the weights of the multimodal encoder and of the text tower that have the
        same shape; none of BERT's, whose layers are post-norm."""
        if self.multimodal.post_norm:
            return
        tower = self.lm.tower
        given = {
            f"transformer.{name}": value
            for name, value in self.multimodal.transformer.state_dict().items()
        }
        given |= {
            f"norm.{name}": value for name, value in self.multimodal.norm.state_dict().items()
        }
        text: Any = self.encoder.text
        given |= {
            name: value
            for name, value in text.state_dict().items()
            if name in ("table.weight", "positions")
        }
        own = tower.state_dict()
        for name, value in given.items():
            if name in own and own[name].shape == value.shape:
                own[name].copy_(value)

    def see(self, pixels: Tensor) -> Tensor:
        encode = self.encoder.encode_image if pixels.ndim == 4 else self.encoder.encode_frames
        return encode(pixels).tokens

    def read(self, ids: Tensor, lengths: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Questions (B, L) with lengths (B,) on images that were seen (B, M, ·) -> what the decoder reads
        (B, L, D), and which of it is real (B, L)."""
        tokens = self.encoder.encode_text(ids, lengths).tokens
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return self.multimodal(tokens, lengths, seen), mask

    def prompted(self, seen: Tensor, prompts: Sequence[str] | None) -> Prompt:
        if prompts is None:
            raise InputError("this model answers questions; ask one")
        rows = self.words.encode([text.lower() for text in prompts])
        ids, lengths = pad_batch(rows, self.words)
        memory, mask = self.read(ids.to(seen.device), lengths.to(seen.device), seen)
        return Prompt(ids=[list(self.words.before)] * len(seen), memory=memory, memory_mask=mask)

    def target(self, text: str) -> str:
        return text.lower()

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "AnswererModel":
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return AnswererModel(self, tokenizer, preprocess, name=name)


def decoder_like(text: Tower, multimodal: MultimodalEncoder, words: Tokenizer) -> TextTower:
    """A causal text tower with the layers of the multimodal encoder, which reads its tokens."""
    like = text.spec
    config = TextConfig(
        vocab_size=multimodal.words.bias.shape[0],
        context=words.context,
        pad=words.pad,
        eot=words.eot,
        width=text.width,
        depth=len(multimodal.transformer.layers),
        heads=like.get("heads"),
        mlp_ratio=like.get("mlp_ratio", 4.0),
        activation=like.get("activation", "gelu"),
        dropout=like.get("dropout", 0.0),
        cross=0,
    )
    return TextTower(config)


class AnswererModel(CaptionModel):
    """A model that answers questions about images."""

    captioner: Answerer

    def generate(
        self,
        images: ImagesLike,
        prompts: Sequence[str] | None = None,
        *,
        among: Sequence[str] | None = None,
        first: int = FIRST,
        batch_size: int = 64,
        exact: bool = False,
        **options: Any,
    ) -> list[str]:
        """Return an answer to question i about image i, as `CaptionModel.generate`, or the likeliest of
        the answers `among`. Of these, the `first` by the probability of their first token are compared.

        Raises InputError for a list without answers, or with an empty one.
        """
        how: dict[str, Any] = {"batch_size": batch_size, "exact": exact}
        if among is None:
            return super().generate(images, prompts, **how, **options)
        listed = list(dict.fromkeys(among))
        if not listed or not all(text.strip() for text in listed):
            raise InputError(
                "the list of answers is empty or has an empty one; give some words each"
            )
        rows = self.captioner.words.encode([self.captioner.target(text) for text in listed])
        ids, lengths = self._padded(rows)
        seen, count = self._seen(images, batch_size, exact)
        asked = self._as_many(prompts, count, "prompts")
        found: list[str] = []
        with evaluating(self.captioner), torch.inference_mode():
            for prompt, _ in self._prompted(seen, asked):
                best = self._ranked(prompt, ids, lengths, min(first, len(listed)))
                found += [listed[at] for at in best.tolist()]
        return found

    def _ranked(self, prompt: Prompt, ids: Tensor, lengths: Tensor, first: int) -> Tensor:
        """The number (B,) of the likeliest of answers (A, L)."""
        lm = self.captioner.lm
        begin = len(self.captioner.words.before)
        assert prompt.memory is not None, "the decoder reads image and question"
        start = ids[:1, :begin].expand(len(prompt.ids), -1)
        state = lm.start(start, memory=prompt.memory, memory_mask=prompt.memory_mask)
        chosen = state.logits[:, ids[:, begin]].topk(first).indices  # (B, first)
        scores = torch.stack(
            [
                lm.log_prob(
                    ids[numbers],
                    lengths[numbers],
                    first=begin,
                    memory=prompt.memory[row].expand(first, -1, -1),
                    memory_mask=None
                    if prompt.memory_mask is None
                    else prompt.memory_mask[row].expand(first, -1),
                )
                for row, numbers in enumerate(chosen)
            ]
        )
        return chosen.gather(1, scores.argmax(1, keepdim=True))[:, 0].cpu()


class ALBEFAnswers(FusionMethod):
    """Trains the decoder of answers, and all that it reads."""

    model: Answerer

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(logit_scale=Temperature(config.temperature, form="divisor"))
        self.model = Answerer(encoder, writes(make.tokenizer), config.depth)
        make.go_on_part(self.model.multimodal, "multimodal")
        self.model.start_decoder()
        make.go_on(self.model)
        self.set_size(encoder)
        self.slow = Momentum(self.model, config.momentum)
        # what embeds is kept as it is, and only the tokens are trained
        freeze(encoder.image_projection, encoder.text_projection, encoder.logit_scale)
        freeze(getattr(encoder.image, "pool", None))

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data {data} --suite answers",
            "generate {run} 'A QUESTION' --images IMAGES",
        )

    def stages(self) -> Sequence[Stage]:
        return (replace(self.stage(), min_batch=1),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        image = ImageView(preprocess=self.model.image.preprocess, augment=self.augment)
        return image, AnswerView(tokenizer=self.make.tokenizer)

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the log-loss of each answer, its cross-entropy with the copy's prediction, and its number
        of tokens."""
        logits, owner, ids = self._logits(self.model, batch)
        own = logits.log_softmax(-1)
        found = {"log_loss": -own.gather(1, ids[:, None])[:, 0]}
        if self.config.alpha:
            with torch.no_grad():
                teacher = self._logits(self.slow.module, batch)[0].softmax(-1)
            found["soft_loss"] = -(teacher * own).sum(-1)
        found["tokens"] = torch.ones_like(found["log_loss"])
        empty = own.new_zeros(len(batch))
        return {name: empty.index_add(0, owner, value) for name, value in found.items()}

    def _logits(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The logits (N, V) of all tokens of the answers but the first, their samples and their ids
        (N,)."""
        memory, mask = model.read(*batch.texts["question"].flat, model.see(batch.image.flat))
        ids, lengths = batch.texts["answer"].flat
        hidden = model.lm(ids[:, :-1], memory=memory, memory_mask=mask)
        there = torch.arange(1, ids.shape[1], device=ids.device) < lengths[:, None]
        owner = there.nonzero()[:, 0]
        return at_least_float32(model.lm.logits(hidden[there])), owner, ids[:, 1:][there]

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        alpha = self.config.alpha_at(at)
        hard = features["log_loss"].mean()
        loss = hard
        if "soft_loss" in features:
            loss = (1 - alpha) * hard + alpha * features["soft_loss"].mean()
        perplexity = torch.exp(features["log_loss"].sum() / features["tokens"].sum()).detach()
        return Losses({"answers": loss}, {"alpha": alpha, "perplexity": perplexity})

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        self.slow.update()
