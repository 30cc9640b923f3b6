"""ALBEF: Align before Fuse, Vision and Language Representation Learning with Momentum Distillation (Li
et al., NeurIPS 2021).

An image tower and a text tower are aligned by a contrastive loss before a multimodal encoder, which
continues the text tower's tokens with cross-attention to all tokens of the image, reads both. A
momentum copy of all of it gives the keys of the contrastive loss, and soft targets for it and for
masked words.

    L     = L_itc + L_itm + L_mlm
    L_itc = ½ mean_i [ CE(x_i T / tau, y_i) + CE(t_i X / tau, y'_i) ],
            y_i = alpha softmax(x'_i T / tau) + (1 - alpha) e_i
    L_itm = CE of 3 B pairs: those of the data, each text with another image, each image with another text,
            drawn by the softmax of t_i X / tau and x_i T / tau over the batch without i
    L_mlm = (1 - alpha) CE(z, word) + alpha CE(z, softmax z'),       mean over masked words

x, t are unit vectors, x', t' those of the momentum copy (p' <- m p' + (1 - m) p before each step), X
and T its vectors of the batch followed by queues of earlier ones, z the logits of a masked word from
its text and image. alpha rises linearly from 0 within the share `ramp` of the steps. Targets of
several captions of an image are uniform over all of them where `same` says which these are.
Inference: cosine, whose first k are ordered anew by the log-odds of a match.

losses.py   targets, words                           model.py   what is delivered
answers.py  a decoder of answers to questions        classes.py  a head of classes, of one image or several
released.py the published weights                    base.py     what these tasks share with pre-training
assignment.py  which of several images a text is of
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Batch, Tokens
from diptych.data.columns import WithColumns
from diptych.data.pairs import ORIGIN, by_text
from diptych.data.sample import Source
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import ImageView, LabelView, MaskedTextView, TextView, View
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families.pairs import SMALL, PairConfig, tune
from diptych.methods.fuse.albef import released
from diptych.methods.fuse.albef.answers import ALBEFAnswers
from diptych.methods.fuse.albef.assignment import ALBEFAssignment
from diptych.methods.fuse.albef.base import FusionMethod
from diptych.methods.fuse.albef.classes import ALBEFClasses
from diptych.methods.fuse.albef.losses import (
    distilled,
    distilled_word_losses,
    positives,
)
from diptych.methods.fuse.albef.model import Matcher
from diptych.methods.make import Make
from diptych.models.delivered import Delivered
from diptych.objectives import info_nce
from diptych.objectives.matching import draw_negatives, match_loss
from diptych.rng import torch_seed
from diptych.spec import Count, Natural, NotNegative, Positive, Share
from diptych.towers.nn.parts import Momentum, Queue, Temperature, freeze

card = {
    "title": "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation",
    "year": 2021,
    "kind": "method",
    "entry": "ALBEF",
    "provenance": "code",
    "abilities": {
        "match": "",
        "fuse": "",
        "generate": "--method.task answers",
        "log_prob": "--method.task answers",
    },
}

TASKS = {"answers": ALBEFAnswers, "classes": ALBEFClasses, "assignment": ALBEFAssignment}
"""What a run on pairs is continued with."""
IMAGE = "image"
"""The value of `same` for which all texts of a sample are trained on, each with its image."""
_NO_ID = -100
"""The id of the random vectors with which queues start."""


@dataclass(frozen=True, kw_only=True)
class Config(PairConfig):
    """Options beside those of pairs.

    - `contrastive`, `matching` and `words` weigh L_itc, L_itm and L_mlm; a part whose losses are 0 is
      not trained.
    - `alpha` is the share of the momentum copy's targets, which rises within the share `ramp` of the
      steps; `momentum` is m.
    - `queue` is the number of earlier vectors of each side, 0 for none.
    - `temperature` is the initial tau, learned within 0.001 and 0.5.
    - `negatives` draws those of L_itm by similarity, or uniformly with "random".
    - `rate` is the share of masked words.
    - `same` is the label with the same value for samples of one image; or "image": each text of a sample
      is a pair with its image, and these are of one image. Such pairs are positives, also in the queue,
      and no negatives.
    - `depth` is that of the multimodal encoder, by default the text tower's.
    - `task` is pairs, or what a run on pairs is continued with: answers (`answers`), classes
      (`classes`), or which of several images a text is of (`assignment`). Of the options of losses,
      alpha, ramp and momentum are used in the first two.
    - `size` is the side of the images, where it is not that of the given model: positions are
      interpolated.
    - `images` is the number of images that a text is about: of classes 1 by default, of assignment 2.
    """

    several: ClassVar[bool] = False

    contrastive: NotNegative = 1.0
    matching: NotNegative = 1.0
    words: NotNegative = 1.0
    alpha: Share = 0.4
    ramp: Share = 1 / 30
    momentum: Share = 0.995
    queue: Natural = 65536
    temperature: Positive = 0.07
    negatives: Literal["similar", "random"] = "similar"
    rate: Share = 0.15
    same: str | None = None
    depth: Count | None = None
    size: Count | None = None
    task: Literal["pairs", "answers", "classes", "assignment"] = "pairs"
    images: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images is not None and self.task not in ("classes", "assignment"):
            raise InputError(
                f"a text of --method.task {self.task} is about one image; leave out --method.images, or choose "
                "classes or assignment"
            )
        if self.task == "assignment" and self.images == 1:
            raise InputError(
                "--method.task assignment chooses one of several images; give --method.images 2 or more"
            )
        if not self.contrastive + self.matching + self.words:
            raise InputError("contrastive, matching and words are all 0; give one of them a weight")
        if self.matching and not self.contrastive and self.negatives == "similar":
            raise InputError(
                "negatives=similar are chosen by what the contrastive loss trains; with contrastive=0 set "
                "negatives=random"
            )

    def alpha_at(self, at: At) -> float:
        """The share of the momentum copy's targets at a step."""
        return self.alpha * min(1.0, at.progress / self.ramp) if self.ramp else self.alpha


