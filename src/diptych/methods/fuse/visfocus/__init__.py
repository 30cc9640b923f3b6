"""VisFocus: Prompt-Guided Vision Encoders for OCR-Free Dense Document Understanding (ECCV, 2024).

A page has more text than its visual tokens can hold, so the image tower reads the question: SwinV2's
layers that merge patches attend to it (`tower`). Three stages teach it to look at what is asked for:

    read      y = the text of the page                         f merges patches without a prompt
    lmpm      q = a piece of the page's text, spans masked     y = the masked spans
    answer    q = a question                                   y = its answer

    L = - mean over tokens of log p(y_t | y_<t, [ table(q) ; projector(f(x, e(q))) ; task ])

e is a frozen encoder of prompts. In the second stage (localized masked prompt modelling) the prompt is
masked and the page is not, so that its words must be looked up; with probability 1 - rho, drawn for a
batch, the language model does not read the prompt, and the image tower alone knows what is asked for.

tower.py     SwinV2 with prompts        prompts.py   the frozen encoder of prompts
views.py     questions as prompts       reader.py    what is delivered
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from diptych.data.batch import Batch
from diptych.data.plan import Having
from diptych.data.sample import Source
from diptych.data.views import ImageView, SpanView, TextView, View
from diptych.errors import InputError, unknown
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.fuse.visfocus.prompts import PromptEncoder, alike
from diptych.methods.fuse.visfocus.reader import TASKS, PageReader
from diptych.methods.fuse.visfocus.tower import Blend, PromptedSwin, Query, check_stages
from diptych.methods.fuse.visfocus.views import PROMPT, TARGET, VISION, AskView, Prompts, VisionView
from diptych.methods.make import Make
from diptych.models import t5
from diptych.models.delivered import Validation
from diptych.models.seq2seq import Seq2Seq, seq2seq
from diptych.rng import generator
from diptych.spec import Count, Dropout, NetworkSpec, Positive, Share
from diptych.towers.build import text_tower
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature

card = {
    "title": "VisFocus: Prompt-Guided Vision Encoders for OCR-Free Dense Document Understanding",
    "year": 2024,
    "kind": "method",
    "entry": "VisFocus",
    "provenance": "code",
    "abilities": {"generate": "", "log_prob": "", "fuse": ""},
}

Task = Literal["all", "read", "lmpm", "answer"]
STREAMS = {"read": "train", "lmpm": "train", "answer": "questions"}
"""The stream that each stage reads."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The parts:

    - `lm` is the encoder-decoder that writes: None, a new one of the shape of the text tower;
      `t5:FOLDER`, a trained T5 with its own tokenizer; `t5:width=512:depth=6:heads=8`, a new one.
    - `prompt` is the frozen encoder of prompts (`prompts.PromptEncoder`), and `prompted` the stages of
      the image tower behind which its states are read; none, (), is SwinV2's plain merging. `blend` and
      `query` are those of `tower`. `instruction` is the prompt where there is no question.
    - `dropout` is that of the projector.

    Stages: `task` is one of them, or all whose streams are given, `train` for the first two and
    `questions`. `reading`, `focusing` and `answering` hold fields of the recipe of read, lmpm and answer
    in place of the run's. `role` is that of the text of a page.

    Masked pieces: `snippet` tokens, a share `density` in spans of `span` on average. `rho` is the
    probability that the language model reads them. At most `max_tokens` are written by default.
    """

    task: Task = "all"
    lm: NetworkSpec | None = None
    prompt: NetworkSpec = "tiny-lm"
    prompted: tuple[int, ...] = (1, 2, 3, 4)
    blend: Blend = "mean"
    query: Query = "identity"
    instruction: str = "what is written in this document?"
    dropout: Dropout = 0.1
    role: str = "ocr"
    snippet: Count = 50
    density: Share = 0.15
    span: Positive = 4.0
    rho: Share = 0.5
    reading: Mapping[str, Any] = field(default_factory=dict)
    focusing: Mapping[str, Any] = field(default_factory=dict)
    answering: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: Count = 32

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise InputError(
                "instruction is what is read where there is no question; give it some words"
            )


class VisFocus(Method):
    """Reading, masked prompts, and answers."""

    Config = Config
    test_options: ClassVar[Mapping[str, Any]] = {"reading": {}, "focusing": {}, "answering": {}}
    model: PageReader

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        task = options.get("task", "all")
        again = "train visfocus --init {run}"
        if task == "read":
            return f"{again} --data {{data}} --method.task lmpm", "generate {run} --images IMAGES"
        if task == "lmpm":
            return (f"{again} --data questions=QUESTIONS --method.task answer",)
        return (
            "evaluate {run} --data QUESTIONS --suite answers",
            "generate {run} 'A QUESTION' --images IMAGES",
        )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.given: Sequence[str] = tuple(dict.fromkeys(STREAMS.values()))
        encoder = _encoder(make)
        tower: Any = encoder.image
        given = make.delivered if isinstance(make.delivered, PageReader) else None
        lm = _language(config, make, given, tower)
        prompts = None
        if config.prompted and (config.task != "read" or tower.vilma):
            prompts = PromptEncoder(config.prompt, lm.tokenizer)
            _insert(tower, prompts, config)
        elif tower.vilma:
            raise InputError(
                "the image tower that training starts from reads a prompt; leave out --method.prompted, or start anew"
            )
        self.model = PageReader(
            encoder,
            lm,
            prompts,
            instruction=config.instruction,
            dropout=config.dropout,
            validation=_validation(config),
            longest=config.max_tokens,
        )
        for name in ("projector", "tasks", "lm", "prompts"):
            if (part := getattr(self.model, name)) is not None:
                make.go_on_part(part, name)

    # ---- data

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Choose the stages for the streams that are given. Raises InputError for another stream, for a
        stage without its stream, for a tokenizer without the special tokens of masked prompts, and for a
        prompt encoder of another width than the tower reads."""
        for name in sources:
            if name not in STREAMS.values():
                raise unknown("stream of visfocus", name, tuple(dict.fromkeys(STREAMS.values())))
        task = self.config.task
        if task != "all" and STREAMS[task] not in sources:
            raise InputError(
                f"the stage {task} reads the stream {STREAMS[task]!r}; give --data {STREAMS[task]}=SOURCE"
            )
        self.given = tuple(sources)
        for stage in self.stages():
            self.views(stage)  # of later stages too: they refuse a tokenizer without sentinels
        prompts = self.model.prompts
        if prompts is None:
            return
        reads = self.model.image.config.prompt_width
        if prompts.width != reads:
            raise InputError(
                f"the image tower reads prompts of width {reads}, and {self.config.prompt} gives {prompts.width}; give "
                "the prompt encoder that it was trained with"
            )

    def stages(self) -> Sequence[Stage]:
        config = self.config
        recipes = {"read": config.reading, "lmpm": config.focusing, "answer": config.answering}
        new = self.model.prompts is not None and self.model.prompts.lent is None
        unprompted = {"model.encoder.image.vilma": 0.0} if self.model.image.vilma else {}
        return [
            Stage(
                name=name,
                streams=(STREAMS[name],),
                plan=Having("main"),
                recipe=dict(recipes[name]),
                lr_scale=unprompted if name == "read" else {},
                prepare=self._warn if new and name != "read" else None,
                min_batch=1,
            )
            for name in TASKS
            if config.task in ("all", name) and STREAMS[name] in self.given
        ]

    def _warn(self, run: Any) -> None:
        run.warn(
            f"the prompt encoder {self.config.prompt} is new, and is not trained; name one that has learnt with "
            "--method.prompt"
        )

    def views(self, stage: Stage, stream: str = "") -> Sequence[View]:
        config = self.config
        words = self.model.words
        # a crop might not have what is asked for
        page = ImageView(preprocess=self.model.image.preprocess, augment=None)
        if stage.name == "read":
            return page, TextView(tokenizer=words, name=TARGET, role=config.role)
        asked: Prompts
        if stage.name == "answer":
            asked = AskView(tokenizer=words)
        else:
            asked = SpanView(
                tokenizer=words,
                name=PROMPT,
                role=config.role,
                density=config.density,
                span=config.span,
                length=config.snippet,
            )
        prompts = self.model.prompts
        if prompts is None or alike(prompts.tokenizer, words):
            return page, asked
        return page, asked, VisionView(tokenizer=prompts.tokenizer, of=asked)

    # ---- a sample

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the log-probability of the tokens of each target and their number."""
        model = self.model
        pixels = batch.image.flat
        if at.stage == "read":
            memory, mask = model.read(pixels, "read")
        else:
            prompt = batch.texts[PROMPT].flat
            vision = batch.texts[VISION].flat if VISION in batch.texts else prompt
            shown = prompt if self.shows(at) else None
            memory, mask = model.read(pixels, at.stage, shown, vision)
        ids, lengths = batch.texts[TARGET].flat
        cut = lengths == model.words.context  # a text that was cut has no end
        lengths = lengths - cut.long()
        found = model.lm.log_prob(ids, lengths, memory=memory, memory_mask=mask)
        return {"log_prob": found, "words": lengths - len(model.words.before)}

    def shows(self, at: At) -> bool:
        """Whether the language model reads the prompts of a step's batch: with probability `rho` for
        masked prompts, and always for questions, outside training, and in a tower that reads none."""
        if at.stage == "answer" or not self.training or self.model.prompts is None:
            return True
        return generator(at.seed, at.stage, at.step, "rho").random() < self.config.rho

    # ---- a batch

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        loss = -features["log_prob"].sum() / features["words"].sum()
        return Losses({"log_loss": loss}, {"perplexity": torch.exp(loss.detach())})


def _encoder(make: Make) -> DualEncoder:
    """The image tower, new or of the model that training starts from, as a dual encoder without texts.

    Raises InputError for another tower.
    """
    fixed = Temperature(100.0, form="fixed")
    if make.fresh:
        tower = make.image()
        encoder = DualEncoder(tower, None, tower.width, logit_scale=fixed, image_projection="none")
    else:
        encoder = make.dual(logit_scale=fixed)
    if "image" not in encoder.sides or not isinstance(encoder.image, PromptedSwin):
        raise InputError(
            "visfocus reads prompts where its image tower merges patches, which another tower does not; leave out "
            "--image-tower or give visfocus.swin:…, and start from none but a run of visfocus"
        )
    return encoder


def _insert(tower: PromptedSwin, prompts: PromptEncoder, config: Config) -> None:
    """Add to a tower what reads prompts, or see that it has what the options say."""
    wanted = {"prompted": tuple(config.prompted), "blend": config.blend, "query": config.query}
    if not tower.vilma:
        check_stages(wanted["prompted"], len(tower.config.depths))
        tower.insert(prompts.width, **wanted)
        return
    has = {name: getattr(tower.config, name) for name in wanted}
    for name, value in has.items():
        if value != wanted[name]:
            raise InputError(
                f"the image tower that training starts from has {name}={value}, and {wanted[name]} is asked for; give "
                f"--method.{name} {_typed(value)}, or start anew"
            )


def _typed(value: Any) -> str:
    """A value as it is given on the command line."""
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _language(
    config: Config, make: Make, given: PageReader | None, tower: PromptedSwin
) -> Seq2Seq | t5.T5:
    """The language model: of a saved run, of the run that training goes on from, or as the options say.

    Raises InputError for one with another tokenizer than the run that training goes on from.
    """
    height, width = tower.config.grid(len(tower.config.depths) - 1)
    places = height * width + 1  # a page and the task
    if make.written_by is not None:
        return _rebuilt(make.written_by, make, places)
    if given is not None and config.lm is None:
        return _rebuilt(given.lm.config(), make, places)
    lm = seq2seq(config.lm or str(make.text_spec), make.words, places=places)
    if given is not None and (lm.tokenizer != given.words or type(lm) is not type(given.lm)):
        raise InputError(
            f"--method.lm {config.lm} is a language model of another kind, or with another tokenizer, than that of the "
            "run that training starts from; leave it out, or start anew"
        )
    make.words = lm.tokenizer  # that of a T5 is its own
    return lm


def _rebuilt(lm: Mapping[str, Any], make: Make, places: int) -> Seq2Seq | t5.T5:
    """A language model with new weights, of its config."""
    if "t5" in lm:
        return t5.rebuilt({"t5": lm["t5"], "words": make.tokenizer.to_dict()})
    return Seq2Seq(text_tower(lm["text"]), make.tokenizer, places)


def _validation(config: Config) -> Validation:
    """Validate by answers, or without questions by the text of a page."""
    if config.task in ("all", "answer"):
        return Validation("answers", ("exact",))
    return Validation("captions", ("accuracy",), {"role": config.role})


VisFocus.presets = {
    "small": Preset(
        config={
            "prompt": "tiny-lm",
            "dropout": 0.1,
            "reading": {},
            "focusing": {},
            "answering": {},
        },
        image="visfocus.swin:image_size=128:width=32:heads=2:depths=(2, 2, 2, 2):window=8",
        text="text:width=128:depth=2:heads=4",
        tokenizer="bpe:vocab_size=2048:context=128:special=extra_id_0-extra_id_9",
        embed_dim=0,
        recipe=Recipe(
            lr=1e-3,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            warmup=0.05,
            clip=1.0,
            batch_size=32,
            epochs=10,
        ),
    ),
    # Base: SwinV2-Small, T5-Base, and a frozen T5-Base for prompts. Their weights are given as
    # --method.lm t5:FOLDER and --method.prompt t5:FOLDER.
    "paper": Preset(
        config={
            "lm": "t5:width=768:depth=12:heads=12",
            "prompt": "t5:width=768:depth=12:heads=12",
            "dropout": 0.1,
            "reading": {"steps": 200_000, "batch_size": 32, "weight_decay": 0.05, "warmup": 2000},
            "focusing": {"steps": 400_000, "batch_size": 48, "warmup": 4000},
            "answering": {"steps": 15_000, "batch_size": 72},
        },
        image=(
            "visfocus.swin:image_size=(1536, 768):width=96:heads=3:depths=(2, 2, 18, 2):window=24:"
            "drop_path=0.3"
        ),
        text="text:width=768:depth=12:heads=12",
        tokenizer="bpe:vocab_size=32128:context=1480:special=extra_id_0-extra_id_99",
        embed_dim=0,
        recipe=Recipe(
            lr=1e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.01,
            batch_size=72,
            precision="bfloat16",
        ),
    ),
}
