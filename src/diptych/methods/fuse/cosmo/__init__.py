"""COSMO: COntrastive Streamlined MultimOdal Model with Interleaved Pre-Training (Wang et al., 2024).

A frozen causal language model is cut in two. Its lower half encodes texts for a contrastive loss, its
upper half gets light gated cross-attention to media, images or clips, and writes.

    z = resampler(image tower(frames)),   m = mean_media W z_0,   t = V query(h_u),     m, t unit vectors
    L = L_lm + w L_con,     L_con = 1/2 [ CE(e^θ t M^T, diagonal) + CE(e^θ m T^T, diagonal) ]

L_lm is the mean log-loss of the batch's targets (`documents`). L_con is of pairs alone, not of
documents, and is left out where two texts of the batch are the same. Each step reads one source: the
streams `train` (images with texts), `clips` (clips with texts), `documents` and `films` (documents
with images, or clips, between sentences) take turns.

Trained are the resampler, the gated layers, the text query, both projections and θ; the image tower,
the language model and the embeddings of the two new words stay as they are. Inference: cosine of m and
t; text behind media, after examples of others (`model.few_shot`), until the end of a chunk.
[choice] θ starts at ln(1/.07); `paper_init` starts it at .2, the published "temperature", which the
published code exponentiates. The text encoder is what the first gated block reads; `published_tap`
takes the input of the block before.

Dimensions: B samples, T media, F frames of each, L ids, E embedding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.sample import Source
from diptych.data.views import ImageView, TextView, View, augmentation
from diptych.errors import InputError, unknown
from diptych.methods.base import At, Batches, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.fuse.cosmo.documents import VISUAL, DocumentView, Match, as_pairs, with_marks
from diptych.methods.fuse.cosmo.gated import GatedLM, Reach
from diptych.methods.fuse.cosmo.model import MediaCaptioner
from diptych.methods.language import language_of
from diptych.methods.make import Make
from diptych.models.delivered import Validation
from diptych.objectives import info_nce
from diptych.spec import Count, Natural, NetworkSpec, NotNegative, Positive, Width
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature, freeze
from diptych.towers.nn.pooling import Resampler

card = {
    "title": "COSMO: COntrastive Streamlined MultimOdal Model with Interleaved Pre-Training",
    "year": 2024,
    "kind": "method",
    "entry": "COSMO",
    "provenance": "code",
    "abilities": {"generate": "", "log_prob": "", "few_shot": "", "fuse": ""},
}

PAIRS = {"train": "main", "clips": "frames"}
"""The streams of pairs, with the role of their media."""
DOCUMENTS = ("documents", "films")
STREAMS = (*PAIRS, *DOCUMENTS)
PUBLISHED_THETA = 0.2


@dataclass(frozen=True, kw_only=True)
class Config:
    """The language model:

    - `lm` is a language model as `diptych.load` takes it, or the shape of a new one, `text:…`.
    - Its first `unimodal` blocks are the text encoder (None: half of them). From there on every
      `interval`-th block has gated cross-attention, whose widths are divided by `compress`. A token
      reads the `reach`: the latest medium before it, all previous ones, or none, as a control.

    Media: a medium becomes `tokens` tokens, by a resampler of `depth` layers. `frame_positions` and
    `media_positions` are the most frames, or media, that have learned positions (0: none).

    Texts: `role` is that of pairs, `document` that of documents, of which `media` media are read;
    `match`, `min_similarity` and `min_bytes` say which (`documents.DocumentView`). `length` is the
    most tokens (None: the language model's context). `augment` is of `data.views.Augment`.

    Loss: `contrastive` is the weight w, `embed` the width of the space, e^θ starts as `scale`.
    `weights` weigh the streams, by name. `sampling` says which stream sets the length of an epoch: the
    shortest, the longest, or with round_robin the first.
    """

    lm: NetworkSpec = "tiny-lm"
    unimodal: Count | None = None
    interval: Count = 1
    compress: Literal[1, 2, 4, 8] = 1
    reach: Reach = "latest"
    published_tap: bool = False
    tokens: Count = 64
    depth: Count = 6
    frame_positions: Natural = 0
    media_positions: Natural = 0
    role: str = "caption"
    document: str = "document"
    media: Count = 3
    match: Match = "given"
    min_similarity: float = 0.24
    min_bytes: Natural = 0
    length: Count | None = None
    augment: Mapping[str, Any] | None = None
    contrastive: NotNegative = 1.0
    embed: Width = 512
    scale: Positive = 1 / 0.07
    paper_init: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    sampling: Literal["min", "max", "round_robin"] = "min"
    max_tokens: Count = 32

    def __post_init__(self) -> None:
        for stream, weight in self.weights.items():
            if stream not in STREAMS:
                raise unknown("stream of cosmo", stream, STREAMS)
            if not weight > 0:
                raise InputError(
                    f"the weight of {stream} is {weight}; give a number above 0, or leave the stream out"
                )


class COSMO(Method):
    """The log-loss of texts behind media, and the contrastive loss of pairs."""

    Config = Config
    adapts: ClassVar[bool] = True
    test_options: ClassVar[Mapping[str, Any]] = {
        "lm": "text:width=32:depth=2:heads=2",
        "unimodal": 1,
        "media": 2,
        "depth": 1,
    }
    find_unused_parameters: ClassVar[bool] = True  # a step of documents trains no embedding
    model: MediaCaptioner

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data {data} --suite retrieval,captions",
            "generate {run} --images IMAGES",
        )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.augment = augmentation(config.augment)
        self.streams: Sequence[str] = ("train", "documents")
        theta = math.exp(PUBLISHED_THETA) if config.paper_init else config.scale
        encoder = DualEncoder(
            make.image(), None, config.embed, logit_scale=Temperature(theta, form="exp")
        )
        lm, words = language_of(config.lm, make)
        self.length = min(config.length or words.context, words.context)
        self.words = with_marks(words, self.length)
        width = encoder.image.width
        self.model = MediaCaptioner(
            encoder,
            self.words,
            Resampler(
                width,
                queries=1 + config.tokens,
                depth=config.depth,
                frames=config.frame_positions,
                media=config.media_positions,
            ),
            GatedLM(
                lm,
                vocab_size=self.words.special_id(VISUAL),
                memory_width=width,
                tokens=config.tokens,
                unimodal=config.unimodal,
                interval=config.interval,
                compress=config.compress,
                reach=config.reach,
                published_tap=config.published_tap,
            ),
            validation=_validation(config),
            longest=config.max_tokens,
        )
        make.go_on(self.model)
        if not config.contrastive:
            freeze(self.model.text_pooler, self.model.text_projection)
            freeze(encoder.image_projection, encoder.logit_scale)

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Order the streams that are given. Raises InputError for one that is not in STREAMS."""
        for name in sources:
            if name not in STREAMS:
                raise unknown("stream of cosmo", name, STREAMS)
        given = [name for name in STREAMS if name in sources]
        if self.config.sampling != "round_robin":
            given.sort(key=lambda name: len(sources[name]), reverse=self.config.sampling == "max")
        self.streams = given

    def stages(self) -> Sequence[Stage]:
        return (Stage(streams=tuple(self.streams), turns=len(self.streams) > 1),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        image = ImageView(
            preprocess=self.model.image.preprocess,
            role=PAIRS.get(stream, "main"),
            augment=self.augment,
        )
        if stream in PAIRS:
            return image, TextView(tokenizer=self.words, role=config.role)
        document = DocumentView(
            image=image,
            tokenizer=self.words,
            length=self.length,
            media=config.media,
            role=config.document,
            match=config.match,
            min_similarity=config.min_similarity,
            bytes=config.min_bytes,
        )
        return (document,)

    def encode(self, batches: Batches, at: At) -> Features:
        """Return, of each stream, the log-probability of the targets and their number, and of pairs
        the vectors."""
        features: Features = {}
        for stream, batch in self._by_stream(batches).items():
            read = self._read(batch, stream in PAIRS and self.config.contrastive > 0)
            features |= {f"{name}_{stream}": value for name, value in read.items()}
        return features

    def _by_stream(self, batches: Batches) -> Mapping[str, Batch]:
        return {self.streams[0]: batches} if isinstance(batches, Batch) else batches

    def _read(self, batch: Batch, pairs: bool) -> Features:
        model = self.model
        ids, targets, lengths = self._written(batch)
        there = batch.fields.get("main.there")
        media = 1 if there is None else there.shape[1]
        latents = model.look(batch.image.pixels.unflatten(1, (media, -1)), there)
        memory_mask = None
        if there is not None:
            memory_mask = there.repeat_interleave(self.config.tokens, 1)
        memory = latents[:, :, 1:].flatten(1, 2)
        half, hidden = model.lm.read(ids, memory=memory, memory_mask=memory_mask)
        counted = targets >= 0
        found = model.lm.log_probs_where(hidden[:, :-1], ids[:, 1:], counted[:, 1:])
        features = {"log_prob": found.sum(1), "targets": counted.sum(1)}
        if pairs:
            features["image"] = normalize(model.image_vectors(latents), dim=-1)
            features["text"] = normalize(model.text_vectors(half, lengths), dim=-1)
        return features

    def _written(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The ids (B, L) of a batch, its targets (B, L), -1 where there is none, and lengths (B,).

        Targets of documents are their marks; of pairs all ids but the first, the media mark and
        padding, and without its end where a text may have been cut.
        """
        ids, lengths = batch.text.flat
        if batch.text.marks is not None:
            return ids, batch.text.marks.flatten(0, 1), lengths
        full = (lengths == self.words.context).long()
        ids, lengths = as_pairs(self.words, ids, lengths)
        last = lengths - full * (len(self.words.after) + 1)
        place = torch.arange(ids.shape[1], device=ids.device)
        target = (place > 0) & (place < last[:, None]) & (ids != self.model.lm.visual)
        return ids, ids.masked_fill(~target, -1), lengths

    def loss(self, features: Features, batches: Batches, at: At) -> Losses:
        terms: dict[str, Tensor] = {}
        logged: dict[str, Tensor] = {}
        for stream, batch in self._by_stream(batches).items():
            weight = self.config.weights.get(stream, 1.0)
            lm = -features[f"log_prob_{stream}"].sum() / features[f"targets_{stream}"].sum()
            terms[f"log_loss_{stream}"] = weight * lm
            logged[f"perplexity_{stream}"] = torch.exp(lm.detach())
            if f"image_{stream}" in features:
                vectors = features[f"image_{stream}"], features[f"text_{stream}"]
                contrastive = info_nce(*vectors, self.model.encoder.logit_scale())
                different = all_different(self._written(batch)[1])
                terms[f"contrastive_{stream}"] = (
                    weight * self.config.contrastive * contrastive * different
                )
        return Losses(terms, {**logged, "scale": self.model.encoder.logit_scale()})


def all_different(rows: Tensor) -> Tensor:
    """1 if no two rows (B, L) of ids are the same, else 0.

    >>> [int(all_different(torch.tensor(rows))) for rows in ([[1, 2], [2, 1]], [[1, 2], [1, 2]])]
    [1, 0]
    """
    return torch.tensor(len(torch.unique(rows, dim=0)) == len(rows), device=rows.device)


def _validation(config: Config) -> Validation:
    """Validate by retrieval, without the contrastive loss by captions."""
    if config.contrastive:
        return Validation("retrieval", ("i2t_", "t2i_"), {"role": config.role})
    return Validation("captions", ("accuracy", "cider"), {"role": config.role})


def _published(width: int, depth: int, heads: int, **config: Any) -> Preset:
    """CLIP ViT-L/14 and the shape of a published language model, given as --init and, with its weights,
    as --method.lm hf-lm:FOLDER."""
    return Preset(
        config={
            "lm": f"text:width={width}:depth={depth}:heads={heads}:activation=relu",
            "unimodal": 12,
            "length": 128,
            "embed": 512,
            **config,
        },
        image="vit:image_size=224:patch=14:width=1024:depth=24:heads=16:pre_norm=true",
        text="text:width=768:depth=12:heads=12",
        tokenizer="bpe:vocab_size=50265:context=2048",
        embed_dim=512,
        recipe=Recipe(
            lr=3e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.1,
            warmup=500,
            clip=1.0,
            batch_size=8192,
            epochs=20,
            precision="bfloat16",  # published: float16
        ),
    )


COSMO.presets = {
    # The image tower comes from the given model; the contract suite, which has none, builds these.
    "small": Preset(
        config={"lm": "tiny-lm", "tokens": 8, "depth": 2, "embed": 128, "scale": 5.0},
        image="vit:image_size=64:patch=8:width=128:depth=4",
        text="text:width=128:depth=1",
        tokenizer="bpe:vocab_size=2048:context=32",
        embed_dim=128,
        recipe=Recipe(
            optimizer="muon",
            lr=4e-3,
            weight_decay=0.1,
            warmup=0.1,
            clip=1.0,
            batch_size=64,
            epochs=5,
        ),
    ),
    # 2.1B: OPT-IML-1.3B. 18 million samples; of 180 million: interval=2, lr 5e-4, 5 epochs, batches
    # of 96 on each of 128 GPUs.
    "paper": _published(2048, 24, 32),
}
