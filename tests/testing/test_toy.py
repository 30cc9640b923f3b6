"""The toy source: fields of every kind, and a method that reads them all under the contract suite."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from diptych.data.plan import Grouped
from diptych.data.sample import Sample
from diptych.data.views import (
    ArrayView,
    EditsView,
    HiddenView,
    LabelView,
    MaskedTextView,
    RegionView,
)
from diptych.methods.base import Losses, Preset, Recipe, Stage
from diptych.methods.pretrain.clip import CLIP
from diptych.testing import Toy
from diptych.testing import check as suite
from diptych.testing.subject import Subject

FIELDS = (
    "images.main",
    "texts.caption",
    "masks.class",
    "arrays.old",
    "edits",
    "boxes",
    "labels.y",
    "labels.score",
)


def test_fields_of_every_kind_belong_to_the_drawing():
    toy = Toy(40, FIELDS, floats=["score"], shapes={"old": (3, 4)})
    schema = toy.schema()
    assert {name: field.kind for name, field in schema.items()} == {
        "images.main": "image",
        "texts.caption": "text",
        "masks.class": "mask",
        "arrays.old": "array",
        "edits": "edit",
        "boxes": "box",
        "labels.y": "int",
        "labels.score": "float",
    }
    assert schema["masks.class"].classes == ("ground", "drawing")
    sample = toy[9]
    assert sample.captions() == ["a orange square on the left"]
    assert sample.arrays["old"].shape == (3, 4)
    assert sample.labels == {"y": 1, "score": 9 / 40}
    assert toy.labels("score")[9] == 9 / 40
    image = np.array(sample.images["main"].decode()).astype(int)
    mask = np.array(sample.masks["class"].decode())
    drawn = np.abs(image - image[0, 0]).sum(2) > 0
    assert drawn.sum() > 60
    assert (mask[drawn] == 1).mean() > 0.8
    x0, y0, x1, y1 = sample.boxes[0].xyxy
    assert (mask[round(y0) : round(y1), round(x0) : round(x1)] == 1).all()
    assert [box.text for box in sample.boxes] == [*sample.captions(), "the left", ""]


def test_edits_answer_the_question_of_their_sample_otherwise():
    sample = Toy(4, ["images.main", "texts.question", "texts.answer", "edits"])[3]
    [question] = sample.captions("question")
    for edit in sample.edits:
        assert edit.captions("question") == [question]
        assert edit.captions("answer") == edit.captions() != sample.captions("answer")
    assert Toy(4, ["texts.answer", "edits"])[3].edits[0].captions("question") == []


def test_edits_change_what_their_kind_says():
    sample = Toy(40, FIELDS)[9]
    texts = {edit.kind: edit.captions()[0] for edit in sample.edits}
    assert texts == {
        "recolour": "a cyan square on the left",
        "replace": "a orange triangle on the left",
        "move": "a orange square on the right",
    }
    own = np.array(sample.images["main"].decode())
    for edit in sample.edits:
        assert not np.array_equal(np.array(edit.images["main"].decode()), own)


@dataclass(frozen=True, kw_only=True)
class MaskView:
    """The share of the image that is drawing."""

    reads = ("masks.class",)
    gives = ("fields.drawn",)

    def __call__(self, sample: Sample, rng: Any, progress: float | None) -> dict[str, Any]:
        mask = np.array(sample.masks["class"].decode())
        return {"fields.drawn": torch.tensor(float((mask == 1).mean()))}


class Everything(CLIP):
    """Learns pairs against their edits, restores masked ids, and reads all other kinds of fields."""

    presets = {  # noqa: RUF012
        "small": Preset(
            image="vit:image_size=32:patch=16:width=128:depth=1:heads=2:mask_token=true",
            text="text:width=128:depth=1:heads=2",
            tokenizer="bpe:special=mask",
            recipe=Recipe(lr=4e-3, optimizer="muon"),
        ),
    }
    find_unused_parameters = True

    def __init__(self, config: Any, make: Any):
        super().__init__(config, make)
        self.words = torch.nn.Linear(self.model.text.width, make.words.vocab_size)
        self.regress = torch.nn.Linear(8, 1)

    def stages(self):
        return (Stage(plan=Grouped("y", max_samples=4, score="score")),)

    def views(self, stage, stream="train"):
        squash = self.model.image.preprocess
        regions = RegionView(
            preprocess=type(squash)(size=squash.size, resize="squash"),
            max_boxes=3,
            tokenizer=self.make.tokenizer,
        )
        return (
            regions,
            *super().views(stage)[1:],
            MaskedTextView(tokenizer=self.make.tokenizer, name="masked", rate=0.3),
            EditsView(max_edits=3, preprocess=squash, tokenizer=self.make.tokenizer),
            HiddenView(grid=(2, 2), share=0.5),
            ArrayView(array="old", shape=(2, 4)),
            LabelView(label="score", real=True),
            LabelView(label="y"),
            MaskView(),
        )

    def parts(self):
        return {"all": self.encode}

    def encode(self, batch, at):
        found = super().encode(batch, at)
        masked = batch.texts["masked"]
        tokens = self.model.text(*masked.flat).tokens
        losses = cross_entropy(
            self.words(tokens).transpose(1, 2),
            masked.marks[:, 0],
            ignore_index=-1,
            reduction="none",
        )
        count = len(batch)
        edited = self.model.embed_texts(*batch.texts["edits"].flat)
        regions = self.model.embed_texts(*batch.texts["regions"].flat)
        there = batch.fields["regions.there"][..., None]
        boxes = batch.fields["regions"].mean(-1, keepdim=True)
        old = self.regress(batch.fields["old"].flatten(1))[:, 0]
        hidden = self.model.image(batch.image.flat, hidden=batch.fields["main.hidden"])
        return {
            **found,
            "edited": edited.view(count, -1, edited.shape[-1]),
            "regions": (regions.view(count, -1, regions.shape[-1]) * there * (1 + boxes)).sum(1),
            "restored": losses.sum(1),
            "masked": (masked.marks[:, 0] >= 0).sum(1),
            "error": (old - batch.fields["score"] - batch.fields["drawn"]).square(),
            "hidden": hidden.pooled.flatten(1),
        }

    def loss(self, features, batch, at):
        assert batch.fields["y"].shape == batch.fields["score"].shape
        terms = dict(super().loss(features, batch, at).terms)
        text = torch.nn.functional.normalize(features["text"], dim=-1)
        own = (text * features["regions"]).sum(-1)
        wrong = torch.einsum("bd,bkd->bk", text, features["edited"])
        terms["edits"] = torch.logsumexp(wrong - 1, 1).mean() - 0.1 * own.mean()
        terms["restored"] = features["restored"].sum() / features["masked"].sum().clamp(min=1)
        terms["error"] = features["error"].mean()
        terms["hidden"] = 1e-3 * features["hidden"].square().mean()
        return Losses(terms)


def test_the_suite_runs_a_method_that_reads_every_kind_of_field(two):
    subject = Subject(Everything)
    suite.encode_mixes_no_samples(subject)
    suite.loss_changes_no_state(subject)
    suite.every_parameter_learns(subject)
    suite.cached_gradients_are_the_whole_batchs(subject)
    suite.missing_field_is_refused(subject)
    suite.saved_model_loads(subject)
    suite.resume_is_exact(subject)
    suite.two_ranks_train_as_one(subject, two)
