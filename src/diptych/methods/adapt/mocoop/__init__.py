"""MoCoOp: Mixture of Prompt Learning for Vision Language Models (2024; Frontiers in AI 2025).

Templates come in groups, such as styles. Each group has a soft prompt, initialised as the group's
first template, and a router on the image mixes the class embeddings of the k most likely groups:

    t_gc = unit(text(prompt_gc) + w),   a = softmax of the k largest R x,   m_c(x) = Σ_g a_g t_gc, not made unit again
    L = CE(s <x, m_c(x)>, y) + 5 · mean_gc CE(<t_gc, p_gc'>, c) + CE(R x, softmax(q + 10 on its k largest))

p_gc is the mean direction of class c in the fixed templates of group g, q_g = <x, p_gy>. The text
loss has no temperature, as published. The text loss may also cover further names than the classes
(`names`): those of novel classes, if they are known. The norms of the image tower's blocks are
trained too, at a tenth of the rate.

[choice] The final full stop of a template stays in soft prompts as in hard ones; the gate's target
carries no gradient. Inference: router, mixture, argmax, with any names; no label is needed. The
paper's text was not available, the published code was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from diptych.data.batch import Batch
from diptych.data.templates import template_groups
from diptych.methods.adapt.mocoop.mixture import Mixture, block_norms
from diptych.methods.adapt.mocoop.routing import gate_loss, grouped_texts
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, LabelConfig
from diptych.spec import Count, NotNegative, Positive
from diptych.towers.dual import DualEncoder

card = {
    "title": "Mixture of Prompt Learning for Vision Language Models",
    "year": 2024,
    "kind": "method",
    "entry": "MoCoOp",
    "provenance": "code",
    "abilities": {"route": ""},
}

FEW = 4
"""Images, below which only the groups that the batch selected are encoded, as in the published
code: the texts of the other groups are zeros, which the text loss cannot distinguish."""


@dataclass(frozen=True, kw_only=True)
class Config(LabelConfig):
    """`templates` are the groups: a bank, FILE.json or a mapping. `k` groups are mixed. `text` and
    `gate` weigh the two additional losses; `text_temperature` divides the cosines of the first.
    `names` are further names for training, separated by commas. `norms` is the learning rate of the
    norms of image blocks, as a share; 0 freezes them."""

    templates: Mapping[str, Any] | str = "quality"
    k: Count = 2
    text: NotNegative = 5.0
    gate: NotNegative = 1.0
    text_temperature: Positive | None = None
    names: str = ""
    norms: NotNegative = 0.1


class MoCoOp(Classify):
    """Prompts in groups, mixed by a router."""

    Config = Config
    test_options: ClassVar = {
        "templates": {"one": ["a {}"], "this": ["the {}", "that {}"], "behind": ["{} on a line"]}
    }
    model: Mixture

    @classmethod
    def resolve_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Replace the name of a file or bank by the groups themselves."""
        groups = template_groups(options.get("templates", Config.templates))
        return {
            **options,
            "templates": {name: list(templates) for name, templates in groups.items()},
        }

    def build(self, encoder: DualEncoder) -> Mixture:
        config = self.config
        also = [name.strip() for name in config.names.split(",") if name.strip()]
        options = {"k": config.k, "also": also, "norms": config.norms > 0}
        return Mixture(encoder, self.make.tokenizer, template_groups(config.templates), **options)

    def stages(self) -> Sequence[Stage]:
        norms = block_norms(self.model.image) if self.config.norms else []
        return (
            Stage(
                lr_scale={f"model.encoder.image.{name}": self.config.norms for name in norms},
                min_batch=1,
            ),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        return {"image": self.model.image_features(batch.image.flat)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        """Compute the loss. The texts are encoded here, once for all images: the classes come first
        among all names."""
        model = self.model
        config = self.config
        image = features["image"]
        labels = batch.fields["class"].long()  # type: ignore[union-attr]
        scores = model.router(image)
        texts = self._texts(scores)
        logits = model.mixed(image, scores, texts[:, : len(model.classes)])
        found = super().loss({"logits": logits}, batch, at)
        hard = model.prototypes()
        near = torch.einsum("be,gbe->bg", image, hard[:, labels])
        further = {
            "text": config.text * grouped_texts(texts, hard, config.text_temperature),
            "gate": config.gate * gate_loss(scores, near, config.k),
        }
        return Losses({**found.terms, **further}, found.logged)

    def _texts(self, scores: torch.Tensor) -> torch.Tensor:
        """Return all names in the prompts of all groups, or of those that few images selected (G,
        C+, E)."""
        model = self.model
        if len(scores) >= FEW:
            return model.group_features()
        chosen = scores.topk(model.k, dim=1).indices.unique()
        texts = model.group_features(chosen)
        return texts.new_zeros(len(model.groups), *texts.shape[1:]).index_copy(0, chosen, texts)


MoCoOp.presets = {
    "small": replace(SMALL, config={"templates": "quality"}),
    # The configuration for large batches; the one for single images has lr 0.002 and 10 epochs.
    "paper": replace(
        PAPER,
        config={**PAPER.config, "templates": "quality"},
        recipe=replace(PAPER.recipe, lr=0.032, warmup=0.1, epochs=50, batch_size=32, clip=1.0),
    ),
}
