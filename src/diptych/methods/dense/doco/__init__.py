"""DoCo: Enhancing Visual Document Understanding with Contrastive Learning in Large Visual-Language Models
(Li et al., CVPR 2024).

A reconstruction: the abstract and public summaries were read, the equations are partly from memory.

An image tower that was trained on whole images sees little of what is written on a page. So it is
trained to tell the objects of a page apart, the boxes of its words, by what a teacher makes of them
that reads their texts.

    v_n = Σ_q w_nq F_q / Σ_q w_nq,   w_nq the share of patch q inside box n;   v_0 the page's vector
    m_0 … m_N = teacher(texts, boxes, page);   v^, m^ projected to one space, of unit length
    intra   InfoNCE of v^_0 … v^_N with m^_0 … m^_N of the same page, the mean over pages
    inter   InfoNCE of v^_0 with m^_0 over the batch
    L = L_lm + contrast (intra + inter)

L_lm is that of a language model which reads the image first, if there is one; without one the image
tower alone is trained. A second stage tunes the language model on questions. Teacher and temperature
are left out of what is delivered: inference reads pixels alone.

documents.py  the teachers
model.py      what is delivered without a language model
pages.py      pages and their boxes

Dimensions: B pages, R objects of a page, E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.plan import Having
from diptych.data.sample import Source
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import DialogueView, ImageView, PromptedView, View
from diptych.errors import InputError, unknown
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.dense.doco.documents import LayoutEncoder, LentLayout, objects_of, teacher_of
from diptych.methods.dense.doco.model import PageEncoder
from diptych.methods.dense.doco.pages import PageView, check_units
from diptych.methods.language import WHOLE, vision_lm
from diptych.methods.make import Make
from diptych.models.delivered import Validation
from diptych.models.regions import squashed
from diptych.models.vlm import Adapter, Layer, VisionLM
from diptych.objectives import info_nce
from diptych.objectives.grouping import grouping
from diptych.spec import Count, NetworkSpec, NotNegative, Positive
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.parts import Temperature, freeze, thaw
from diptych.towers.regions import keep_patches, pool_areas, set_size

card = {
    "title": "Enhancing Visual Document Understanding with Contrastive Learning in Large Visual-Language Models",
    "year": 2024,
    "kind": "method",
    "entry": "DoCo",
    "provenance": "abstract",
    "reconstruction": True,
}

STREAMS = {"pretrain": "train", "instruct": "instructions"}
"""The stages, with the stream that each reads; the second one with a language model alone."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The parts:

    - `teacher` is `layout:width=128:depth=2`, a new one that learns too, at `teacher_rate` times the
      learning rate, or `hf:FOLDER`, a frozen LayoutLMv3. Without `text=false` (`layout`, `visual`) it
      reads the texts of boxes (their places, the page).
    - `size` is the side in pixels at which pages are read, by default the tower's. They are read whole.
    - `max_boxes` is the most objects of a page, of which random ones are taken; with `jitter` pages are
      scaled by a factor between these two, and cut.
    - `contrast` is the weight of intra and inter, which have the weights `intra` and `inter`. `mean` says
      whether all pages or all objects count alike. `scale` is the initial 1 / tau, learned up to
      `max_scale`.

    With `lm` it is an image tower of a language model: `lm`, `tune`, `adapter`, `layer`, `grid`, `prompt`,
    `template`, `turns` and `max_tokens` are those of cg_vlm; `role` is that of the texts which it learns to
    write about pages. `instruction` holds fields of the recipe of the second stage, in which the image
    tower learns at `tower_rate` times the learning rate.
    """

    teacher: NetworkSpec = "layout:width=128:depth=2"
    teacher_rate: NotNegative = 0.1
    size: Count | None = None
    max_boxes: Count = 128
    jitter: tuple[float, float] | None = None
    contrast: NotNegative = 1.0
    intra: NotNegative = 1.0
    inter: NotNegative = 1.0
    mean: Literal["pages", "objects"] = "pages"
    scale: Positive = 1 / 0.07
    max_scale: Positive = 100.0
    lm: NetworkSpec | None = None
    tune: str = WHOLE
    adapter: Adapter = "mlp"
    layer: Layer = "last"
    grid: Count | None = None
    role: str = "ocr"
    prompt: str = ""
    template: str = "{}"
    turns: Count | None = None
    instruction: Mapping[str, Any] = field(default_factory=dict)
    tower_rate: NotNegative = 0.0
    max_tokens: Count = 32

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise InputError(
                f"template {self.template!r} has no place for a question; write {{}} there"
            )
        if not self.contrast * (self.intra + self.inter) and self.lm is None:
            raise InputError(
                "without contrast there is nothing to learn; give contrast, intra or inter a weight, or an lm"
            )
        if self.jitter is not None and self.lm is not None:
            raise InputError(
                "a page that is cut does not show all of its text, which the language model learns to write; leave "
                "jitter out"
            )


class DoCo(Method):
    """An image tower that is trained on the objects of pages, alone or within a language model."""

    Config = Config
    # the toy's pages are small
    test_options: ClassVar[Mapping[str, Any]] = {"grid": 2, "max_boxes": 4}
    model: PageEncoder | VisionLM

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        words = "evaluate {run} --data TEST --train {data} --suite words"
        if options.get("lm") is None:
            return words, "embed {run} SOURCE --out EMB"
        answers = "evaluate {run} --data QUESTIONS --suite answers --anls"
        return words, answers, "generate {run} 'A QUESTION' --images IMAGES"

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.given: Sequence[str] = ("train",) if config.lm is None else tuple(STREAMS.values())
        encoder = _pages_alone(make, config.size)
        self.model = PageEncoder(encoder) if config.lm is None else self._language(encoder, make)
        self.scale = Temperature(config.scale, form="exp", clamp=(1e-3, config.max_scale))
        self.teacher: LayoutEncoder | LentLayout | None = None
        self.teacher_projection: nn.Module | None = None
        if not config.contrast * (config.intra + config.inter):
            freeze(self.scale, self.encoder.image_projection)
        elif not make.rebuilds:  # a saved model does without a teacher
            height, width = self.encoder.image.preprocess.shape[-2:]
            self.teacher = teacher_of(config.teacher, make, (height, width))
            if self.teacher.width is not None:
                self.teacher_projection = nn.Linear(
                    self.teacher.width, self.encoder.embed_dim, bias=False
                )

    def _language(self, encoder: DualEncoder, make: Make) -> VisionLM:
        """The language model with the image tower, which is trained too."""
        config = self.config
        model = vision_lm(
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
            encoder=encoder,
        )
        thaw(encoder.image, encoder.image_projection)
        return model

    @property
    def encoder(self) -> DualEncoder:
        """The image side, which is trained."""
        return self.model.encoder

    # ---- data

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Choose the stages for the streams that are given. Raises InputError for another one, for boxes
        in other units than pixels, and for a teacher that cannot be loaded."""
        known = ("train",) if self.config.lm is None else tuple(STREAMS.values())
        for name in sources:
            if name not in known:
                raise unknown("stream of doco", name, known)
        self.given = tuple(sources)
        if "train" in sources and self.contrasts:
            check_units(sources["train"])
            if isinstance(self.teacher, LentLayout):
                self.teacher.check()

    @property
    def contrasts(self) -> bool:
        """Whether a teacher is learnt from."""
        return self.config.contrast * (self.config.intra + self.config.inter) > 0

    def stages(self) -> Sequence[Stage]:
        config = self.config
        stages = []
        if "train" in self.given:
            own = self.contrasts and isinstance(self.teacher, LayoutEncoder)
            stages.append(
                Stage(
                    name="pretrain",
                    lr_scale={"teacher": config.teacher_rate} if own else {},
                    min_batch=2 if self.contrasts and config.inter else 1,
                )
            )
        if "instructions" in self.given:
            frozen = dict.fromkeys(self._aside(), 0.0)
            stages.append(
                Stage(
                    name="instruct",
                    streams=("instructions",),
                    plan=Having("main"),
                    recipe=dict(config.instruction),
                    lr_scale={"model.encoder.image": config.tower_rate, **frozen},
                    min_batch=1,
                )
            )
        return stages

    def _aside(self) -> list[str]:
        """What the second stage does not train, by the prefixes of its parameters."""
        own = ["teacher"] if isinstance(self.teacher, LayoutEncoder) else []
        projection = [] if self.teacher_projection is None else ["teacher_projection"]
        return ["scale", "model.encoder.image_projection", *own, *projection]

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        preprocess = self.encoder.image.preprocess
        page: View = ImageView(preprocess=preprocess)
        if stage.name == "pretrain" and self.contrasts:
            page = PageView(
                preprocess=preprocess,
                max_boxes=config.max_boxes,
                tokenizer=self.words,
                jitter=config.jitter,
                sampled=True,
            )
        if not isinstance(self.model, VisionLM):
            return (page,)
        words = self.model.words
        length = self.model.room
        if stage.name == "pretrain":
            return page, PromptedView(
                tokenizer=words, length=length, prompt=config.prompt, role=config.role
            )
        return page, DialogueView(
            tokenizer=words, length=length, template=config.template, turns=config.turns
        )

    @property
    def words(self) -> Tokenizer:
        """The tokenizer of the teacher."""
        assert self.teacher is not None, "there is one in training"
        return self.teacher.words

    # ---- a page

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the vectors (B, R + 1, E) of objects by both branches, the page first, and which are
        real; with a language model the log-probability of the tokens of each text and their number."""
        pixels = batch.image.flat
        features: Features = {}
        if isinstance(self.model, VisionLM):
            patches, _, encoded = self.model.patches.read(pixels)
            features |= self._written(self.model, patches, batch)
        else:
            encoded = self.model.encode_document(pixels)
        if at.stage == "pretrain" and self.contrasts:
            features |= self._objects(encoded, pixels, batch)
        return features

    def _objects(self, encoded: Encoded, pixels: Tensor, batch: Batch) -> Features:
        assert self.teacher is not None, "there is one in training"
        assert self.teacher_projection is not None, "setup refuses a teacher without a width"
        objects = objects_of(batch, self.words)
        document, there = self.teacher(pixels, objects)
        document = self.teacher_projection(document.to(self.teacher_projection.weight.dtype))
        page = object_vectors(self.encoder, encoded, objects.boxes)
        return {
            "page": normalize(page, dim=-1),
            "document": normalize(document, dim=-1),
            "there": there.to(page.dtype),
        }

    @staticmethod
    def _written(model: VisionLM, patches: Tensor, batch: Batch) -> Features:
        ids, _ = batch.text.flat
        marks = batch.text.marks
        assert marks is not None, "its view marks the text"
        counted = marks.flatten(0, 1) >= 0
        log_probs = model.read(model.prefix(patches), ids, counted)
        return {"log_prob": log_probs.sum(1), "words": counted.sum(1)}

    # ---- a batch

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        terms: dict[str, Tensor] = {}
        logged: dict[str, Tensor | float] = {}
        if "log_prob" in features:
            written = -features["log_prob"].sum() / features["words"].sum().clamp(min=1)
            terms["text" if at.stage == "pretrain" else "answers"] = written
            logged["perplexity"] = torch.exp(written.detach())
        if "page" in features:
            terms |= self._contrast(features)
            logged["scale"] = self.scale()
            logged["agreement"] = found_pages(features["page"][:, 0], features["document"][:, 0])
            logged["objects"] = features["there"][:, 1:].sum(1).mean()
        return Losses(terms, logged)

    def _contrast(self, features: Features) -> dict[str, Tensor]:
        config = self.config
        scale = self.scale()
        page = features["page"]
        document = features["document"]
        terms = {}
        if config.intra:
            there = features["there"] > 0
            mean = "images" if config.mean == "pages" else "texts"
            found = grouping(document, page, scale, there=there, mean=mean)
            terms["intra"] = config.contrast * config.intra * found
        if config.inter:
            found = info_nce(page[:, 0], document[:, 0], scale)
            terms["inter"] = config.contrast * config.inter * found
        return terms


def object_vectors(encoder: DualEncoder, encoded: Encoded, boxes: Tensor) -> Tensor:
    """The vectors (B, R + 1, E) of encoded pages, and of boxes (B, R, 4) as shares of them, not
    normalised.

        v_0 the page's own,   v_n = projection( Σ_q w_nq F_q / Σ_q w_nq )     (`pool_areas`)

    Raises InputError for an image tower without positions.
    """
    if encoded.grid is None:
        raise InputError(
            "this image tower pools its positions away, and objects are pooled from them; choose vit or conv"
        )
    objects = pool_areas(encoded.patches, boxes, encoded.grid)
    whole = encoder.image_vectors(encoded)
    return torch.cat([whole[:, None], encoder.project_image(objects).to(whole.dtype)], dim=1)


@torch.no_grad()
def found_pages(page: Tensor, document: Tensor) -> Tensor:
    """Page retrieval: the share of pages (B, E) that are nearest to their own document (B, E), and of
    documents that are to their page, the mean of both.

    >>> found_pages(torch.eye(3), torch.eye(3))
    tensor(1.)
    """
    similar = page @ document.T
    own = torch.arange(len(page), device=page.device)
    return torch.stack([(similar.argmax(dim) == own).float().mean() for dim in (0, 1)]).mean()


def _pages_alone(make: Make, size: int | None) -> DualEncoder:
    """The image side of the model that training starts from, or of a new one; it reads whole pages.

    Raises InputError if it has none, or pools its positions by learned queries.
    """
    encoder = make.dual(logit_scale=Temperature(1.0, form="fixed"))
    if "image" not in encoder.sides:
        raise InputError("doco reads pages; start from a model with an image tower")
    if encoder.query_pooler is not None or encoder.spaces:
        raise InputError(
            "objects are pooled from patches and projected as the page is, and this model pools by learned queries or "
            "several vectors; start from one with one CLS token or the mean"
        )
    # its texts are in the space of another image tower once this one is trained
    encoder.text = None
    encoder.text_projection = None
    if size is not None:
        set_size(encoder.image, size, "method.size")
    encoder.image.preprocess = squashed(encoder.image.preprocess)
    keep_patches(encoder.image)
    return encoder


DoCo.presets = {
    "small": Preset(
        config={"max_boxes": 48},
        image="vit:image_size=128:patch=8:width=192:depth=4",
        text="text:width=64:depth=1",
        tokenizer="bpe:vocab_size=1024:context=64",
        embed_dim=128,
        recipe=Recipe(lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05, batch_size=64, epochs=10),
    ),
    # The shapes of Qwen-VL-Chat and of LayoutLMv3-Large; the recipe is ours.
    "paper": Preset(
        config={
            "lm": "text:width=4096:depth=32:heads=32",
            "teacher": "layout:width=1024:depth=24:heads=16:patch=16",
            "grid": 16,
        },
        image="vit:image_size=448:patch=14:width=1664:depth=48:heads=16:pre_norm=true:patch_bias=false:cls_position=true",
        text="text:width=768:depth=1:heads=12",
        tokenizer="bpe:vocab_size=151936:context=1792",
        embed_dim=256,
        recipe=Recipe(
            lr=1e-4,
            betas=(0.9, 0.999),
            weight_decay=0.05,
            warmup=0.05,
            batch_size=1024,
            epochs=1,
            precision="bfloat16",
        ),
    ),
}
