"""CG-VLM: Contrastive Vision-Language Alignment Makes Efficient Instruction Learner (arXiv, 2023).

A frozen image tower, an adapter, and a language model that reads the adapted patches before the words.
Captions alone align them weakly: every patch is similar to nearly every word. So the adapter also learns
to contrast an image's patches with the language model's own table of word embeddings.

    V_i = adapter(patches of image i),    e_jl = E[token l of caption j]
    s_ij = mean over cells k and tokens l of cos(v_ik, e_jl),     v_ik: cells of the patches, one by default
    L_c = ½ [ CE(s_i· / tau) + CE(s_·j / tau) ]
    L_g = - mean over tokens of log p(y_t | y_<t, prompt, V)
    align      L = L_g + contrast · L_c        captions; the adapter and tau alone are trained
    instruct   L = L_g of answers              questions; the adapter and the language model

The mean of cosines is <mean_k unit(v_ik), mean_l unit(e_jl)>, means that are not normalised again. Tokens
are those of the caption, without start, end, prompt and padding; the table has no gradient. Instruction
data may be a `fraction` of the source, drawn so that a smaller one lies inside a larger one.

Inference: patches, adapter, language model. Cells and tau are not used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.images import Preprocess
from diptych.data.plan import Having
from diptych.data.sample import Source
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import (
    ArrayView,
    DialogueView,
    ImageView,
    PromptedView,
    View,
    augmentation,
)
from diptych.data.wrap import Wrapped
from diptych.errors import InputError, unknown
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.language import WHOLE, vision_lm
from diptych.methods.make import Make
from diptych.models.delivered import Validation
from diptych.models.model import evaluating
from diptych.models.vlm import Adapter, Layer, VisionLM
from diptych.objectives import info_nce
from diptych.objectives.tokens import unit_mean
from diptych.rng import generator
from diptych.spec import Above, AtMost, Count, Natural, NetworkSpec, NotNegative, Positive
from diptych.towers.nn.parts import Temperature, freeze

card = {
    "title": "Contrastive Vision-Language Alignment Makes Efficient Instruction Learner",
    "year": 2023,
    "kind": "method",
    "entry": "CGVLM",
    "provenance": "abstract",
    "abilities": {"generate": "", "log_prob": "", "heat": "", "fuse": ""},
}

STAGES = {"align": "train", "instruct": "instructions"}
"""The stages, with the stream that each reads."""
TOKENS = "tokens"
"""The column with the patches (P, ·) of an image."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The parts:

    - `lm` is a language model as `diptych.load` takes it, or the shape of a new one, `text:…`. `tune`
      says what of it instruction trains: whole, low-rank factors (`lora:r=8:layers=q+v`), or none. Only
      one that is trained whole is stored with the run.
    - `adapter` is linear or an mlp of two layers. It reads the patches after the `layer` last, or before
      the last block (penultimate), averaged to `grid` x `grid` (None: all).

    Texts: captions have the role `role`, and stand behind `prompt`. A question is read by `template`.
    `turns` is the most questions of a sample in a step, random ones (None: all, in their order).

    Alignment: `contrast` is the weight of L_c, `scale` the initial 1 / tau, learned up to `max_scale`.
    Patches are averaged to `cells` over the raster. With `length_norm` the means of captions are
    normalised, without `stop_words` function words are left out of them.

    Instruction: `fraction` of the samples, drawn by the seed `draw`; `instruction` holds fields of the
    recipe in place of the run's.

    `fit` is how images get the encoder's size, `resize` of `data.images.Preprocess` (None: as the encoder's
    did). "longest" keeps the proportions, and fills the square with the mean colour.

    `augment` holds options of `data.views.Augment`. With `cached` the patches of each image are computed
    once, and read from a file.
    """

    lm: NetworkSpec = "tiny-lm"
    tune: str = WHOLE
    adapter: Adapter = "mlp"
    layer: Layer = "last"
    grid: Count | None = None
    role: str = "caption"
    prompt: str = ""
    template: str = "{}"
    turns: Count | None = None
    contrast: NotNegative = 1.0
    scale: Positive = 1 / 0.07
    max_scale: Positive = 100.0
    cells: Count = 1
    length_norm: bool = False
    stop_words: bool = True
    fraction: Annotated[float, Above(0), AtMost(1)] = 1.0
    draw: Natural = 0
    instruction: Mapping[str, Any] = field(default_factory=dict)
    fit: Literal["shortest", "squash", "longest"] | None = None
    augment: Mapping[str, Any] | None = None
    cached: bool = False
    max_tokens: Count = 32

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise InputError(
                f"template {self.template!r} has no place for a question; write {{}} there"
            )
        if self.cached and self.augment:
            raise InputError(
                "images that are cached are encoded once and cannot vary; leave augment out"
            )


class CGVLM(Method):
    """Captions and the contrast with the word table, then instruction."""

    Config = Config
    adapts: ClassVar[bool] = True
    test_options: ClassVar[Mapping[str, Any]] = {
        "lm": "text:width=32:depth=2:heads=2",
        "grid": 2,
        "prompt": "",  # the toy's context is short
        "template": "{}",
        "instruction": {},
    }
    model: VisionLM

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data QUESTIONS --suite answers",
            "generate {run} 'A QUESTION' --images IMAGES",
        )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.augment = augmentation(config.augment)
        self.given: Sequence[str] = tuple(STAGES.values())
        self.model = vision_lm(
            make,
            lm=config.lm,
            tune=config.tune,
            adapter=config.adapter,
            grid=config.grid,
            layer=config.layer,
            validation=Validation("answers", ("exact", "vqa")),
            prompt=config.prompt,
            template=config.template,
            longest=config.max_tokens,
        )
        if config.fit is not None:
            image: Any = self.model.image
            image.preprocess = _fitted(image.preprocess, config.fit)
        self.scale = Temperature(config.scale, form="exp", clamp=(1e-3, config.max_scale))
        if not config.contrast:
            freeze(self.scale)

    # ---- data

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Choose the stages for the streams that are given. Raises InputError for another one."""
        for name in sources:
            if name not in STAGES.values():
                raise unknown("stream of cg_vlm", name, STAGES.values())
        self.given = tuple(sources)

    def stages(self) -> Sequence[Stage]:
        stages = []
        for name, stream in STAGES.items():
            if stream in self.given:
                align = name == "align"
                stages.append(
                    Stage(
                        name=name,
                        streams=(stream,),
                        plan=Having("main"),  # conversations may be without an image
                        recipe={} if align else dict(self.config.instruction),
                        lr_scale=self._frozen(align),
                        prepare=partial(self.cache, stream) if self.config.cached else None,
                        min_batch=2 if align and self.config.contrast else 1,
                    )
                )
        return stages

    def _frozen(self, align: bool) -> Mapping[str, float]:
        """What a stage does not train, by the prefixes of its parameters."""
        if not align:
            return {"scale": 0.0}
        parts = {"own": self.model.own, "factors": self.model.factors}
        return {f"model.{name}": 0.0 for name, part in parts.items() if part is not None}

    @property
    def _view(self) -> View:
        if self.config.cached:
            return ArrayView(array=TOKENS)
        return ImageView(preprocess=self.model.image.preprocess, augment=self.augment)

    def views(self, stage: Stage, stream: str = "") -> Sequence[View]:
        config = self.config
        words = self.model.words
        length = self.model.room
        if stage.name == "align":
            text: View = PromptedView(
                tokenizer=words,
                length=length,
                prompt=config.prompt,
                role=config.role,
                content=config.contrast > 0 and not config.stop_words,
            )
        else:
            text = DialogueView(
                tokenizer=words, length=length, template=config.template, turns=config.turns
            )
        return self._view, text

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        if stage.name == "align" or self.config.fraction == 1:
            return source
        return Wrapped(source, nested(len(source), self.config.fraction, self.config.draw))

    def cache(self, stream: str, run: Any) -> None:
        """Store the patches of a stream's images, in half precision."""
        source = run.sources[stream]
        if TOKENS in getattr(source, "columns", ()):
            return

        def find(batch: Batch) -> Features:
            return {TOKENS: self.model.patches(batch.image.flat)[0].to(torch.float16)}

        view = ImageView(preprocess=self.model.image.preprocess)
        run.store(stream, run.map(find, [view], source, mapped=TOKENS))

    # ---- a sample

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the log-probability of the tokens of each text and their number; in alignment also what
        the contrast reads, of images and texts."""
        model = self.model
        if self.config.cached:
            patches = batch.fields[TOKENS]
        else:
            patches, _ = model.patches(batch.image.flat)
        prefix = model.prefix(patches)
        ids, _ = batch.text.flat
        marks = batch.text.marks
        assert marks is not None, "its view marks the text"
        counted = marks.flatten(0, 1) >= 0
        if at.stage != "align":
            return _summed(model.read(prefix, ids, counted), counted)
        with evaluating(model.lm):  # it is frozen here
            features = _summed(model.read(prefix, ids, counted), counted)
        if self.config.contrast:
            features["image"] = unit_mean(cells_of(prefix, self.config.cells))
            features["text"] = self._text(batch)
        return features

    def _text(self, batch: Batch) -> Tensor:
        """The means (B, D) of the unit embeddings of captions' own tokens; the table has no gradient."""
        ids, real = own_tokens(batch, self.model.words)
        found = unit_mean(self.model.lm.table(ids).detach(), real)
        return normalize(found, dim=-1) if self.config.length_norm else found

    # ---- a batch

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        loss = -features["log_prob"].sum() / features["words"].sum()
        logged: dict[str, Tensor | float] = {"perplexity": torch.exp(loss.detach())}
        if at.stage != "align":
            return Losses({"answers": loss}, logged)
        terms = {"captions": loss}
        if self.config.contrast:
            contrast = info_nce(features["image"], features["text"], self.scale())
            terms["contrast"] = self.config.contrast * contrast
            logged["scale"] = self.scale()
        return Losses(terms, logged)


