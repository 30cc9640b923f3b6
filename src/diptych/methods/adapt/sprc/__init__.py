"""SPRC: Sentence-level Prompts Benefit Composed Image Retrieval (Bai et al., ICLR 2024).

A reference image and a text of the desired change become a prompt of sentence length. Placed before
the text, it forms an ordinary text query for images. So an edit may remove one of several objects,
which neither a sum of features nor a single pseudo-word can express.

    p = QFormer(Q, a; I_r),  f = unit(W_t QFormer(p, a)_CLS),  g = unit(W_v QFormer(Q; I_t)),  S_ij = max_k <f_i, g_jk>
    L = CE(S / tau, diagonal) + rtc CE(S' / tau, diagonal) + align |mean p - mean sg(p')|²

S' is S with f' = unit(W_t QFormer(CLS, p', a)), where p' is one learned prompt for all samples,
which inference does not use. The image tower is that of the model given by --init, frozen.
Inference: f against an index of g (`methods.adapt.sprc.composer`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diptych.data.batch import Batch
from diptych.data.plan import Having, Shuffled, Together
from diptych.data.views import ImageView, TextView, View, augmentation
from diptych.errors import InputError
from diptych.methods.adapt.sprc.composer import Composer, cleaned
from diptych.methods.adapt.sprc.objectives import (
    best_similarity,
    hard_negatives,
    prompt_alignment,
    token_nce,
)
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.make import Make
from diptych.rng import generator
from diptych.spec import AtLeast, Count, Dropout, NotNegative, Width
from diptych.towers.nn.parts import Temperature, freeze
from diptych.towers.nn.qformer import STD, QFormer, QFormerConfig

card = {
    "title": "Sentence-level Prompts Benefit Composed Image Retrieval",
    "year": 2024,
    "kind": "method",
    "entry": "SPRC",
    "provenance": "code",
    "abilities": {"compose": ""},
}

# In training, two texts of a sample are read in either order or one alone, with probability 1/4
# each; outside training both, in order.
BOTH = "instruction+instruction=0.5,instruction=0.5"


@dataclass(frozen=True, kw_only=True)
class Config:
    """`task` "compose" trains on triples. "pairs" trains on images and captions by two losses of
    BLIP-2's first stage: texts and images retrieve each other, and the pass that reads both, from
    which `compose` takes its prompts, tells pairs from hard negatives. `compose` starts from such a
    run (--init).

    - `role` is the role of the instructions (or of the captions).
    - `rtc` and `align` weigh the terms of the learned prompt.
    - `width`, `depth`, `heads`, `queries` and `dropout` are those of the Q-Former, for texts of
      `length` tokens. The prompt is `prompts` of its outputs (None: all); the embeddings that are
      compared have `embed` dimensions.
    - An image whose sides have a ratio above `ratio` is padded. `augment` holds options of
      `data.views.Augment` (None: no augmentation).
    - `together` is the number of consecutive triples that share a batch, so that siblings (of
      `scenes:siblings=6`) are hard negatives of each other.
    """

    task: Literal["compose", "pairs"] = "compose"
    role: str | None = None
    rtc: NotNegative = 0.4
    align: NotNegative = 0.4
    width: Width = 768
    depth: Count = 12
    heads: Count | None = None
    queries: Count = 32
    dropout: Dropout = 0.1
    length: Count = 32
    prompts: Count | None = None
    embed: Count = 256
    ratio: Annotated[float, AtLeast(1)] | None = 1.25
    augment: Mapping[str, Any] | None = None
    together: Count = 1


@dataclass(frozen=True, kw_only=True)
class InstructionView(TextView):
    """Texts as in `TextView`, cleaned as the model reads them; several are joined by "and"."""

    between: str = " and "

    def said(self, text: str, rng: np.random.Generator, progress: float | None) -> str:
        return cleaned(text)


class SPRC(Method):
    """A sentence-length prompt of an image before the text that changes it."""

    Config = Config
    adapts: ClassVar[bool] = True
    model: Composer

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "compose {run} IMAGES REFERENCE 'make it blue'",
            "evaluate {run} --data {data} --suite composed",
        )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.augment = augmentation(config.augment)
        encoder = make.dual(logit_scale=Temperature(100.0, form="fixed"))
        if make.words is None:
            raise InputError(
                "instructions are texts, and this model came without a tokenizer; start from one that reads texts too"
            )
        encoder.image.preprocess = replace(encoder.image.preprocess, ratio=config.ratio)
        qformer = QFormer(
            QFormerConfig(
                vocab_size=make.tokenizer.vocab_size,
                memory_width=encoder.image.width,
                width=config.width,
                depth=config.depth,
                heads=config.heads,
                queries=config.queries,
                dropout=config.dropout,
            )
        )
        options = {"prompts": config.prompts or config.queries, "length": config.length}
        self.model = Composer(encoder, qformer, config.embed, **options)
        make.go_on(self.model)
        self.match: nn.Linear | None = None
        if config.task == "pairs":
            self.match = nn.Linear(config.width, 2)
        self.auxiliary: nn.Parameter | None = None
        if config.task == "compose" and (config.rtc or config.align):
            self.auxiliary = nn.Parameter(torch.randn(config.queries, config.width) * STD)
            if not config.rtc:  # no other term trains it
                freeze(self.auxiliary)

    def stages(self) -> Sequence[Stage]:
        plan = Together(self.config.together) if self.config.together > 1 else Shuffled()
        return (Stage(plan=plan if self.config.task == "pairs" else Having("reference", plan)),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        triples = self.config.task == "compose"
        options = {"preprocess": self.model.image.preprocess, "augment": self.augment}
        roles = ("main", "reference") if triples else ("main",)
        role = self.config.role or (BOTH if triples else "caption")
        return (
            *(ImageView(name=name, role=name, **options) for name in roles),
            InstructionView(tokenizer=self.make.tokenizer, role=role),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        model = self.model
        words = batch.text.flat
        tokens = model.look(batch.image.flat)
        found = {"targets": model.targets(tokens)}
        if self.config.task == "pairs":
            return found | {"query": model.query(None, *words), "tokens": tokens}
        query, prompts = model.ask(batch.images["reference"].flat, *words)
        found |= {"query": query, "prompt": prompts.mean(1)}
        if self.auxiliary is not None and self.config.rtc:
            found["auxiliary"] = model.query(None, *words, inserted=self.auxiliary)
        return found

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        scale = self.model.logit_scale()
        targets = features["targets"]
        if self.config.task == "pairs":
            itc = token_nce(features["query"], targets, scale, directions="mean")
            return Losses(
                {"itc": itc, "itm": self._matching(features, batch, at)}, {"scale": scale}
            )
        terms = {"itc": token_nce(features["query"], targets, scale)}
        if "auxiliary" in features:
            terms["rtc"] = self.config.rtc * token_nce(features["auxiliary"], targets, scale)
        if self.auxiliary is not None and self.config.align:
            terms["align"] = self.config.align * prompt_alignment(
                features["prompt"], self.auxiliary
            )
        return Losses(terms, {"scale": scale})

    def _matching(self, features: Features, batch: Batch, at: At) -> Tensor:
        """Return the cross-entropy of telling pairs from hard negatives: each text with another
        image, each image with another text."""
        assert self.match is not None, "only the task pairs matches"
        model = self.model
        logits = model.logit_scale() * best_similarity(features["query"], features["targets"])
        images = [torch.arange(len(logits), device=logits.device)]
        texts = [*images]
        if len(logits) > 1:
            rng = generator(at.seed, "matching", at.step)
            images += [hard_negatives(logits, rng), images[0]]
            texts += [texts[0], hard_negatives(logits.T, rng)]
        of_image = torch.cat(images)
        of_text = torch.cat(texts)
        ids, lengths = batch.text.flat
        joint = model.joint(features["tokens"][of_image], ids[of_text], lengths[of_text])
        matched = (of_image == of_text).long()
        return cross_entropy(self.match(joint).mean(1), matched)


SPRC.presets = {
    # The towers come from the given model; the contract suite, which has none, builds these.
    "small": Preset(
        config={"width": 128, "depth": 4, "heads": 4, "queries": 8, "embed": 128, "dropout": 0.1},
        image="vit:image_size=32:patch=8:width=128:depth=2",
        text="text:width=128:depth=1",
        tokenizer="bpe:vocab_size=2048:context=32",
        embed_dim=128,
        recipe=Recipe(lr=5e-4, weight_decay=0.05, warmup=0.1, batch_size=64, epochs=10),
    ),
    # CIRR's. FashionIQ: rtc=1, align=1; lr 2e-5, 30 epochs, warmup=0.05, schedule
    # "onecycle:div_factor=100".
    "paper": Preset(
        config={"width": 768, "depth": 12, "queries": 32, "embed": 256, "dropout": 0.1},
        image="vit:image_size=224:patch=14:width=1408:depth=39:heads=16:mlp_ratio=4.3637",
        text="text:width=768:depth=1:heads=12",
        tokenizer="clip",
        embed_dim=768,
        recipe=Recipe(
            lr=1e-5,
            eps=1e-7,
            weight_decay=0.05,
            schedule="onecycle:length=1.6",
            warmup=0.02,
            batch_size=128,
            epochs=50,
        ),
    ),
}
