"""CLOSE: Learning Visual Tasks Using only Language Supervision (Gu et al., ICCV 2023).

A language model is trained on a task with vectors of texts in place of images, and reads vectors of
images once it is trained. Training adds noise that is larger than the vectors themselves, so that
the gap between the modalities no longer matters.

    z = f(a) / |f(a)|;    z <- z + w e,  e ~ N(0, I_d);    z <- z / |z|
    L = - Σ_targets Σ_t log p(y_t | y_<t, [A z, q])  /  Σ_targets number of tokens

a is the text in place of an image (several: the mean of their projected vectors, then normalised),
q are words such as a question, y is the target text, in lower case, and A is a linear layer to four
tokens. Both towers are frozen. w is .08 at 768 dimensions, in each coordinate; at other widths it
is scaled so that w √d stays the same (ours). A task is defined by the roles of its texts
(`tasks.Task`): captions, answers, entailment, news. Inference: z of an image, without noise, beam
search with 5 beams.

Other layers than noise alone (`gap`, `methods.adapt.close.gap`) are first fitted to the stream
`pairs`. With train_on="images" the model is trained on images, without noise: the upper bound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.pairs import by_text
from diptych.data.sample import Source
from diptych.data.views import ImageView, NoiseView, TextView, View
from diptych.errors import InputError
from diptych.methods.adapt.close.gap import gap
from diptych.methods.adapt.close.tasks import Task, TaskView
from diptych.methods.adapt.close.writer import VectorCaptioner
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.make import Make
from diptych.models.delivered import Validation
from diptych.spec import Count, NetworkSpec, NotNegative
from diptych.towers.nn.parts import Temperature

card = {
    "title": "I Can't Believe There's No Images! Learning Visual Tasks Using only Language Supervision",
    "year": 2023,
    "kind": "method",
    "entry": "CLOSE",
    "provenance": "code",
    "abilities": {"generate": ""},
}

TrainOn = Literal["texts", "images"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """`source`, `context`, `target`, `sources` and `targets` are those of `tasks.Task`. `noise` is
    w (None: .08 at 768 dimensions, more at fewer). `gap` is a layer of `gap.py`, `lm` a language
    model of `models.seq2seq`, and `tokens` the number of tokens that it reads for a vector. At most
    `max_tokens` are generated."""

    source: str = "caption"
    context: str = ""
    target: str = ""
    sources: Count = 1
    targets: Count = 4
    train_on: TrainOn = "texts"
    noise: NotNegative | None = None
    gap: str = "none"
    lm: NetworkSpec = "text:width=128:depth=2:heads=4"
    tokens: Count = 4
    max_tokens: Count = 32


class CLOSE(Method):
    """The mean log-loss of the targets' tokens, given a noisy vector of the source."""

    Config = Config
    adapts = True
    model: VectorCaptioner

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return "generate {run} --images IMAGES", "evaluate {run} --data {data} --suite captions"

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(logit_scale=Temperature(100.0, form="fixed"))
        if encoder.text is None or make.words is None:
            raise InputError(
                "texts stand for images here, and this model has no text tower or came without its "
                "tokenizer; start from one of images and texts"
            )
        images = config.train_on == "images"
        alone = images and config.target not in (
            "",
            config.source,
        )  # the target is not drawn together with the source
        self.task = Task(
            source="" if alone else config.source,
            context=config.context,
            target=config.target,
            sources=config.sources,
            targets=config.targets,
        )
        layer = gap("none" if images else config.gap, encoder.embed_dim, config.noise)
        self.model = VectorCaptioner(
            encoder,
            make.words,
            config.lm,
            layer,
            tokens=config.tokens,
            longest=config.max_tokens,
            validation=_validation(config),
        )

    def setup(self, sources: dict[str, Source]) -> None:
        """Raise InputError if the language model's folder does not exist."""
        if self.model.missing:
            raise InputError(
                f"there is no folder {self.model.missing}; name that of a T5 with --method.lm t5:FOLDER"
            )

    def stages(self) -> Sequence[Stage]:
        learn = Stage(min_batch=1)
        if not self.model.gap.paired:
            return (learn,)
        # its loaders only check for missing fields: `_fit` reads all pairs, in order
        return Stage(
            name="fit",
            streams=("pairs",),
            prepare=self._fit,
            optimize=False,
            recipe={"batch_size": 2},
        ), learn

    def _fit(self, run: Any) -> None:
        """Fit the gap layer to the vectors of all pairs."""
        found = run.map(
            lambda batch: {
                "image": self.model.of_images(batch.image.flat),
                "text": self.model.of_texts(batch.text.ids, batch.text.lengths),
            },
            self.views(self.stages()[0], "pairs"),
            run.sources["pairs"],
        )
        self.model.gap.fit(found["image"], found["text"])
        cosine = float((found["image"] * found["text"]).sum(1).mean())
        run.note(0, 1, 1 - cosine, matched_cosine=cosine)

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        """Return one sample for each text if a text is generated from its own vector, so that an
        epoch covers all texts."""
        config = self.config
        alone = not config.context and config.target in (
            "",
            config.source if config.train_on == "images" else "",
        )
        return by_text(source, config.source) if stage.name != "fit" and alone else source

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        words = self.make.tokenizer
        model = self.model
        image = ImageView(preprocess=model.image.preprocess)
        if stage.name == "fit":
            return image, TextView(tokenizer=words, role=self.config.source)
        if self.config.train_on == "images":
            views: list[View] = [image]
        else:
            views = [
                TaskView(tokenizer=words, task=self.task, part="source"),
                NoiseView(shape=(model.gap.draws, model.gap.width)),
            ]
        first = None if self.config.train_on == "images" else "texts.source"
        target = TaskView(tokenizer=model.lm.tokenizer, task=self.task, part="target", like=first)
        views.append(target)
        if self.task.context:
            like = first or target.gives[0]
            views.append(
                TaskView(tokenizer=model.lm.tokenizer, task=self.task, part="context", like=like)
            )
        return views

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the log-probability of each sample's targets, and their number of tokens."""
        model = self.model
        targets = batch.texts["target"]
        memory, mask = model.read(self._vectors(batch), *self._context(batch))
        ids, lengths = targets.flat
        there = lengths > 0
        owner = torch.arange(len(batch), device=ids.device).repeat_interleave(targets.ids.shape[1])[
            there
        ]
        ids = ids[there]
        lengths = lengths[there]
        lengths = (
            lengths - (lengths == model.lm.tokenizer.context).long()
        )  # a text that was cut has no end token
        found = model.lm.log_prob(ids, lengths, memory=memory[owner], memory_mask=mask[owner])
        return {
            "log_prob": found.new_zeros(len(batch)).index_add(0, owner, found),
            "tokens": lengths.new_zeros(len(batch)).index_add(0, owner, lengths - 1),
        }

    def _vectors(self, batch: Batch) -> Tensor:
        """Return z (B, d), with the noise of training; always in single precision."""
        model = self.model
        device = next(self.parameters()).device
        with torch.autocast(device.type, enabled=False):
            if self.config.train_on == "images":
                return model.of_images(batch.image.flat)
            source: Any = batch.texts["source"]
            noise: Any = batch.fields["noise"]
            return model.gap(model.of_texts(source.ids, source.lengths), noise)

    def _context(self, batch: Batch) -> tuple[Tensor, Tensor] | tuple[()]:
        return batch.texts["context"].flat if self.task.context else ()

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        loss = -features["log_prob"].sum() / features["tokens"].sum()
        return Losses({"log_loss": loss}, logged={"perplexity": torch.exp(loss.detach())})