def _fitted(preprocess: Any, fit: str) -> Preprocess:
    """The preprocessing with another way to the size, which fills with the mean colour. Raises InputError
    for a model of volumes."""
    if not isinstance(preprocess, Preprocess):
        raise InputError("fit is of images, and this model reads volumes; leave --method.fit out")
    red, green, blue = (round(255 * value) for value in preprocess.mean)
    return replace(preprocess, resize=fit, fill=(red, green, blue), ratio=None, margin=None)


def cells_of(tokens: Tensor, cells: int) -> Tensor:
    """Patches (B, P, D), averaged to `cells` over their raster, (B, cells, D).

    >>> cells_of(torch.tensor([[[1.0], [3.0], [5.0], [7.0]]]), 2)[0, :, 0]
    tensor([2., 6.])
    """
    return F.adaptive_avg_pool1d(tokens.mT, cells).mT


def nested(count: int, fraction: float, seed: int) -> np.ndarray:
    """The rows of a fraction of `count` samples, in order; those of a smaller fraction are among them.

    >>> small, large = (set(nested(100, share, 0).tolist()) for share in (0.05, 0.1))
    >>> len(small), len(large), small < large
    (5, 10, True)
    """
    order = generator(seed, "fraction").permutation(count)
    return np.sort(order[: max(1, round(fraction * count))])


