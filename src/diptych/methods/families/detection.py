"""A two-stage detector in training: boxes of some classes, which it learns to propose, name and refine
(DITO, Kim et al., 2023).

    L = L_centre + w L_sides  +  L_names + L_moves  +  L_masks

The first two are those of the proposals (`proposals.proposal_terms`), the next two those of the boxes
(`boxes.box_terms`), the last one that of the masks of objects (`masks.mask_terms`), if there is a branch
for them; each is a mean over what was chosen in the whole batch.

Dimensions: B images, R boxes of an image, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.boxes import things
from diptych.data.views import RegionView, View
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Stage
from diptych.methods.make import Make
from diptych.models.class_names import check_names
from diptych.models.two_stage.boxes import Chosen, box_terms, chosen
from diptych.models.two_stage.detector import DetectorConfig, RegionDetector
from diptych.models.two_stage.masks import MASK_SIDE, mask_targets, mask_terms
from diptych.models.two_stage.proposals import proposal_terms, proposed
from diptych.models.two_stage.pyramid import pool_levels
from diptych.models.two_stage.sampling import SeedView
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature, freeze


class Detection(Method):
    """A two-stage detector that names boxes by their texts."""

    adapts = True
    model: RegionDetector

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(logit_scale=Temperature(1 / 0.07, clamp=(1.0, 100.0)))
        self.model = begun(encoder, make, config.template, config.detector())
        encoder = self.model.encoder
        freeze(encoder.text, encoder.text_projection, encoder.logit_scale)
        freeze(encoder.image_projection, encoder.image_pooler, getattr(encoder.image, "pool", None))
        self.classes: tuple[str, ...] = ()

    def setup(self, sources: Mapping[str, Any]) -> None:
        """Take the classes from the boxes of the data. Raises InputError if these have no names."""
        source = sources["train"]
        if "boxes" not in source.schema():  # which is reported with all other missing fields
            return
        self.classes = source.schema()["boxes"].classes
        self.model.trained = check_names(things(source))
        self.model.set_classes(self.model.trained)

    def stages(self) -> Sequence[Stage]:
        return (Stage(min_batch=1, lr_scale={"model.encoder.image": self.config.backbone_rate}),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        return (
            SeedView(),
            RegionView(
                preprocess=self.model.image.preprocess,
                max_boxes=config.max_boxes,
                classes=self.classes,
                names=self.model.trained,
                flip=config.flip,
                jitter=config.jitter,
                masks=min(MASK_SIDE, self.model.side) if self.model.finds_masks else None,
            ),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        model = self.model
        config = model.config
        x = batch.image.flat
        there = batch.fields["regions.there"]
        truth = [own[held] for own, held in zip(batch.fields["regions"], there, strict=True)]
        numbers = [
            own[held] for own, held in zip(batch.fields["regions.classes"], there, strict=True)
        ]
        maps = model.maps(x)
        centre, sides = model.proposals(maps)
        seeds = batch.fields["seed"]
        of_proposals = proposal_terms(centre, sides, maps, truth, seeds, config.proposals)
        counts = [each.shape[2] * each.shape[3] for each in maps]
        offered = [boxes for boxes, _ in proposed(centre, sides, counts, config.proposals)]
        given = chosen(offered, truth, numbers, seeds, len(model.classes), config.boxes)
        hidden = model.head.hidden(pool_levels(maps, given.boxes, given.image))
        logits = model.named(hidden, model.class_vectors())
        moves = at_least_float32(model.refine(hidden))
        found = of_proposals | box_terms(logits, moves, given, len(x), config.boxes)
        if not model.finds_masks:
            return found
        return found | terms_of_masks(model.mask_head, maps, given, batch, len(model.classes))

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        def mean(name: str, count: str) -> Tensor:
            return features[name].sum() / features[count].sum().clamp(min=1)

        weight = self.model.config.proposals.box_weight
        masks = {"masks": mean("masks", "masks_count")} if self.model.finds_masks else {}
        return Losses(
            {
                "centre": mean("centre", "centre_count"),
                "sides": weight * mean("sides", "sides_count"),
                "names": mean("names", "boxes_count"),
                "moves": mean("moves", "boxes_count"),
                **masks,
            },
            {"accuracy": mean("hits", "boxes_count")},
        )


class Masks(Protocol):
    """What finds the masks of objects: a `MaskBranch`, or one that reads the classes too."""

    def of_classes(
        self, maps: Sequence[Tensor], boxes: Tensor, image: Tensor, classes: Tensor
    ) -> Tensor:
        """Return the logits (K, S, S) of the masks of boxes (K, 4) of these `classes` (K,)."""
        ...


def terms_of_masks(
    branch: Masks, maps: Sequence[Tensor], given: Chosen, batch: Batch, classes: int
) -> dict[str, Tensor]:
    """The losses of the masks of those chosen boxes that are of objects, as `mask_terms` gives them."""
    held = given.classes < classes
    boxes = given.boxes[held]
    image = given.image[held]
    logits = branch.of_classes(maps, boxes, image, given.classes[held])
    masks = batch.fields["regions.masks"][image, given.objects[held]]
    targets = mask_targets(masks, given.truth[held], boxes)
    return mask_terms(logits, targets, image, len(batch.fields["regions"]))


def begun(
    encoder: DualEncoder, make: Make, template: str, config: DetectorConfig
) -> RegionDetector:
    """A new module, with the pyramid and the head of the given model if it has them.

    Raises InputError for a model that does not read texts, and if the given head has another size.
    """
    if encoder.text is None or make.words is None:
        raise InputError(
            "a detector compares regions with texts, and this model has no text tower or came without its tokenizer; "
            "start from one of images and texts"
        )
    model = RegionDetector(encoder, make.words, template, config)
    if isinstance(given := make.delivered, RegionDetector):
        if (given.config.pyramid, given.config.width) != (config.pyramid, config.width):
            raise InputError(
                f"the given model has a pyramid of {given.config.pyramid} channels and a head {given.config.width} "
                f"wide; set --method.pyramid {given.config.pyramid} and --method.width {given.config.width}"
            )
        own = model.state_dict()
        parts = given.state_dict()
        model.load_state_dict(
            {name: parts[name] if _kept(name) and name in parts else own[name] for name in own}
        )
    return model


def _kept(name: str) -> bool:
    """Whether a weight of the given module goes on to be trained."""
    return not name.startswith(("encoder.", "before."))