def _validation(config: Config) -> Validation:
    """Validate by answers to questions if these are the target, else by captions."""
    if config.target == "answer":
        return Validation("answers", ("exact", "vqa"))
    return Validation("captions", ("accuracy", "cider"), {"role": config.target or config.source})


CLOSE.presets = {
    # The encoder comes from the given model; the contract suite, which has none, builds these.
    "small": Preset(
        config={"lm": "text:width=128:depth=2:heads=4"},
        image="vit:image_size=64:patch=8:width=128:depth=4",
        text="text:width=128:depth=4",
        tokenizer="bpe:vocab_size=2048:context=32",
        embed_dim=128,
        recipe=Recipe(
            optimizer="muon",
            lr=4e-3,
            weight_decay=0.0,
            schedule="linear",
            warmup=0.05,
            clip=1.0,
            batch_size=128,
            epochs=8,
        ),
    ),
    # CLIP ViT-L/14 and the shape of T5-base, given as --init and, with its weights, as --method.lm
    # t5:FOLDER.
    "paper": Preset(
        config={"lm": "t5:width=768:depth=12:heads=12"},
        image="vit:image_size=224:patch=14:width=1024:depth=24:heads=16:pre_norm=true",
        text="text:width=768:depth=12:heads=12",
        tokenizer="clip",
        embed_dim=768,
        recipe=Recipe(
            lr=3e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            schedule="linear",
            warmup=0.0,
            batch_size=128,
            epochs=8,
        ),
    ),
}