class ALBEF(FusionMethod):
    """Contrastive learning, matching and masked words with a momentum copy."""

    Config = Config
    test_options: ClassVar[Mapping[str, Any]] = {"queue": 64}  # as 48 samples have few vectors
    model: Matcher

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(
            logit_scale=Temperature(config.temperature, form="divisor", clamp=(0.001, 0.5))
        )
        self.model = Matcher(encoder, config.depth)
        make.go_on(self.model)
        self.set_size(encoder)
        self._freeze_unused()
        self.slow = Momentum(encoder, config.momentum)
        self.slow_multimodal = Momentum(self.model.multimodal, config.momentum)
        self.queues = torch.nn.ModuleDict()
        if config.queue:
            E = encoder.embed_dim
            self.queues["image"] = Queue(config.queue, E, 0)
            self.queues["text"] = Queue(config.queue, E, 1)
            self.queues["ids"] = Queue(config.queue, 1, fill=_NO_ID)
        if config.matching:
            self.exchanged = ("image_tokens", "text_tokens")  # type: ignore[misc]  # of the instance

    @classmethod
    def of(cls, config: Any, make: Make) -> Method:
        if config.task == "pairs":
            return cls(config, make)
        made = TASKS[config.task](config, make)
        made.presets = cls.presets  # type: ignore[misc]  # set on the instance
        return made

    @classmethod
    def published(cls, path: Path) -> tuple[Delivered, Tokenizer, Mapping[str, Any]]:
        module, tokenizer = released.read(path)
        depth = len(module.multimodal.transformer.layers)
        return module, tokenizer, {"depth": depth}

    def _freeze_unused(self) -> None:
        config = self.config
        encoder = self.model.encoder
        if not config.contrastive:
            freeze(encoder.image_projection, encoder.text_projection, encoder.logit_scale)
            freeze(getattr(encoder.image, "pool", None))  # nothing reads what the tower pools
        if not config.matching:
            freeze(self.model.match_head)
        if not config.words:
            freeze(self.model.multimodal.words)
        if not config.matching and not config.words:
            freeze(self.model.multimodal)

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        if options.get("task") in TASKS:
            return TASKS[options["task"]].next_steps(options)
        return (
            "evaluate {run} --data {data} --suite retrieval --rerank 32",
            "match {run} PAIRS",
        )

    def stages(self) -> Sequence[Stage]:
        size = self.config.queue
        return (replace(self.stage(), max_batch=(size, "--method.queue") if size else None),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        tokenizer = self.make.tokenizer
        if config.words and "mask" not in tokenizer.special:
            raise InputError(
                f"the tokenizer has no special token for masked words; add it with --tokenizer {tokenizer.kind}:"
                "special=mask, or to a given model without one train none: --method.words 0"
            )
        words = {"tokenizer": tokenizer, "role": config.role}
        text = (
            MaskedTextView(**words, rate=config.rate, ends=True, min_masked=1)
            if config.words
            else TextView(**words)
        )
        image = ImageView(preprocess=self.model.preprocess, augment=self.augment)
        if config.same is None:
            return image, text
        label = ORIGIN if config.same == IMAGE else config.same
        return image, text, LabelView(label=label, name="same")

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        if self.config.same != IMAGE:
            return source
        pairs = by_text(source, self.config.role)
        if pairs is not source:
            return pairs
        return WithColumns(source, {ORIGIN: np.arange(len(source))})

    def needs(self, stage: Stage, stream: str = "train") -> tuple[str, ...]:
        made = f"labels.{ORIGIN}"  # by `samples`
        return tuple(name for name in super().needs(stage, stream) if name != made)

    # ---- a sample

    def encode(self, batch: Batch, at: At) -> Features:
        encoder = self.model.encoder
        slow: Any = self.slow.module
        ids, lengths = unmasked(batch.text).flat
        image = encoder.encode_image(batch.image.flat)
        text = encoder.encode_text(ids, lengths)
        with torch.no_grad():
            slow_image = slow.encode_image(batch.image.flat)
            slow_text = slow.encode_text(ids, lengths)
            found = {"image_slow": slow.image_vectors(slow_image)}
            found["text_slow"] = slow.project_text(slow_text.pooled)
        found["image"] = encoder.image_vectors(image)
        found["text"] = encoder.project_text(text.pooled)
        found = {name: normalize(value, dim=-1) for name, value in found.items()}
        if self.config.matching:
            found |= {"image_tokens": image.tokens, "text_tokens": text.tokens}
        if self.config.words:
            found |= self._words(batch.text, image.tokens, slow_image.tokens)
        return found

    def _words(self, tokens: Tokens, image: Tensor, slow_image: Tensor) -> Features:
        """The losses of the masked words of each sample, and their number."""
        assert tokens.marks is not None, "a view that masks marks what was there"
        ids, lengths = tokens.flat
        chosen = tokens.marks.flatten(0, 1) >= 0

        def logits(encoder: Any, multimodal: Any, memory: Tensor) -> Tensor:
            read = encoder.encode_text(ids, lengths).tokens
            hidden = multimodal(read, lengths, memory)[chosen]
            return at_least_float32(multimodal.words(hidden, encoder.text.table.weight))

        teacher = None
        if self.config.alpha:
            with torch.no_grad():
                teacher = logits(self.slow.module, self.slow_multimodal.module, slow_image)
        found = logits(self.model.encoder, self.model.multimodal, image)
        return distilled_word_losses(found, teacher, tokens.marks)

    # ---- pairs

    def among(self, features: Features, rows: slice, batch: Batch, at: At) -> Features:
        """Return the logits (n, 3, 2) of each pair, of its text with another image, and of its image
        with another text."""
        lengths = batch.text.lengths[:, 0]
        image_of, text_of = self._negatives(features, self._ids(batch), at)
        own = torch.arange(len(lengths), device=lengths.device)[rows]
        images = torch.cat([own, image_of[rows], own])
        texts = torch.cat([own, own, text_of[rows]])
        logits = self.model.match_logits(
            features["image_tokens"][images], features["text_tokens"][texts], lengths[texts]
        )
        return {"matches": logits.unflatten(0, (3, -1)).transpose(0, 1)}

    def _negatives(self, features: Features, ids: Tensor, at: At) -> tuple[Tensor, Tensor]:
        """The number of another image for each text (B,), and of another text for each image (B,)."""
        excluded = positives(ids, ids[:0])
        if self.config.same is not None and bool(excluded.all(1).any()):
            raise InputError(
                f"all {len(ids)} pairs of a batch are of one image, by {self.config.same!r}, so that none has a "
                "negative; give a larger batch"
            )
        generator = torch.Generator(ids.device)
        generator.manual_seed(torch_seed(at.seed, at.stage, at.step, "negatives"))
        found = []
        for query, key in (("text", "image_slow"), ("image", "text_slow")):
            logits = self.model.encoder.logit_scale().detach() * features[query] @ features[key].T
            if self.config.negatives == "random":
                logits = torch.zeros_like(logits)
            found.append(draw_negatives(logits, excluded, generator))
        return found[0], found[1]

    def _ids(self, batch: Batch) -> Tensor:
        """The id (B,) of each sample's image, below 0 where none is known."""
        if self.config.same is None:
            return torch.full((len(batch),), _NO_ID, device=batch.text.ids.device)
        return batch.fields["same"].long()

    # ---- a step

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        config = self.config
        alpha = config.alpha_at(at)
        terms = {}
        logged: dict[str, Tensor | float] = {"alpha": alpha}
        slow = {side: features[f"{side}_slow"].detach() for side in ("image", "text")}
        ids = self._ids(batch)
        if config.contrastive:
            found, bound = self._contrastive(features, slow, ids, alpha)
            terms["contrastive"] = config.contrastive * found
            logged |= {"scale": self.model.encoder.logit_scale(), "information": bound}
        if config.matching:
            found, right = match_loss(features["matches"])
            terms["matching"] = config.matching * found
            logged["matches_right"] = right
        if config.words:
            found, own = self._word_loss(features, alpha)
            terms["words"] = config.words * found
            logged |= own
        return Losses(terms, logged, {**slow, "ids": ids[:, None]})

    def _contrastive(
        self, features: Features, slow: Features, ids: Tensor, alpha: float
    ) -> tuple[Tensor, Tensor]:
        """L_itc, and the lower bound ln K - L of the mutual information of image and text, L the loss
        with the pairs as targets."""
        queued = self._queued()
        banks = {side: torch.cat([slow[side], queued[side].to(slow[side])]) for side in slow}
        scale = self.model.encoder.logit_scale()
        right = positives(ids, queued["ids"][:, 0].to(ids))
        targets = []
        for side, bank in (("image", banks["text"]), ("text", banks["image"])):
            teacher = scale.detach() * slow[side] @ bank.T
            targets.append(distilled(teacher, right, alpha))
        contrast = partial(
            info_nce,
            features["image"],
            features["text"],
            scale,
            image_keys=banks["image"],
            text_keys=banks["text"],
        )
        found = contrast(targets=(targets[0], targets[1]))
        with torch.no_grad():
            hard = contrast(targets=torch.arange(len(ids), device=ids.device))
        return found, math.log(len(banks["image"])) - hard

    def _queued(self) -> dict[str, Tensor]:
        """The rows of the queues."""
        if self.queues:
            return {name: queue.rows for name, queue in self.queues.items()}  # type: ignore[misc]
        none = torch.zeros(0, self.model.encoder.embed_dim)
        return {"image": none, "text": none, "ids": torch.zeros(0, 1, dtype=torch.long)}

    def _word_loss(
        self, features: Features, alpha: float
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """L_mlm, the share of masked words that are right, and the bound ln W - CE of the information
        that text and image have of a word."""
        count = features["words"].sum().clamp(min=1)
        hard = features["word_loss"].sum() / count
        loss = hard
        if "soft_loss" in features:
            loss = (1 - alpha) * hard + alpha * features["soft_loss"].sum() / count
        return loss, {
            "words_right": features["words_right"].sum() / count,
            "word_information": math.log(self.make.tokenizer.vocab_size) - hard.detach(),
        }

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        for name, queue in self.queues.items():
            queue.push(carry[name])  # type: ignore[operator]
        self.slow.update()
        self.slow_multimodal.update()


def unmasked(tokens: Tokens) -> Tokens:
    """The texts before ids were masked.

    >>> marked = Tokens(torch.tensor([[[5, 9]]]), torch.tensor([[2]]), torch.tensor([[[-1, 6]]]))
    >>> unmasked(marked).ids.tolist()
    [[[5, 6]]]
    """
    if tokens.marks is None:
        return tokens
    return Tokens(torch.where(tokens.marks < 0, tokens.ids, tokens.marks), tokens.lengths)


ALBEF.presets = {
    "small": replace(
        SMALL,
        config={**SMALL.config, "queue": 512, "momentum": 0.98},
        text="text:width=128:depth=2:heads=4:causal=false:pooling=first:dropout=0.1",
        tokenizer="bpe:vocab_size=2048:context=32:special=mask",
    ),
    "paper": Preset(
        config={"augment": {"crop": (0.2, 1.0), "flip": True, "randaugment": 2}},
        image="vit:image_size=256:patch=16:width=768:depth=12:heads=12:eps=1e-6",
        text="text:width=768:depth=6:heads=12:causal=false:pooling=first:eps=1e-12:dropout=0.1",
        tokenizer="wordpiece:vocab_size=30522:context=25",
        embed_dim=256,
        recipe=Recipe(
            lr=1e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.02,
            warmup=2000,
            min_lr=0.1,
            epochs=30,
            batch_size=512,
            precision="bfloat16",
        ),
    ),
}
ALBEF.presets = {
    **ALBEF.presets,
    "tune": tune(
        ALBEF.presets["small"], words=0.0, same=IMAGE, ramp=0.2, queue=1024, momentum=0.995
    ),
}