def own_tokens(batch: Batch, words: Tokenizer) -> tuple[Tensor, Tensor]:
    """The ids (B, L) of captions, and which are theirs, (B, L): not the prompt, the start, the end and
    padding. Of a batch with content words, these."""
    if "content" in batch.texts:
        ids, lengths = batch.texts["content"].flat
        place = torch.arange(ids.shape[1], device=ids.device)
        last = lengths[:, None] - len(words.after)
        return ids, (place >= len(words.before)) & (place < last)
    ids, _ = batch.text.flat
    marks = batch.text.marks
    assert marks is not None, "its view marks the text"
    return ids, (marks.flatten(0, 1) >= 0) & ~torch.isin(ids, ids.new_tensor(words.after))


def _summed(log_probs: Tensor, counted: Tensor) -> Features:
    return {"log_prob": log_probs.sum(1), "words": counted.sum(1)}


CGVLM.presets = {
    # The image tower comes from the given model; the contract suite, which has none, builds these.
    "small": Preset(
        config={"lm": "tiny-lm", "grid": 4, "instruction": {"lr": 3e-4}},
        image="vit:image_size=64:patch=8:width=128:depth=4",
        text="text:width=128:depth=1",
        tokenizer="bpe:vocab_size=2048:context=32",
        embed_dim=128,
        recipe=Recipe(
            lr=1e-3,
            betas=(0.9, 0.999),
            weight_decay=0.0,
            warmup=0.03,
            clip=1.0,
            batch_size=64,
            epochs=5,
        ),
    ),
    # The shapes of CLIP ViT-L/14-336 and Vicuna-7B, and LLaVA-1.5's recipe [R].
    "paper": Preset(
        config={
            "lm": "text:width=4096:depth=32:heads=32",
            "layer": "penultimate",
            "template": "USER: {} ASSISTANT:",
            "prompt": "USER: ASSISTANT:",
            "instruction": {"lr": 2e-5, "batch_size": 128},
        },
        image="vit:image_size=336:patch=14:width=1024:depth=24:heads=16:pre_norm=true:patch_bias=false:cls_position=true",
        text="text:width=768:depth=12:heads=12",
        tokenizer="bpe:vocab_size=32000:context=1472",
        embed_dim=768,
        recipe=Recipe(
            lr=1e-3,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            warmup=0.03,
            clip=1.0,
            batch_size=256,
            epochs=1,
            precision="bfloat16",
        ),
    ),
}
