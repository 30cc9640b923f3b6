"""Pixel Sentence Representation Learning (Xiao et al., 2024): Pixel Linguist, an encoder of sentences
that reads them as pixels.

A text is drawn as a strip of patches, which a vision transformer encodes (`data.render`). Texts
that mean the same are pairs; in turn these are the noise of a text, spans of a document, entailed
sentences, and translations.

    v = unit( sum_p m_p f(h_p) / sum_p m_p ),    f(h) = LayerNorm(gelu(W h + b)) in training, h afterwards
    L = 1/2 [ CE(20 A B^T, diagonal) + CE(20 B A^T, diagonal) ]

h_p are the states of patches, m_p is 1 for those with text and for the black patch that follows.
A and B (N x D) are the vectors of the first and the second texts.

    masked      a decoder draws hidden patches: the tower's start (PIXEL, Rust et al. 2023)
    noise       branches by kind of noise, each from the same weights; then the mean of their weights
    spans       two sentences of a document
    nli         premises and hypotheses that they entail
    parallel    translations; nli and parallel take turns, and nli ends

With a text tower in place of the image tower the same stages train an encoder of token ids.

config.py   options              views.py    pairs, as strips or ids      masked.py   the decoder
model.py    what is delivered    soup.py     the mean of branches
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.render import TextRenderer
from diptych.data.sample import Source, labels_of
from diptych.data.views import View
from diptych.data.wrap import Wrapped
from diptych.errors import InputError, unknown
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.text.pixel_linguist.config import PIXELS, STAGES, Config
from diptych.methods.text.pixel_linguist.masked import Decoder
from diptych.methods.text.pixel_linguist.model import Head, SentenceEncoder, checksum
from diptych.methods.text.pixel_linguist.soup import Soup
from diptych.methods.text.pixel_linguist.views import (
    ALTERED,
    HiddenTextView,
    Pair,
    PairView,
    Reader,
    noisy,
    roles,
    spans,
    translated,
)
from diptych.objectives import info_nce
from diptych.objectives.core import pair_losses
from diptych.objectives.reconstruction import patchify, reconstruction_errors
from diptych.towers.image.vit import ViT
from diptych.towers.nn.parts import Temperature

card = {
    "title": "Pixel Sentence Representation Learning",
    "year": 2024,
    "kind": "method",
    "entry": "PixelLinguist",
    "provenance": "code",
}

ENTAILED = "entailment"
"""The class of a label of pairs, of which those alone are positives."""
HYPOTHESES = ("pair", "question")
"""The roles of hypotheses in sources, the first of which is the usual one."""


class PixelLinguist(Method):
    """Contrastive learning of sentences as pixels, in stages."""

    Config = Config
    model: SentenceEncoder
    test_options: ClassVar[Mapping[str, Any]] = {
        "stages": ("noise", "masked", "spans", "parallel", "nli"),
        "branches": ("typos", "window"),
        "recipes": {},
    }

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return "evaluate {run} --data PAIRS --suite sts", "embed {run} SENTENCES.txt --out EMB"

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        pixels = make.image_spec != NO_TOWER
        if pixels and make.text_spec != NO_TOWER:
            raise InputError(
                "pixel_linguist has one tower: of pixels (--text-tower none), or of tokens (--preset tokens)"
            )
        scale = Temperature(config.scale, form="fixed")
        plain = {f"{'image' if pixels else 'text'}_projection": "none"}
        encoder = make.dual(logit_scale=scale, **plain)  # type: ignore[arg-type]
        head = Head(make.embed_dim, config.head_dropout) if config.mlp else None
        renderer = _renderer(encoder.image, config) if pixels else None
        self.model = SentenceEncoder(encoder, head, renderer, config.infer_mlp)
        _same_font(make.delivered, renderer)
        make.go_on(self.model)
        self.reader = Reader(renderer=renderer, tokenizer=None if pixels else make.tokenizer)
        self.sources: Mapping[str, Source] = {}
        self.branches = tuple(
            name for name in config.branches if renderer is not None or name not in PIXELS
        )
        if len(self.branches) < len(config.branches):
            raise InputError(
                f"branches {', '.join(set(config.branches) & set(PIXELS))} change pixels, and this tower reads tokens; "
                "leave them out of --method.branches"
            )
        self.soup = Soup(self.model) if len(self.branches) > 1 else None
        self.decoder = None
        if renderer is not None and self._has("masked"):
            self.decoder = Decoder(
                encoder.image.width,
                config.decoder_width,
                config.decoder_depth,
                config.decoder_heads,
                renderer.patches,
                renderer.patch,
            )

    def _has(self, stage: str) -> bool:
        """Whether a stage is one of the options', or of those that they leave to the data."""
        given = self.config.stages
        return self.make.fresh if given is None else stage in given

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Keep the sources, whose streams decide which stages there are.

        Raises InputError for a stream that no stage reads.
        """
        streams = ("train", "spans", "nli", "parallel")
        for name in sources:
            if name not in streams:
                raise unknown("stream of pixel_linguist", name, streams)
        self.sources = dict(sources)

    # ---- stages

    def order(self) -> list[str]:
        """The stages by kind, in their order; before the sources are known, all of them."""
        if self.config.stages is not None:
            return list(self.config.stages)
        there = self.sources or STAGES
        found = ["masked"] if self.decoder is not None else []
        found.append("noise")
        found += ["spans"] if "spans" in there else []
        turns = [name for name in ("nli", "parallel") if name in there]
        found += turns * (self.config.rounds if len(turns) == 2 else 1)
        return [*found, "nli"] if len(turns) == 2 else found

    def stages(self) -> Sequence[Stage]:
        found: list[Stage] = []
        order = self.order()
        for number, kind in enumerate(order):
            earlier = order[:number].count(kind)
            name = f"{kind}-{earlier + 1}" if order.count(kind) > 1 else kind
            if kind == "noise":
                found += self._noise(name)
            else:
                found.append(self._stage(kind, name))
        return found

    def _noise(self, name: str) -> list[Stage]:
        """The branches; before and after each a stage that takes no step but keeps weights."""
        if self.soup is None:
            return [self._stage("noise", f"{name}.{self.branches[0]}")]
        soup = self.soup
        found = []
        for number, branch in enumerate(self.branches):
            last = f"{name}.after-{self.branches[number - 1]}" if number else f"{name}.begin"
            found.append(_between(last, soup.add if number else None, soup.begin))
            found.append(self._stage("noise", f"{name}.{branch}"))
        found.append(_between(f"{name}.soup", soup.add, soup.serve))
        return found

    def _stage(self, kind: str, name: str) -> Stage:
        """A stage with steps."""
        rates = {"": 1.0}
        if kind == "masked":
            if self.decoder is None:
                raise InputError(
                    "the stage masked draws pixels, and this tower reads tokens; leave it out of --method.stages"
                )
            rates = {"": 0.0, "model.encoder": 1.0, "decoder": 1.0}
        elif self.decoder is not None:
            rates = {"": 1.0, "decoder": 0.0}
        return Stage(
            name=name,
            streams=(kind if kind in ("spans", "nli", "parallel") else "train",),
            recipe=self.config.recipes.get(kind, {}),
            lr_scale=rates,
            select=self.config.select if kind in ("spans", "nli", "parallel") else None,
            min_batch=1 if kind == "masked" else 2,
        )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        kind, branch = _kind(stage.name)
        if kind == "masked":
            return (
                HiddenTextView(reader=self.reader, role=config.role, share=config.hidden_share),
            )
        pair, read = self._pair(kind, branch)
        return (
            PairView(
                reader=self.reader,
                pair=pair,
                reads=tuple(f"texts.{role}" for role in read),
                altered=ALTERED.get(branch),
            ),
        )

    def _pair(self, kind: str, branch: str) -> tuple[Pair, Sequence[str]]:
        """The pairs of a stage, and the roles that each sample must have."""
        config = self.config
        match kind:
            case "noise":
                return noisy(config, branch), (config.role,)
            case "spans":
                role = config.document or config.role
                return spans(role), (role,)
            case "nli":
                third = (config.contradiction,) if config.contradiction else ()
                others = (self._hypothesis(), *third)
                return roles(config.role, *others), (config.role, *others)
            case _:
                languages = self._languages()
                whole = languages if len(languages) == 1 else ()
                return translated(config.role, languages), (config.role, *whole)

    def _hypothesis(self) -> str:
        """The role of hypotheses."""
        if self.config.hypothesis or "nli" not in self.sources:
            return self.config.hypothesis or HYPOTHESES[0]
        schema = self.sources["nli"].schema()
        return next((role for role in HYPOTHESES if f"texts.{role}" in schema), HYPOTHESES[0])

    def _languages(self) -> tuple[str, ...]:
        """The roles of translations. Raises InputError if there is none."""
        if self.config.languages or "parallel" not in self.sources:
            return self.config.languages or HYPOTHESES[:1]
        schema = self.sources["parallel"].schema()
        texts = [name.removeprefix("texts.") for name in schema if name.startswith("texts.")]
        others = tuple(name for name in texts if name != self.config.role)
        if not others:
            raise InputError(
                f"{self.sources['parallel'].name} has no texts beside those of role {self.config.role!r}, and the "
                "stage parallel reads translations; name the columns, as in table.csv:text=en;de=de"
            )
        return others

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        """Return the entailed pairs alone of a source whose label has that class."""
        if stream != "nli":
            return source
        for name, field in source.schema().items():
            if name.startswith("labels.") and ENTAILED in field.classes:
                labels = labels_of(source, name.removeprefix("labels."))
                rows = np.flatnonzero(labels == field.classes.index(ENTAILED))
                if not len(rows):
                    raise InputError(f"{source.name} has no pair whose {name} is {ENTAILED}")
                return Wrapped(source, rows)
        return source

    # ---- a step

    def encode(self, batch: Batch, at: At) -> Features:
        kind, _ = _kind(at.stage)
        if kind == "masked":
            return self._drawn(batch)
        if self.reader.renderer is None:
            first, second = batch.text.flat
            count = batch.text.ids.shape[1]
        else:
            first = batch.image.flat
            second = batch.fields["real"].flatten(0, 1)
            count = batch.fields["real"].shape[1]
        found = self.model(first, second).unflatten(0, (-1, count))
        return {name: found[:, at] for at, name in enumerate(("a", "b", "c")[:count])}

    def _drawn(self, batch: Batch) -> Features:
        """The errors of hidden patches and their number, for each sample."""
        assert self.decoder is not None
        tower: Any = self.model.encoder.image
        strips = batch.image.flat
        real = batch.fields["real"][:, 0]
        hidden = batch.fields["hidden"]
        encoded = tower(strips, hidden=hidden, real=real)
        drawn = self.decoder(encoded.tokens, hidden, real, encoded.prefix)
        pixels = patchify(tower.pixels(strips), tower.config.patch).to(drawn.dtype)
        total, count = reconstruction_errors(drawn, pixels, hidden & real)
        return {"error": total, "count": count}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        if "error" in features:
            return Losses({"pixels": features["error"].sum() / features["count"].sum()})
        a = features["a"]
        b = features["b"]
        scale = self.model.encoder.logit_scale()
        if "c" in features:
            return Losses({"contrastive": with_negatives(a, b, features["c"], scale)})
        return Losses({"contrastive": info_nce(a, b, scale)})


def with_negatives(a: Tensor, b: Tensor, c: Tensor, scale: Tensor | float) -> Tensor:
    """The loss with a further negative for each pair, which is one of all others too.

        L = CE(s A [B; C]^T, diagonal)

    a, b, c are (N, D). There are more columns than rows, so there is no other direction.

    >>> x = torch.eye(2)
    >>> round(with_negatives(x, x, -x, 1.0).item(), 4)  # log(e + 1 + 1/e + 1) - 1
    0.6265
    """
    return pair_losses(a, torch.cat([b, c]), scale).mean()


def _kind(stage: str) -> tuple[str, str]:
    """The kind of a stage, and its branch, from its name."""
    name, _, branch = stage.partition(".")
    return name.partition("-")[0], branch


def _between(name: str, *calls: Any) -> Stage:
    """A stage without steps that makes calls."""

    def prepare(run: Any) -> None:
        for call in calls:
            if call is not None:
                call()

    return Stage(name=name, prepare=prepare, optimize=False)


def _renderer(tower: Any, config: Config) -> TextRenderer:
    """The renderer of a tower's strips. Raises InputError for a tower that reads no strips."""
    if not isinstance(tower, ViT) or tower.config.grid[0] != 1 or tower.config.pooling != "mean":
        raise InputError(
            f"pixel_linguist reads strips of one row of patches and averages them; give --image-tower "
            f"'vit:image_size=(16,1024):patch=16:pooling=mean:…', not {tower.kind} of {tower.preprocess.size} pixels"
        )
    return TextRenderer(
        patches=tower.config.grid[1],
        patch=tower.config.patch,
        font=config.font,
        size=config.font_size,
    )


