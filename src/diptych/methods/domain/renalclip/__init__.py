"""RenalCLIP: A Disease-Centric Vision-Language Foundation Model for Precision Oncology in Kidney
Cancer (2025).

Each tower learns the domain on its own before both are aligned. A sample is a kidney: a CT volume
in one or more contrast phases, a report, and attributes mined from reports, with missing values.

    attributes  image tower:  L = sum_t mean_{i: y_ti >= 0} CE(head_t(h_i), y_ti)
    words       text tower:   L = -mean log softmax(table · h_{i-1})[x_i] at masked ids x_i
    reports     text tower:   L = InfoNCE of two passes of each report, which differ by dropout
    train       both:         L = 1/2 [ CE(s V T^T, diagonal) + CE(s T V^T, diagonal) ]

In the last stage the text tower is frozen and not projected: t is its unit vector, one of K variants
of the report computed before (`texts`). v is the projected volume. Both kidneys of a patient are in
the batch, in the same phase (`patients`), and are negatives of each other.

With `task` the image tower is fine-tuned to a diagnosis or to survival, or it is frozen and a language
model learns to write the report of a volume.

config.py       options                              patients.py    both kidneys of a patient
knowledge.py    stages before the alignment          texts.py       variants of reports
language.py     a language model as the start        volumes.py     phases and augmentation
objectives.py   losses                               downstream.py  a diagnosis, survival
writer.py       written reports                      presets.py     sizes and tasks
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.sample import Source, labels_of
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import LabelView, View
from diptych.data.volumes import VolumePreprocess
from diptych.data.wrap import Wrapped
from diptych.errors import InputError, unknown
from diptych.methods.base import At, Features, Losses, Method, Stage
from diptych.methods.domain.renalclip.config import CLAMP, Config
from diptych.methods.domain.renalclip.downstream import Diagnosis, Survival
from diptych.methods.domain.renalclip.knowledge import Objective, attributes, reports, words
from diptych.methods.domain.renalclip.language import from_language_model
from diptych.methods.domain.renalclip.objectives import cox
from diptych.methods.domain.renalclip.patients import KIDNEYS, Patients, PatientView
from diptych.methods.domain.renalclip.presets import PRESETS
from diptych.methods.domain.renalclip.texts import ReportView, VariantsView
from diptych.methods.domain.renalclip.volumes import VolumeAugment, VolumeView
from diptych.methods.domain.renalclip.writer import writer, writing
from diptych.methods.make import Make
from diptych.objectives import info_nce
from diptych.objectives.core import different_group, group_targets
from diptych.spec import configure
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature

card = {
    "title": "RenalCLIP: A Disease-Centric Vision-Language Foundation Model for Precision Oncology in Kidney Cancer",
    "year": 2025,
    "kind": "method",
    "entry": "RenalCLIP",
    "provenance": "code",
    "abilities": {
        "predict": "--preset survival --init RUN",
        "generate": "--preset report --init RUN",
        "log_prob": "--preset report --init RUN",
        "fuse": "--preset report --init RUN",
    },
}


class RenalCLIP(Method):
    """Knowledge of the domain for each tower, then the alignment of volumes with frozen texts."""

    Config = Config
    presets = PRESETS
    chunkable = False  # the batch norms of the image tower mix samples
    test_options: ClassVar[Mapping[str, Any]] = {
        "attributes": ("kind", "margin"),
        "recipes": {"words": {"lr": 5e-4}, "reports": {"lr": 5e-4}},
        "augment": None,
    }

    @classmethod
    def continues(cls, options: Mapping[str, Any]) -> bool:
        return options.get("task", "align") != "align"

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        match options.get("task", "align"):
            case "diagnosis":
                label = options.get("label", Config.label)
                measure = f"evaluate {{run}} --data {{data}} --suite zeroshot --label {label}"
                return "classify {run} VOLUMES", measure
            case "survival":
                labels = [options.get(name, getattr(Config, name)) for name in ("time", "event")]
                which = "--time {} --event {}".format(*labels)
                return (
                    "predict {run} VOLUMES",
                    f"evaluate {{run}} --data {{data}} --suite survival {which}",
                )
            case "report":
                return (
                    "generate {run} --images VOLUMES",
                    "evaluate {run} --data {data} --suite captions",
                )
            case _:
                return "evaluate {run} --data {data}", "embed {run} SOURCE --out EMB"

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.output: nn.Module | None = None
        self.augment = None
        if config.augment is not None:
            self.augment = configure(VolumeAugment, dict(config.augment), "augment")
        encoder = self._encoder()
        if not isinstance(encoder.image.preprocess, VolumePreprocess):
            raise InputError(
                f"renalclip reads volumes, and the image tower {encoder.image.kind!r} reads images; give "
                "--image-tower resnet3d, or start from a run of renalclip"
            )
        # of the heads, which are built when the data are known; it follows from the run's seed
        self.seed = int(torch.randint(2**31, (), device="cpu"))
        self.streams: Sequence[str] = ("train",)
        self.sides: tuple[str, ...] = ()
        if config.task == "diagnosis":
            self.model = Diagnosis(encoder, self.make.words, config.hidden, config.dropout)
            self.model.label = config.label
        elif config.task == "survival":
            self.model = Survival(encoder, config.hidden, config.time, config.event)
        elif config.task == "report":
            self.model = writer(self.make, encoder, config)
        else:
            self.model = encoder
            self.heads = nn.ModuleDict()

    def _encoder(self) -> DualEncoder:
        """The dual encoder, whose text tower may start from a language model."""
        config = self.config
        scale = Temperature(1 / 0.07, clamp=(1.0, float(np.exp(CLAMP))))
        how: Any = {
            "logit_scale": scale,
            "image_projection": config.image_projection,
            "text_projection": "none",
        }
        if config.task != "align":
            encoder = self.make.dual(**how)
            if not self.make.rebuilds:  # a saved model keeps the preprocessing of its training
                _fit_depth(encoder)
            return encoder
        if config.lm is None or not self.make.fresh:
            return self.make.dual(**how)
        start = from_language_model(config.lm)
        self.make = Make(
            image=self.make.image_spec,
            text=start.spec,
            embed_dim=start.width,
            tokenizer=start.tokenizer,
        )
        encoder = self.make.dual(**how)
        assert encoder.text is not None, "it was just built"
        encoder.text.load_state_dict(start.weights)
        self.output = start.output
        return encoder

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Find the streams and the classes of labels. Raises InputError for a stream that is not read,
        and a label that is no class."""
        config = self.config
        writes = config.task == "report"
        streams = ("train", "tune") if writes else ("train", "texts", "words", "reports")
        for name in sources:
            if name not in streams:
                raise unknown("stream of renalclip", name, streams)
        if "train" not in sources and not writes:
            raise InputError(
                "renalclip reads volumes from the stream train; name them with --data train=SOURCE"
            )
        self.streams = tuple(sources)
        first = sources["train"] if "train" in sources else sources["tune"]
        schema = first.schema()
        if config.task in ("align", "report") and f"labels.{config.side}" in schema:
            self.sides = schema[f"labels.{config.side}"].classes
        labels = {"align": config.attributes, "diagnosis": (config.label,)}
        classes = {
            name: _classes(first, name)
            for name in labels.get(config.task, ())
            if f"labels.{name}" in schema  # else reported with all other missing fields
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._build_heads(classes)

    def _build_heads(self, classes: Mapping[str, Sequence[str]]) -> None:
        """Build the heads of labels with these classes."""
        config = self.config
        if config.task == "diagnosis" and classes:
            self.model.hold(classes[config.label])
        if config.task == "align" and "attributes" in config.knowledge:
            for name, own in classes.items():
                layer = nn.Linear(self.model.image.width, len(own))
                self.heads[name] = nn.Sequential(nn.Dropout(config.head_dropout), layer)
            self.heads.to(next(self.model.parameters()).device)

    # ---- stages

    def objectives(self) -> list[Objective]:
        """The stages in order."""
        if self.config.task == "report":
            return writing(self.model, self.config, self.streams, self._of_reports)
        if self.config.task != "align":
            return [self._task()]
        return [*self._knowledge(), self._alignment()]

    def _knowledge(self) -> list[Objective]:
        config = self.config
        found = []
        if "attributes" in config.knowledge:
            volumes = self.volume_view(config.phases)
            found.append(attributes(self.model, self.heads, config, volumes))
        if "words" in config.knowledge:
            streams = self._texts_of("words")
            found.append(words(self.model, self.output, config, self.tokenizer, streams))
        if "reports" in config.knowledge:
            streams = self._texts_of("reports")
            found.append(reports(self.model, config, self.tokenizer, streams))
        return found

    def _texts_of(self, stage: str) -> tuple[str]:
        """The stream of a stage of texts: its own, else that of all texts, else the volumes'."""
        return (next(name for name in (stage, "texts", "train") if name in self.streams),)

    def _of(self, stage: str) -> Objective:
        return next(each for each in self.objectives() if each.stage.name == stage)

    def stages(self) -> Sequence[Stage]:
        return [each.stage for each in self.objectives()]

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return self._of(stage.name).views()

    def needs(self, stage: Stage, stream: str = "train") -> tuple[str, ...]:
        found = super().needs(stage, stream)
        # reports, which `fill` reads
        return (*found, f"texts.{self.config.role}") if stage.prepare else found

    def encode(self, batch: Batch, at: At) -> Features:
        return self._of(at.stage).encode(batch)

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        return self._of(at.stage).loss(features, batch)

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        """Return kidneys by patient for the alignment, and for a task those whose labels are
        known."""
        config = self.config
        if config.task in ("diagnosis", "survival"):
            needed = (config.label,) if config.task == "diagnosis" else (config.time, config.event)
            known = np.ones(len(source), bool)
            for name in needed:
                known &= labels_of(source, name) >= 0  # of NaN it is false
            if not known.any():
                raise InputError(f"no sample of {source.name} has labels {' and '.join(needed)}")
            return Wrapped(source, np.flatnonzero(known))
        return Patients(source, config.patient) if stage.name == "train" else source

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of reports."""
        return self.make.tokenizer

    def volume_view(self, phases: Sequence[str], role: str = "main") -> VolumeView:
        """The view of single kidneys."""
        preprocess: Any = self._image.preprocess
        return VolumeView(preprocess=preprocess, phases=phases, role=role, augment=self.augment)

    @property
    def _image(self) -> Any:
        return self.model.image

    def _alignment(self) -> Objective:
        config = self.config
        preprocess: Any = self._image.preprocess

        def views() -> Sequence[View]:
            view = PatientView(
                preprocess=preprocess,
                label=config.patient,
                phases=config.phases,
                augment=self.augment,
            )
            return (view,)

        def encode(batch: Batch) -> Features:
            there: Any = batch.fields["there"]
            vectors = self.model.embed_images(batch.image.flat[there.flatten()])
            rows = vectors.new_zeros(there.numel(), vectors.shape[1])
            rows[there.flatten()] = vectors
            return {"image": rows.unflatten(0, there.shape)}

        def loss(features: Features, batch: Batch) -> Losses:
            there = batch.fields["there"]
            image = features["image"][there]
            text = batch.fields["text"][there].to(image.dtype)
            scale = self.model.logit_scale()
            how = self._equal(batch.fields["same"][there])
            return Losses({"contrastive": info_nce(image, text, scale, **how)}, {"scale": scale})

        stage = Stage(
            share={"train": 1 / KIDNEYS},  # a sample is a patient
            prepare=self.fill,
            select=config.select,
            lr_scale={
                "": 1.0,
                "model.image": config.image_lr,
                "model.text": 0.0,
                **({"heads": 0.0} if len(self.heads) else {}),
            },
        )
        return Objective(stage, views, encode, loss)

    def _equal(self, groups: Tensor) -> dict[str, Any]:
        """Keywords of the loss for reports with equal texts, given their numbers (N,)."""
        if self.config.duplicates == "apart":
            return {}
        if self.config.duplicates == "masked":
            return {"allowed": different_group(groups)}
        return {"targets": group_targets(groups)}

    def fill(self, run: Any) -> None:
        """Compute the vectors of all variants of the reports, arrays.variants (N, K, E), and the
        number of each report among different ones."""
        source = run.sources["train"]
        config = self.config
        view = VariantsView(
            tokenizer=self.tokenizer,
            role=config.role,
            count=config.variants,
            side=config.side,
            sides=self.sides,
        )

        def embed(batch: Batch) -> dict[str, Tensor]:
            ids, lengths = batch.texts["variants"].flat
            different, places = torch.unique(ids, dim=0, return_inverse=True)
            longest = lengths.new_zeros(len(different)).scatter(0, places, lengths)
            vectors = self.model.embed_texts(different, longest)[places]
            return {"variants": vectors.unflatten(0, (len(batch), -1))}

        found = run.map(embed, [view], source)
        texts = [source[row].captions(config.role)[0] for row in range(len(source))]
        same = np.unique(texts, return_inverse=True)[1]
        run.store("train", {**found, "same_text": same})

    # ---- tasks

    def _of_reports(self) -> Sequence[View]:
        """The views of volumes with reports to be written."""
        config = self.config
        model: Any = self.model
        report = ReportView(
            tokenizer=model.words,
            length=model.room,
            prompt=config.prompt,
            role=config.role,
            side=config.side,
            sides=self.sides,
        )
        return self.volume_view((), config.phase), report

    def _task(self) -> Objective:
        config = self.config
        trained = {"": 0.0, "model.encoder.image": 1.0, "model.head": 1.0}
        if config.task == "diagnosis":
            views: Sequence[View] = (LabelView(label=config.label, name="class", needed=True),)
        else:
            views = (
                LabelView(label=config.time, name="time", needed=True, real=True),
                LabelView(label=config.event, name="event", needed=True),
            )

        def encode(batch: Batch) -> Features:
            return {"output": self.model(batch.image.flat)}

        def loss(features: Features, batch: Batch) -> Losses:
            output = features["output"]
            if config.task == "survival":
                return Losses({"cox": cox(output, batch.fields["time"], batch.fields["event"])})
            labels = batch.fields["class"].long()
            accuracy = (output.argmax(1) == labels).float().mean()
            return Losses({"classes": F.cross_entropy(output, labels)}, {"accuracy": accuracy})

        volume = self.volume_view((), config.phase)
        return Objective(Stage(lr_scale=trained), lambda: (volume, *views), encode, loss)


def _fit_depth(encoder: DualEncoder) -> None:
    """Scale volumes to as many slices as the tower reads: random crops in depth are of the alignment."""
    tower: Any = encoder.image
    before = tower.preprocess
    if isinstance(before, VolumePreprocess):
        tower.preprocess = replace(before, scaled=(before.slices, before.full[1]))


def _classes(source: Source, label: str) -> tuple[str, ...]:
    """The class names of a label; without any, its numbers up to the largest.

    Raises InputError for a label that is no whole number, or has but one class.
    """
    field = source.schema()[f"labels.{label}"]
    names = field.classes
    if not names and field.kind == "int":
        names = tuple(map(str, range(int(labels_of(source, label).max(initial=-1)) + 1)))
    if len(names) < 2:
        raise InputError(
            f"the label {label!r} of {source.name} ({field.kind}) has {len(names)} classes; name one with two at least"
        )
    return names
