"""CLIM on a detector that also learns from captions (after Detic, Zhou et al., 2022).

Beside images with boxes a step reads images with captions, in groups. The first `whole` images of a group
are regions by themselves. The others become mosaics, one of each size, whose regions are the tiles and a
few rectangles of several tiles. All are compared with the captions of the batch, and with the last ones
of earlier steps (`captions.caption_bce`):

    L = L_detector + .1 · (regions / images with boxes) · L_captions

Dimensions: B images with captions, G a group, Q captions kept, E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diptych import collectives
from diptych.data.batch import Batch
from diptych.data.images import Preprocess
from diptych.data.plan import Fixed, Plan, Shuffled
from diptych.data.views import ImageView, TextView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.dense.clim.captions import BIAS, caption_bce, composites, numbers_of
from diptych.methods.dense.clim.mosaic import assemble, tile_boxes, unit
from diptych.methods.families.detection import Detection
from diptych.methods.make import Make
from diptych.models.two_stage.sampling import SeedView

CAPTIONS = "captions"
"""The stream of images with captions."""


class CaptionedDetection(Detection):
    """A two-stage detector that learns from boxes, captions and mosaics."""

    # mosaics hold several samples; groups of a fixed size keep ranks alike, pieces would cut them
    chunkable = False
    queue: Tensor
    queue_numbers: Tensor

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.group = config.whole + unit(config.choices)
        self.tile = config.tile or self.model.side // 2
        self.bias = nn.Parameter(torch.tensor(BIAS))
        E = self.model.encoder.embed_dim
        self.register_buffer("queue", torch.zeros(config.queue, E))
        self.register_buffer("queue_numbers", torch.full((config.queue,), -1))

    def stages(self) -> Sequence[Stage]:
        [stage] = super().stages()
        least = self.group * collectives.world_size()
        plans: dict[str, Plan] = {"train": Shuffled(), CAPTIONS: Fixed(Shuffled(), least)}
        share = {"train": self.config.labelled / self.group, CAPTIONS: 1.0}
        return (
            replace(stage, streams=("train", CAPTIONS), plan=plans, share=share, min_batch=least),
        )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        if stream == "train":
            return super().views(stage, stream)
        tiles = {**self.model.image.preprocess.to_dict(), "size": self.tile, "resize": "squash"}
        return (
            SeedView(),
            ImageView(preprocess=Preprocess.from_dict(tiles)),
            TextView(tokenizer=self.make.tokenizer, role=self.config.role),
        )

    def encode(self, batch: Any, at: At) -> Features:
        found = super().encode(batch["train"], at)
        return found | self._encode_captions(batch[CAPTIONS])

    def _encode_captions(self, batch: Batch) -> Features:
        """The regions (B, E) of tiles and whole images, and of rectangles (B, E), which belong to the first
        tiles of their mosaic, with the images (B, G) of the group that these have."""
        config = self.config
        pixels = self.model.encoder.image.pixels(batch.image.flat)
        if len(pixels) % self.group:
            raise InputError(
                f"a batch of {len(pixels)} images with captions is not made of groups of {self.group}; give "
                "--batch-size as a multiple of it, for each rank"
            )
        groups = pixels.unflatten(0, (-1, self.group))
        seeds = batch.fields["seed"].unflatten(0, (-1, self.group))
        tiles: list[Tensor] = []
        if config.whole:
            whole = groups[:, : config.whole].flatten(0, 1)
            box = tile_boxes(1).expand(len(whole), 1, 4).to(pixels)
            tiles.append(self._regions(assemble(whole, 1, self.model.side), box))
            tiles[0] = tiles[0].unflatten(0, (len(groups), -1)).flatten(1, 2)
        rows = groups.new_zeros(*groups.shape[:2], self.model.encoder.embed_dim)
        members = groups.new_zeros(len(groups), self.group, self.group)
        start = config.whole
        for side in config.choices:
            stop = start + side**2
            mosaics = assemble(groups[:, start:stop].flatten(0, 1), side, self.model.side)
            drawn = [
                composites(side, config.composites, int(seed)) for seed in seeds[:, start].tolist()
            ]
            count = len(drawn[0][0])
            boxes = torch.stack([torch.cat([tile_boxes(side), each]) for each, _ in drawn])
            regions = self._regions(mosaics, boxes.to(pixels))
            tiles.append(regions[:, : side**2])
            places = slice(start, start + count)
            rows[:, places] = regions[:, side**2 :].to(rows)
            held = torch.stack([each for _, each in drawn])
            members[:, places, start:stop] = held.to(members)
            start = stop
        texts = self.model.encoder.embed_texts(*batch.texts["main"].flat)
        return {
            "tile": torch.cat(tiles, dim=1).flatten(0, 1),
            "composite": rows.flatten(0, 1),
            "members": members.flatten(0, 1),
            "caption": texts.detach(),
        }

    def _regions(self, x: Tensor, boxes: Tensor) -> Tensor:
        return self.model.region_vectors(x, boxes)

    def loss(self, features: Features, batch: Any, at: At) -> Losses:
        found = super().loss(features, batch["train"], at)
        captions = features["caption"]
        numbers = numbers_of(batch[CAPTIONS].keys).to(captions.device)
        kept = self.queue_numbers >= 0
        known = torch.cat([captions, self.queue[kept].to(captions)])
        same = numbers[:, None] == torch.cat([numbers, self.queue_numbers[kept]])[None]
        wanted = [same]
        regions = [features["tile"]]
        members = features["members"]
        if (held := members.sum(1) > 0).any():
            # a group's images follow each other
            own = members.unflatten(0, (-1, self.group))
            groups = same.to(members).unflatten(0, (-1, self.group))
            wanted.append(((own @ groups) > 0).flatten(0, 1)[held])
            regions.append(features["composite"][held])
        rows = torch.cat(regions)
        losses = caption_bce(rows, known, torch.cat(wanted), self.bias)
        weight = self.config.caption_weight / max(1, len(batch["train"]))
        return replace(
            found,
            terms={**found.terms, "captions": weight * losses.sum()},
            carry={**found.carry, "captions": captions.detach(), "numbers": numbers},
        )

    @torch.no_grad()
    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        """Keep the captions in place of the oldest ones."""
        super().after_step(carry, at)
        for kept, new in ((self.queue, carry["captions"]), (self.queue_numbers, carry["numbers"])):
            kept.copy_(torch.cat([kept, new.to(kept)])[-len(kept) :])