def _same_font(given: Any, renderer: TextRenderer | None) -> None:
    """Raise InputError if the model that training starts from reads texts in another font."""
    theirs = given.renderer if isinstance(given, SentenceEncoder) else None
    if theirs is None or renderer is None:
        return
    if checksum(theirs) != checksum(renderer):
        raise InputError(
            f"the model to start from reads texts in the font {theirs.font}, and this run would draw them in "
            f"{renderer.font}; give --method.font {theirs.font}"
        )


# pixels from 0 to 1, not standardised
_PLAIN = "mean=(0.0,0.0,0.0):std=(1.0,1.0,1.0)"

SMALL = Preset(
    config={
        "recipes": {"masked": {"epochs": 2, "batch_size": 32}},
        "head_dropout": 0.1,
        "decoder_width": 64,
        "decoder_depth": 1,
        "decoder_heads": 4,
    },
    image=f"vit:image_size=(16,1024):patch=16:width=128:depth=4:heads=4:cls_position=true:pooling=mean:dropout=0.1:{_PLAIN}",
    text=NO_TOWER,
    embed_dim=128,
    recipe=Recipe(lr=1e-3, weight_decay=0.01, warmup=0.1, clip=1.0, batch_size=64, epochs=3),
)

PixelLinguist.presets = {
    "small": SMALL,
    "tokens": replace(
        SMALL,
        config={"head_dropout": 0.1},
        image=NO_TOWER,
        text="text:width=128:depth=4:heads=4:causal=false:pooling=mean:dropout=0.1",
        tokenizer="bpe:vocab_size=4096:context=64",
    ),
    "paper": Preset(
        config={
            "recipes": {
                # of PIXEL, which the published run starts from
                "masked": {"lr": 1.5e-4, "batch_size": 256, "steps": 1_000_000, "warmup": 50_000},
                "noise": {"lr": 3e-6, "batch_size": 768, "steps": 1300, "warmup": 100},
                "spans": {"steps": 50_500, "warmup": 5050},
                "nli": {"steps": 2600, "warmup": 200},
                "parallel": {"steps": 202_600, "warmup": 20_000},
            },
            "head_dropout": 0.1,
            "decoder_width": 512,
            "decoder_depth": 8,
            "decoder_heads": 16,
        },
        image=f"vit:image_size=(16,1024):patch=16:width=768:depth=12:heads=12:cls_position=true:pooling=mean:eps=1e-12:dropout=0.1:{_PLAIN}",
        text=NO_TOWER,
        embed_dim=768,
        recipe=Recipe(
            lr=3e-5,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            schedule="linear",
            warmup=2000,
            clip=1.0,
            batch_size=128,
            epochs=1,
        ),
    ),
}
