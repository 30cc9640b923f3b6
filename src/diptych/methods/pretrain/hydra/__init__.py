"""Hydra, renamed SimLAP: Rethinking Positive Pairs in Contrastive Learning (2024).

Images of any two classes are positives of each other, in a subspace that a learned gate chooses for
the two. With labels y_i, the class p_i of the partner of anchor i, and the gate G_i of (y_i, p_i):

    S_ij = cos( z_i * G_i, z'_j * G_i ) / tau
    L = mean over i and the j of class p_i of log( exp S_ij + n_i ) - S_ij

n_i sums exp S_ij over keys of neither class. z (k) is behind a projector that ends in a layer norm:
a batch norm keeps gates from closing. Inference: the tower before the projector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from diptych.data.batch import Batch
from diptych.data.plan import AtLeast, OneGroup, Plan, Shuffled
from diptych.data.sample import Source, labels_of
from diptych.data.views import LabelView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Recipe, Stage
from diptych.methods.families.image_only import PAPER, SMALL, ContrastiveConfig, ImageOnly
from diptych.methods.make import Make
from diptych.methods.pretrain.hydra.gate import Form as GateForm
from diptych.methods.pretrain.hydra.gate import PairGate, bernoulli_entropy
from diptych.methods.pretrain.hydra.loss import (
    Form,
    Pairs,
    draw_partners,
    gated_contrast,
    similarities,
)
from diptych.methods.pretrain.hydra.model import GatedEncoder
from diptych.objectives import pair_losses
from diptych.spec import Count, NetworkSpec, NotNegative, ShareBelowOne, Width
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.heads import head
from diptych.towers.nn.parts import Momentum, Temperature, cosine_momentum

card = {
    "title": "Rethinking Positive Pairs in Contrastive Learning",
    "year": 2024,
    "kind": "method",
    "entry": "Hydra",
    "provenance": "code",
}

Variant = Literal["simlap", "supervised", "moco", "moco_early"]


@dataclass(frozen=True, kw_only=True)
class Config(ContrastiveConfig):
    """Options of the pairs, the gate and the loss.

    - `variant` says what the keys are, and what is added: "simlap", the other view; "supervised", the
      anchors themselves, of `repeats` views of each image, and the cross-entropy of a linear classifier
      on h, which does not reach the tower; "moco", a momentum copy's projection of the other view,
      which a `predictor` predicts, and the instance branch, (L_ins + beta L) / (1 + beta);
      "moco_early", L + alpha L_ins + beta L_class, where L_class is L with p = y.
    - `label` is the label of the classes, `pairs` how partners are drawn: "arbitrary", from the classes
      of the batch, "identical" or "distinct", from all other classes.
    - `min_per_class` is the smallest number of images of a class in a batch that contains it. `group` is
      a label of which each batch has one value.
    - `form` is how similarities are computed (`loss.similarities`). `learn_tau` learns `tau` too.
      `symmetric` adds the loss with the views exchanged.
    - The gate has `gate_width` numbers a class and a layer of `gate_hidden`; without `fuse` it is the
      product of the gates of both classes. `gate` is how it is drawn in training (`gate.PairGate`).
      `gamma` is the weight of its entropy.
    - `momentum` is that of the copy at the start.
    """

    projector: NetworkSpec = "mlp:hidden=2048:last_norm=layer"
    variant: Variant = "simlap"
    label: str = "class"
    pairs: Pairs = "arbitrary"
    min_per_class: Count = 1
    group: str | None = None
    form: Form = "filtered"
    learn_tau: bool = False
    symmetric: bool = False
    gate: GateForm = "soft"
    gate_width: Width = 512
    gate_hidden: Width = 1024
    fuse: bool = True
    gamma: NotNegative = 0.0
    repeats: Count = 1
    predictor: NetworkSpec = "mlp:hidden=4096"
    momentum: ShareBelowOne = 0.99
    alpha: NotNegative = 0.0
    beta: NotNegative = 1.0

    def __post_init__(self) -> None:
        for given, name, variant in (
            (self.repeats > 1, "repeats", "supervised"),
            (self.symmetric, "symmetric", "simlap"),
            (self.alpha > 0, "alpha", "moco_early"),
        ):
            if given and self.variant != variant:
                raise InputError(
                    f"{name} is an option of variant={variant}, and the variant is {self.variant}; leave it out"
                )
        if self.learn_tau and self.form == "raw":
            raise InputError("form=raw has no temperature; leave out learn_tau")
        if self.min_per_class > 1 and self.group is not None:
            raise InputError(
                "min_per_class and group are two ways to fill a batch; give one of them"
            )

    @property
    def copied(self) -> bool:
        """Whether keys come from a momentum copy."""
        return self.variant in ("moco", "moco_early")


class Hydra(ImageOnly):
    """Contrast of arbitrary pairs of classes through the gate of each pair."""

    Config = Config
    values: Tensor

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data {data} --suite probe",
            "info {run}",
            "embed {run} SOURCE --out EMB",
        )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        dim = self.model.embed_dim
        form = "exp" if config.learn_tau else "fixed"
        self.scale = Temperature(1 / config.tau, form=form, clamp=(1.0, 100.0))
        if config.copied:
            self.predictor = head(config.predictor, dim, dim, "prediction")
            self.slow = Momentum(self.model, config.momentum)
        # of the gate and the classifier, which are built when the classes are known
        self.seed = int(torch.randint(2**31, (), device="cpu"))
        self._hold((), np.zeros(0, np.int64))

    def build(self, make: Make) -> DualEncoder:
        """Return the tower with a new projector, also where training starts from a model, whose
        projection has no layer norm behind it."""
        scale = Temperature(1.0, form="fixed")
        return DualEncoder(
            make.image(),
            None,
            make.embed_dim,
            logit_scale=scale,
            image_projection=self.config.projector,
        )

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Find the classes of the label, those that have samples. Raises InputError if there are fewer
        than two."""
        label = self.config.label
        source = sources["train"]
        field = source.schema().get(f"labels.{label}")
        if field is None:
            return  # reported with all other missing fields
        if field.kind != "int":
            raise InputError(
                f"labels.{label} of {source.name} is a number that measures, and no class; name another with "
                "--method.label"
            )
        values = np.unique(labels_of(source, label))
        values = values[values >= 0]
        if len(values) < 2:
            raise InputError(
                f"the samples of {source.name} have {len(values)} classes by labels.{label}, and pairs of classes need "
                "two at least; name another label with --method.label, or give more data"
            )
        named = dict(enumerate(field.classes))
        names = [named.get(int(value), str(value)) for value in values]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._hold(names, values)

    def _hold(self, names: Sequence[str], values: np.ndarray) -> None:
        """Build what depends on the classes, of these names and values of the label."""
        config = self.config
        self.names = tuple(names)
        device = next(self.model.parameters()).device
        with torch.device(device):
            self.register_buffer("values", torch.as_tensor(values), persistent=False)
            self.gate = PairGate(
                len(names),
                self.model.embed_dim,
                width=config.gate_width,
                hidden=config.gate_hidden,
                fuse=config.fuse,
                form=config.gate,
            )
            if config.variant == "supervised" and names:
                self.classifier = nn.Linear(self.model.image.width, len(names))

    def stages(self) -> Sequence[Stage]:
        config = self.config
        plan: Plan = Shuffled()
        if config.min_per_class > 1:
            plan = AtLeast(config.label, config.min_per_class)
        if config.group is not None:
            plan = OneGroup(config.group, every=True)
        return (Stage(plan=plan),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        (image,) = super().views(stage, stream)
        if config.variant == "supervised":
            image = replace(image, count=config.repeats)  # type: ignore[type-var]  # an ImageView
        return image, LabelView(label=config.label, name="label", needed=True)

    def encode(self, batch: Batch, at: At) -> Features:
        config = self.config
        pooled = self.model.encode_image(batch.image.flat).pooled
        z = self.model.project_image(pooled)
        found = {"views": self.predictor(z) if config.copied else z}
        if config.copied:
            with torch.no_grad():
                found["keys"] = self.slow.module.project_image(  # type: ignore[operator]
                    self.slow.module.encode_image(batch.image.flat).pooled  # type: ignore[operator]
                )
        if config.variant == "supervised":
            found["logits"] = self.classifier(pooled.detach())
        return {name: value.unflatten(0, (len(batch), -1)) for name, value in found.items()}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        config = self.config
        label: Any = batch.fields["label"]
        labels = torch.searchsorted(self.values, label)
        views = features["views"]
        if config.variant == "supervised":
            labels = labels.repeat_interleave(views.shape[1])
        partners = draw_partners(labels, config.pairs, len(self.names))
        gate = self.gates_of(labels, partners)
        match config.variant:
            case "simlap":
                one, other = views.unbind(1)
                sides = [(one, other), (other, one)][: 1 + config.symmetric]
                terms = {"gated": self.contrast(sides, gate, labels, partners)}
                logged = {}
            case "supervised":
                flat = views.flatten(0, 1)
                logits = features["logits"].flatten(0, 1)
                terms = {
                    "gated": self.contrast([(flat, flat)], gate, labels, partners),
                    "classes": cross_entropy(logits, labels),
                }
                logged = {"accuracy": (logits.argmax(1) == labels).float().mean()}
            case _:
                (q1, q2), (k1, k2) = (features[name].unbind(1) for name in ("views", "keys"))
                terms = self._against_copy([(q1, k2), (q2, k1)], gate, labels, partners)
                logged = {}
        entropy = bernoulli_entropy(gate).mean()
        if config.gamma:
            terms["entropy"] = config.gamma * entropy
        logged |= {"gate_open": gate.sum(1).mean().detach(), "gate_entropy": entropy.detach()}
        return Losses(terms, logged)

    def _against_copy(
        self, sides: Sequence[tuple[Tensor, Tensor]], gate: Tensor, labels: Tensor, partners: Tensor
    ) -> dict[str, Tensor]:
        """The terms with keys of the momentum copy."""
        config = self.config
        gated = self.contrast(sides, gate, labels, partners)
        scale = self.scale()
        instance = torch.stack(
            [pair_losses(normalize(q, dim=1), normalize(k, dim=1), scale).mean() for q, k in sides]
        ).mean()
        if config.variant == "moco":
            whole = 1 + config.beta
            return {"instance": instance / whole, "gated": config.beta * gated / whole}
        own = self.contrast(sides, self.gates_of(labels, labels), labels, labels)
        return {"gated": gated, "instance": config.alpha * instance, "class": config.beta * own}

    def gates_of(self, labels: Tensor, partners: Tensor) -> Tensor:
        """The gate (B, k) of each anchor, from the numbers of its class and of its partner's."""
        return self.gate(labels, partners)

    def contrast(
        self, sides: Sequence[tuple[Tensor, Tensor]], gate: Tensor, labels: Tensor, partners: Tensor
    ) -> Tensor:
        """The mean of the gated loss over pairs of anchors and keys (B, k)."""
        found = [
            gated_contrast(
                similarities(anchors, keys, gate, self.scale(), self.config.form), labels, partners
            )
            for anchors, keys in sides
        ]
        return torch.stack(found).mean()

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        if self.config.copied:
            self.slow.update(cosine_momentum(self.config.momentum, at.progress))

    def deliver(self) -> GatedEncoder:
        return GatedEncoder(self.model.image, self.gate, self.names, self.config.label)


Hydra.presets = {
    "small": replace(
        SMALL,
        config={
            **SMALL.config,
            "projector": "mlp:hidden=256:last_norm=layer",
            "gate_width": 64,
            "gate_hidden": 128,
        },
    ),
    # SimLAP of FastSSL, whose rate is constant after the warm-up, with the tower of the baselines
    "paper": replace(
        PAPER,
        config={"projector": "mlp:hidden=2048:last_norm=layer", "learn_tau": True, "form": "fast"},
        embed_dim=256,
        recipe=Recipe(
            optimizer="adamw",
            lr=1e-4,
            weight_decay=0.05,
            schedule="constant",
            warmup=0.01,
            epochs=1000,
            batch_size=512,
            precision="bfloat16",
        ),
    ),
}
