"""NEVLP: Noise-Robust Framework for Efficient Vision-Language Pre-training (arXiv 2409.09582,
2024).

A Q-Former between a frozen dual encoder and texts, as in BLIP-2, is trained on pairs of which some are
wrong and some incomplete. A wrong pair keeps a high loss, so before each epoch a mixture of two
Gaussians on the losses of all pairs gives the probability e_i that pair i is noise, and its target is
softened. An incomplete text is completed by concepts that the frozen encoder finds in the image.

    S_ij = max_k cos(query_k of image i, text j),      w_i = noise · e_i
    L = L_nitc + L_citm + L_citg
    L_nitc = ½ mean_i [ CE(S_i / tau, y_i) + CE(S'_i / tau, y_i) ],    y_ii = 1 - w_i,  y_ij = w_i / (B - 1)
    L_citm = CE of 3 B pairs: those of the data, each text with another image, each image with another
             text, drawn by the softmax of S / tau without the pair itself
    L_citg = mean over words of - log p(word | earlier words, concepts, queries), labels smoothed

In the first `warm` epochs e is 0. The concepts before a text are those of the image that it is matched
with, also where the text is of another, so that they do not tell which pairs are wrong; they have no
loss. Inference: S, whose first k are ordered anew by the log-odds of a match; captions.

In a second stage, a run of its own, the queries' outputs are the prompt of a frozen language model,
which writes captions or answers.

From the abstract and a third party's summary; the equations are a reconstruction with those of NLIP and
BLIP-2.

mixture.py    probabilities of noise            losses.py   the losses
concepts.py   the vocabulary of concepts        model.py    what the first stage delivers
stage_two.py  the second stage                  base.py, queries.py   what both stages share
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.columns import WithColumns
from diptych.data.loader import require
from diptych.data.pairs import ORIGIN, Paired, by_text
from diptych.data.sample import Source
from diptych.data.views import LabelView, TextView, View
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families.captions import writes
from diptych.methods.fuse.nevlp.base import QueryMethod, frozen_encoder, qformer_of
from diptych.methods.fuse.nevlp.concepts import (
    CONCEPTS,
    ConceptView,
    nouns_of,
    texts_of,
    vocabulary,
)
from diptych.methods.fuse.nevlp.losses import Mode, caption_losses, noisy_nce
from diptych.methods.fuse.nevlp.mixture import noise_probabilities
from diptych.methods.fuse.nevlp.model import Bridge, behind_concepts, losses_of
from diptych.methods.fuse.nevlp.stage_two import NEVLPStageTwo
from diptych.methods.make import Make
from diptych.metrics import similarities
from diptych.objectives.matching import draw_negatives, match_loss
from diptych.rng import torch_seed
from diptych.spec import (
    Count,
    Dropout,
    ModelSpec,
    Natural,
    NotNegative,
    Positive,
    Share,
    ShareBelowOne,
    Width,
)
from diptych.towers.nn.parts import freeze

card = {
    "title": "NEVLP: Noise-Robust Framework for Efficient Vision-Language Pre-training",
    "year": 2024,
    "kind": "method",
    "entry": "NEVLP",
    "provenance": "abstract",
    "abilities": {
        "match": "",
        "generate": "",
        "log_prob": "",
        "noise_probability": "",
        "fuse": "--method.task answers",
    },
}

NOISE = "noise_probability"
"""The column (C,) with the probability of each text of a sample, and the label of a pair."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Each text of the role `role` is a pair with its image.

    - `noise` is the most that a target is softened, lambda; with `mode` "weight" the loss of a pair is
      weighed down instead. `warm` is the number of epochs before that.
    - `concepts` is the number m of concepts of an image, 0 for none. The vocabulary are the words of the
      captions that occur `min_count` times, the `max_concepts` most frequent; of `nouns` alone, a source
      of words such as wordnet:pos=noun. `prompt` is what the frozen encoder reads of a concept.
    - `matching` and `caption` weigh L_citm and L_citg; with 0 the part is not trained. `smoothing` is
      that of words' labels.
    - `temperature` is the initial tau, learned.
    - `width`, `depth`, `heads`, `queries` and `dropout` are those of the Q-Former. `embed` is the number
      of dimensions of embeddings.
    - `augment` holds options of `data.views.Augment` (None: no augmentation). With `cached` the frozen
      encoder's tokens of each image are computed once, and read from a file.
    - `task` is pairs, the first stage, or what a run of it is continued with: captions or answers, which
      the language model `lm` writes, frozen. There `noise`, `mode`, `warm` and the options of words and
      losses are not used, and concepts are those of the run.
    """

    role: str = "caption"
    noise: Share = 0.5
    mode: Mode = "smooth"
    warm: Natural = 1
    concepts: Natural = 4
    min_count: Count = 5
    max_concepts: Count = 10_000
    nouns: str | None = None
    prompt: str = "a photo of a {}"
    matching: NotNegative = 1.0
    caption: NotNegative = 1.0
    smoothing: ShareBelowOne = 0.1
    temperature: Positive = 0.07
    width: Width = 768
    depth: Count = 12
    heads: Count | None = None
    queries: Count = 32
    dropout: Dropout = 0.1
    embed: Count = 256
    augment: Mapping[str, Any] | None = None
    cached: bool = False
    task: Literal["pairs", "captions", "answers"] = "pairs"
    lm: ModelSpec = "tiny-lm"

    def __post_init__(self) -> None:
        if any(mark in self.role for mark in ",=+*[|"):
            raise InputError(
                f"role {self.role!r} is a mixture, and each pair has a probability of noise; name one role"
            )
        if self.prompt.count("{}") != 1:
            raise InputError(f"prompt {self.prompt!r} has no place for a concept; write {{}} there")


class NEVLP(QueryMethod):
    """Noise-adaptive contrast, and matching and captions with concepts."""

    Config = Config
    adapts: ClassVar[bool] = True
    # less noise: with 32 clean pairs, and from the first epoch on, hard pairs are taken for it
    test_options: ClassVar[Mapping[str, Any]] = {
        "warm": 0,
        "noise": 0.05,
        "min_count": 1,
        "concepts": 1,
        "depth": 2,
    }
    model: Bridge

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = frozen_encoder(make)
        words = writes(make.tokenizer)
        self.model = Bridge(
            encoder,
            qformer_of(config, encoder, words),
            words,
            embed_dim=config.embed,
            temperature=config.temperature,
            m=config.concepts,
            prompt=config.prompt,
            matches=config.matching > 0,
            writes=config.caption > 0,
        )
        make.go_on(self.model)
        self.pairs: Source | None = None
        if config.matching:
            self.exchanged = ("tokens",)  # type: ignore[misc]  # of the instance
        else:
            freeze(self.model.match_head)
        if not config.caption:
            freeze(self.model.lm)

    @classmethod
    def of(cls, config: Any, make: Make) -> Method:
        if config.task == "pairs":
            return cls(config, make)
        made = NEVLPStageTwo(config, make)
        made.presets = cls.presets  # type: ignore[misc]  # set on the instance
        return made

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        if options.get("task", "pairs") != "pairs":
            return NEVLPStageTwo.next_steps(options)
        found = ["evaluate {run} --data {data} --suite noisy_pairs --by noise"]
        if options.get("caption") != 0:
            found.insert(0, "generate {run} --images IMAGES")
        if options.get("matching") == 0:
            return "evaluate {run} --data {data} --suite retrieval", *found
        return (
            "evaluate {run} --data {data} --suite retrieval --rerank 32",
            "match {run} PAIRS",
            *found,
        )

    # ---- data

    def setup(self, sources: Mapping[str, Any]) -> None:
        """Read the vocabulary of concepts from the captions."""
        config = self.config
        source = sources["train"]
        require(source, ("images.main", f"texts.{config.role}"), self.name)
        self.pairs = by_text(source, config.role)
        if not config.concepts:
            return
        nouns = nouns_of(config.nouns)
        texts = texts_of(self.pairs, config.role)
        names = vocabulary(
            texts, min_count=config.min_count, max_concepts=config.max_concepts, nouns=nouns
        )
        if len(names) < config.concepts:
            raise InputError(
                f"the captions of {source.name} give {len(names)} concepts, fewer than the {config.concepts} of an "
                "image; lower --method.min_count, or give --method.concepts 0"
            )
        self.model.know(names)

    def stages(self) -> Sequence[Stage]:
        return (Stage(prepare=self.prepare, every="epoch"),)

    def needs(self, stage: Stage, stream: str = "train") -> tuple[str, ...]:
        made = (f"arrays.{CONCEPTS}",) if self.config.concepts else ()
        return "images.main", f"texts.{self.config.role}", *made

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        assert isinstance(source, WithColumns), "pairs are prepared before they are trained on"
        pairs = self._paired(source)
        return WithColumns(pairs, {NOISE: source.columns[NOISE][_places(pairs)]})

    def _paired(self, source: Source) -> Source:
        """The pairs of a source that has the samples of the run's, perhaps with columns."""
        if not isinstance(self.pairs, Paired):
            return source
        kept = self.pairs
        return Paired(source, kept.samples, kept.texts, kept.table, kept.role)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        words = self.make.tokenizer
        found: list[View] = [
            self.image_view,
            TextView(tokenizer=words, role=self.config.role),
            LabelView(label=NOISE, real=True),
        ]
        if self.config.concepts:
            found.append(ConceptView(tokenizer=words, names=self.model.names))
        return found

    def prepare(self, run: Any) -> None:
        """Find the concepts of all images, and their tokens if they are cached, once, and before each epoch
        the probabilities of noise."""
        source = self.prepare_images(run)
        pairs = self._paired(source)
        places = _places(pairs)
        noise = np.zeros(len(pairs))
        if self.config.noise and run.at.epoch >= self.config.warm:
            names = source.keys()
            keys = [f"{names[at]}#{number}" for at, number in zip(*places, strict=True)]
            noise = self._noise(run, pairs, keys)
            self._write(run, keys, noise)
        table = np.zeros((len(source), int(places[1].max()) + 1), np.float32)
        table[places] = noise
        run.store("train", {NOISE: table})

    def _noise(self, run: Any, pairs: Source, keys: Sequence[str]) -> np.ndarray:
        """The probability of each pair (P,), 0 where the losses have no two components."""
        views = [
            self.image_view,
            TextView(tokenizer=self.make.tokenizer, role=self.config.role),
        ]

        def embed(batch: Batch) -> Features:
            found = self.model.apart(self.tokens(batch), *batch.text.flat)
            return dict(zip(("image", "text"), found, strict=True))

        def vectors_of(rows: np.ndarray) -> tuple[Tensor, Tensor]:
            found = run.map(embed, views, Wrapped(pairs, rows))
            return torch.from_numpy(found["image"]), torch.from_numpy(found["text"])

        scale = float(self.model.logit_scale().detach())
        losses = losses_of(vectors_of, keys, scale, run.batch_size, run.at.seed)
        found = noise_probabilities(losses)
        if found is None:
            run.warn(
                f"epoch {run.at.epoch}: the losses of the pairs are of one component, so none is taken for noise"
            )
            return np.zeros(len(keys))
        return found

    def _write(self, run: Any, keys: Sequence[str], noise: np.ndarray) -> None:
        """Write the probability of each pair, the key of its sample with the number of its text, into the
        run's folder."""
        lines = [
            json.dumps({"key": key, NOISE: round(float(value), 6)}, ensure_ascii=False) + "\n"
            for key, value in zip(keys, noise, strict=True)
        ]
        run.write(
            f"noise-{run.at.epoch}.jsonl",
            lambda path: path.write_text("".join(lines), encoding="utf-8"),
        )

    # ---- a sample

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the vectors of images and texts, and of captions the sum of the losses of their words and
        their number."""
        model = self.model
        tokens = self.tokens(batch)
        ids, lengths = batch.text.flat
        image, text = model.apart(tokens, ids, lengths)
        found = {"image": image, "text": text}
        if self.config.matching:
            found["tokens"] = tokens
        if self.config.caption:
            found |= self._captioned(tokens, batch)
        return found

    def _captioned(self, tokens: Tensor, batch: Batch) -> Features:
        ids, lengths = batch.text.flat
        cut = (lengths == self.make.tokenizer.context).long()  # its end may be that of no text
        first = torch.ones_like(lengths)
        row = torch.arange(len(ids), device=ids.device)
        if self.config.concepts:
            own = lengths
            ids, lengths = self._enriched(batch, row, row)
            first = first + lengths - own
        ids = ids.clone()
        ids[:, 0] = self.model.decode_id
        read = self.model.qformer(ids, lengths, memory=tokens, visible="causal")
        hidden = read.tokens[:, read.prefix :]
        return caption_losses(
            self.model.lm.logits, hidden, ids, lengths - cut, first, self.config.smoothing
        )

    def _enriched(self, batch: Batch, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """The texts behind the concepts of the images that they are read with, both by their numbers."""
        ids, lengths = (part[texts] for part in batch.text.flat)
        if not self.config.concepts:
            return ids, lengths
        known = batch.texts[CONCEPTS].flat
        return behind_concepts(self.make.tokenizer, known, images, ids, lengths)

    # ---- pairs

    def among(self, features: Features, rows: slice, batch: Batch, at: At) -> Features:
        """Return the logits (n, 3, 2) of each pair, of its text with another image, and of its image
        with another text."""
        scores = self._scores(features).detach()
        itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        generator = torch.Generator(scores.device)
        generator.manual_seed(torch_seed(at.seed, at.stage, at.step, "negatives"))
        image_of = draw_negatives(scores.T, itself, generator)[rows]
        text_of = draw_negatives(scores, itself, generator)[rows]
        own = torch.arange(len(scores), device=scores.device)[rows]
        images = torch.cat([own, image_of, own])
        texts = torch.cat([own, own, text_of])
        logits = self.model.match_logits(
            features["tokens"][images], *self._enriched(batch, images, texts)
        )
        return {"matches": logits.unflatten(0, (3, -1)).transpose(0, 1)}

    def _scores(self, features: Features) -> Tensor:
        """S / tau (B, B), of image i with text j."""
        return self.model.logit_scale() * similarities(features["image"], features["text"])

    # ---- a step

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        config = self.config
        noise = batch.fields[NOISE]
        scores = self._scores(features)
        terms = {"contrastive": noisy_nce(scores, config.noise * noise, config.mode)}
        logged: dict[str, Tensor | float] = {
            "scale": self.model.logit_scale(),
            "noise": noise.mean(),
        }
        if config.matching:
            found, right = match_loss(features["matches"])
            terms["matching"] = config.matching * found
            logged["matches_right"] = right
        if config.caption:
            mean = features["caption_loss"].sum() / features["words"].sum().clamp(min=1)
            terms["caption"] = config.caption * mean
        return Losses(terms, logged)


def _places(pairs: Source) -> tuple[np.ndarray, np.ndarray]:
    """The sample of each pair (P,), and which of its texts it has (P,)."""
    if not isinstance(pairs, Paired):
        return np.arange(len(pairs)), np.zeros(len(pairs), int)
    samples = pairs.labels(ORIGIN)
    return samples, np.arange(len(samples)) - np.searchsorted(samples, samples)


NEVLP.presets = {
    # The towers come from the given model; the contract suite, which has none, builds these.
    "small": Preset(
        config={"width": 128, "depth": 4, "heads": 4, "queries": 8, "embed": 128, "dropout": 0.1},
        image="vit:image_size=32:patch=8:width=128:depth=2",
        text="text:width=128:depth=1",
        tokenizer="bpe:vocab_size=2048:context=32",
        embed_dim=128,
        recipe=Recipe(lr=5e-4, weight_decay=0.05, warmup=0.1, batch_size=64, epochs=10),
    ),
    # The frozen encoder is CLIP's ViT-L/14; the rest are BLIP-2's settings.
    "paper": Preset(
        config={"augment": {"crop": (0.5, 1.0), "flip": True}},
        image="vit:image_size=224:patch=14:width=1024:depth=24:heads=16:activation=quick_gelu",
        text="text:width=768:depth=12:heads=12:activation=quick_gelu",
        tokenizer="clip",
        embed_dim=768,
        recipe=Recipe(
            lr=1e-4,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            warmup=2000,
            min_lr=0.1,
            epochs=10,
            batch_size=1680,  # second stage: 1520 to 1920, min_lr .5
            precision="bfloat16",
        ),
    ),
}
