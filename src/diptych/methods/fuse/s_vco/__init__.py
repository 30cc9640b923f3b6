"""S-VCO: Symmetrical Visual Contrastive Optimization (ACL, 2025).

A vision-language model answers from its language prior: a correct answer can be as probable without
the image. Preferences between answers do not change that. So two images are contrasted that differ in
one detail, each with the response that is true of it alone: the matching image is preferred to none,
and none to the contradicting one.

    d(y, i) = log pi(y | i, q) - log ref(y | i, q),     log p(y | ·) a sum over the tokens of y
    A_w = -log sigmoid(b1 [d(y_w, i_w) - d(y_w, none)])     attend
    R_w = -log sigmoid(b2 [d(y_w, none) - d(y_w, i_l)])     reject
    A_l, R_l                                                the same of y_l, with i_l and i_w exchanged
    svco    L = A_w + R_w + A_l + R_l
    vco     L = A_w + R_w
    dpo     L = -log sigmoid(b1 [d(y_w, i_w) - d(y_l, i_w)])
    sft     L = - mean over tokens of log p(y_w | i_w, q) and log p(y_l | i_l, q)

The policy pi starts as the reference ref, a vision-language model, and both are read without dropout.
The reference does not change, so its log-probabilities are computed once, before the first step, and
kept as a column. Without an image the language model reads the question alone. A beta of 0 switches a
term off.

Dimensions: B pairs, V images of a pair, P patches, L text length.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.loader import require
from diptych.data.sample import Source
from diptych.data.views import ArrayView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.fuse.s_vco.losses import BETA, CONDITIONS, Objective, Term, terms_of
from diptych.methods.fuse.s_vco.pairs import ANSWER, REFERENCE, Negative, Pairs, PairView
from diptych.methods.language import WHOLE, vision_lm
from diptych.methods.make import Make
from diptych.models.delivered import Validation
from diptych.models.model import evaluating
from diptych.models.vlm import Adapter, Layer, VisionLM
from diptych.spec import Count, NetworkSpec, NotNegative

log = logging.getLogger(__name__)

card = {
    "title": "Symmetrical Visual Contrastive Optimization: Aligning Vision-Language Models with Minimal "
    "Contrastive Images",
    "year": 2025,
    "kind": "method",
    "entry": "SVCO",
    "provenance": "code",
    "abilities": {"generate": "", "log_prob": "", "heat": "", "fuse": ""},
}

GREY = 127
"""The value of the pixels of a blank image [choice]."""
_SFT = ("ww", "ll")
"""What the objective sft reads."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The objective:

    - `objective` is svco, vco, dpo or sft. `betas` are those of attend and reject of the sample, then
      of its edit; dpo reads the first.
    - `report` computes and logs the terms whose beta is 0 too, with a beta of 0.1.
    - `negative` is the image that a response is wrong of: the other one (edit), or for ablations
      noise, or a crop of its own one. `without` is what is read where there is no image: nothing, or
      for an ablation a blank one.

    The pairs: `kinds` of edits, joined by + (None: all). With the role answer, responses are answers to
    the questions that a sample and its edit both have, read by `template`; with another `role` they
    are texts of it, behind `prompt`. `length` is the most ids of both (None: all that fit).

    The model, as it was trained: `lm`, `adapter`, `layer`, `grid`, `template` and `prompt` are those of
    `cg_vlm`. `tune` says what of the language model is trained: whole, low-rank factors
    (`lora:r=8:layers=q+v`), or none; the adapter is always. With `new_adapter` training may start from
    a model that is none of vision and language.
    """

    objective: Objective = "svco"
    betas: tuple[NotNegative, NotNegative, NotNegative, NotNegative] = (0.1, 0.1, 0.1, 0.1)
    report: bool = False
    negative: Negative = "edit"
    without: Literal["nothing", "blank"] = "nothing"
    kinds: str | None = None
    role: str = ANSWER
    length: Count | None = None
    lm: NetworkSpec = "tiny-lm"
    tune: str = WHOLE
    adapter: Adapter = "mlp"
    layer: Layer = "last"
    grid: Count | None = None
    prompt: str = ""
    template: str = "{}"
    max_tokens: Count = 32
    new_adapter: bool = False

    def __post_init__(self) -> None:
        terms_of(self.objective, self.betas)
        if self.template.count("{}") != 1:
            raise InputError(
                f"template {self.template!r} has no place for a question; write {{}} there"
            )


class SVCO(Method):
    """Preferences between images, or between responses, against a frozen reference."""

    Config = Config
    adapts: ClassVar[bool] = True
    test_options: ClassVar[Mapping[str, Any]] = {
        "lm": "text:width=32:depth=2:heads=2",
        "grid": 2,
        "betas": (1.0, 1.0, 1.0, 1.0),  # of 0.1 the suite's few steps are not enough
        "role": "caption",  # the toy's edits have these
        "kinds": "recolour",
        "template": "{}",  # the toy's context is short
        "new_adapter": True,
    }
    model: VisionLM

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data {data} --suite answers,orderings",
            "generate {run} 'A QUESTION' --images IMAGES",
        )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        _check_start(config, make)
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
        self._pairs: dict[str, Pairs] = {}

    # ---- data

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Find the pairs of the source. Raises InputError if there is none."""
        source = sources["train"]
        require(source, self._view.reads, self.name)
        kinds = self.config.kinds.split("+") if self.config.kinds else ()
        found = Pairs(source, self.config.role, kinds)
        if found.unread:
            log.warning("%s: %d samples cannot be read and are left out", source.name, found.unread)
        self._pairs["train"] = found

    def stages(self) -> Sequence[Stage]:
        prepare = None if self.config.objective == "sft" else self.refer
        return (Stage(prepare=prepare, min_batch=1),)

    @property
    def _view(self) -> PairView:
        config = self.config
        room = self.model.room
        return PairView(
            preprocess=self.model.image.preprocess,
            tokenizer=self.model.words,
            length=room if config.length is None else min(room, config.length),
            role=config.role,
            prompt=config.prompt,
            template=config.template,
            negative=config.negative,
        )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        if self.config.objective == "sft":
            return (self._view,)
        return self._view, ArrayView(array=REFERENCE, shape=(len(CONDITIONS),))

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        return self._pairs[stream].over(source) if stream in self._pairs else source

    def refer(self, run: Any) -> None:
        """Store the log-probabilities (N, K, 6) of the K pairs of a sample by the model as it is now, the
        reference, in the precision of the training."""
        pairs = self._pairs["train"]

        def find(batch: Batch) -> Features:
            with torch.autocast(
                run.device.type, torch.bfloat16, enabled=run.precision == "bfloat16"
            ):
                return {REFERENCE: self._read(batch)["log_prob"]}

        found = run.map(find, [self._view], pairs, batch_size=run.batch_size)[REFERENCE]
        rows = np.zeros((len(pairs.source), pairs.numbers.max() + 1, len(CONDITIONS)), found.dtype)
        rows[pairs.rows, pairs.numbers] = found
        run.store("train", {REFERENCE: rows})

    # ---- a pair

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the objective, those that are switched off too."""
        return terms_of(self.config.objective, self.config.betas)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions whose log-probabilities are computed."""
        if self.config.objective == "sft":
            return _SFT
        read = [term for term in self.terms if term.beta or self.config.report]
        used = {at for term in read for at in (term.better, term.worse)}
        return tuple(name for at, name in enumerate(CONDITIONS) if at in used)

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the log-probabilities (B, 6) of the conditions, 0 of those that are not read, and the
        number of tokens (B, 2) of both responses."""
        return self._read(batch)

    def _read(self, batch: Batch) -> Features:
        model = self.model
        marks = batch.text.marks
        assert marks is not None, "its view marks the responses"
        count = len(batch)
        found = {}
        with evaluating(model):  # without dropout, as the reference was read
            patches = model.patches(batch.image.flat)[0]
            prefix = model.prefix(patches).unflatten(0, (count, -1))
            for seen in (True, False):
                names = [name for name in self.conditions if (len(name) > 1) == seen]
                if names:
                    values = self._log_probs(names, prefix, batch.text.ids, marks >= 0, batch)
                    found |= dict(zip(names, values.unbind(1), strict=True))
        nothing = next(iter(found.values())).new_zeros(count)
        log_prob = torch.stack([found.get(name, nothing) for name in CONDITIONS], 1)
        return {"log_prob": log_prob, "words": (marks >= 0).sum(2)}

    def _log_probs(
        self, names: Sequence[str], prefix: Tensor, ids: Tensor, counted: Tensor, batch: Batch
    ) -> Tensor:
        """The log-probabilities (B, n) of n conditions in one pass, all with an image or all without;
        prefixes (B, V, P, D), responses (B, 2, L)."""
        response = ["wl".index(name[0]) for name in names]
        before = None
        if len(names[0]) > 1:
            before = prefix[:, [self._image(name) for name in names]].flatten(0, 1)
        elif self.config.without == "blank":
            pixels = torch.full_like(batch.image.flat[:1], GREY)
            blank = self.model.prefix(self.model.patches(pixels)[0])
            before = blank.expand(len(ids) * len(names), -1, -1)
        rows, which = (value[:, response].flatten(0, 1) for value in (ids, counted))
        return self.model.read(before, rows, which).sum(1).unflatten(0, (len(ids), -1))

    def _image(self, name: str) -> int:
        """The number of the image of a condition among those of a pair."""
        said, seen = name
        if said == seen or self.config.negative == "edit":
            return "wl".index(seen)
        return 2 + "wl".index(said)

    # ---- a batch

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        log_probs = features["log_prob"]
        if self.config.objective == "sft":
            own = log_probs[:, [CONDITIONS.index(name) for name in _SFT]]
            loss = -own.sum() / features["words"].sum()
            return Losses({"answers": loss}, {"perplexity": torch.exp(loss.detach())})
        ratios = log_probs - batch.fields[REFERENCE].to(log_probs.dtype)
        terms = {term.name: term.loss(ratios).mean() for term in self.terms if term.beta}
        return Losses(terms, self._monitors(ratios.detach()))

    def _monitors(self, ratios: Tensor) -> Mapping[str, Tensor]:
        """How far the policy is from the reference, and of each term that is computed the share of the
        pairs that satisfy its inequality and their mean margin."""
        found = {}
        for term in self.terms:
            if not term.beta and not self.config.report:
                continue
            margin = term.margin(ratios)
            found[f"{term.name}_accuracy"] = (margin > 0).to(margin.dtype).mean()
            found[f"{term.name}_margin"] = margin.mean()
            if not term.beta:
                found[f"{term.name}_off"] = term.loss(ratios, BETA).mean()
        for name in self.conditions:
            reward = ratios[:, CONDITIONS.index(name)]
            found[f"reward_{name}"] = reward.mean()
            found[f"distance_{name}"] = reward.abs().mean()
        return found


def _check_start(config: Config, make: Make) -> None:
    """Raise InputError for a start that has no policy, or one that was trained with other options."""
    given = make.delivered
    if not isinstance(given, VisionLM):
        if make.fresh or make.written_by is not None or config.new_adapter:
            return
        raise InputError(
            "this method corrects a model that answers questions about images; start from one, such as a RUN of "
            "cg_vlm, with --init, or allow an adapter that has learnt nothing with --method.new_adapter true"
        )
    have = {
        "grid": given.patches.grid,
        "layer": given.patches.layer,
        "template": given.template,
        "prompt": given.prompt,
    }
    for name, value in have.items():
        if getattr(config, name) != value:
            raise InputError(
                f"the run that training starts from has {name} {value!r}, this one would have "
                f"{getattr(config, name)!r}; give --method.{name} {'null' if value is None else value}"
            )


SVCO.presets = {
    # The model comes from --init; the contract suite, which has none, builds these.
    "small": Preset(
        config={"lm": "tiny-lm", "grid": 4},
        image="vit:image_size=64:patch=8:width=128:depth=4",
        text="text:width=128:depth=1",
        tokenizer="bpe:vocab_size=2048:context=32",
        embed_dim=128,
        recipe=Recipe(
            lr=5e-4,
            betas=(0.9, 0.95),
            weight_decay=0.02,
            warmup=0.05,
            clip=1.0,
            batch_size=32,
            epochs=1,
        ),
    ),
    # The shapes of CLIP ViT-L/14-336 and Vicuna-7B, as in LLaVA-1.5.
    "paper": Preset(
        config={
            "lm": "text:width=4096:depth=32:heads=32",
            "layer": "penultimate",
            "template": "USER: {} ASSISTANT:",
            "prompt": "USER: ASSISTANT:",
        },
        image="vit:image_size=336:patch=14:width=1024:depth=24:heads=16:pre_norm=true:patch_bias=false:cls_position=true",
        text="text:width=768:depth=12:heads=12",
        tokenizer="bpe:vocab_size=32000:context=128",
        embed_dim=768,
        recipe=Recipe(
            lr=1e-6,
            betas=(0.9, 0.95),
            eps=1e-8,
            weight_decay=0.02,
            warmup=0.05,
            batch_size=32,
            epochs=1,
            precision="bfloat16",
        ),
    ),
}
