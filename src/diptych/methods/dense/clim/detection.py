"""CLIM on a detector that also learns from captions (after Detic, Zhou et al., 2022).

Beside images with boxes a step reads images with captions, in groups. The first `whole` images of a group
are regions by themselves. The others become mosaics, one of each size, whose regions are the tiles and a
few rectangles of several tiles. All are compared with the captions of the batch, and with the last ones
of earlier steps (`captions.caption_bce`):

    L = L_detector + .1 · (regions / images with boxes) · L_captions

With `tags`, names that captions may mention, a region of each tile is also named by those of its captions
(`tags.tag_bce`), at the same weight.

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
from diptych.data.matcher import Matcher
from diptych.data.plan import Fixed, Plan, Shuffled
from diptych.data.tokenizers import pad_batch
from diptych.data.views import ImageView, TextView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.dense.clim.captions import BIAS, caption_bce, composites, numbers_of
from diptych.methods.dense.clim.mosaic import assemble, tile_boxes, unit
from diptych.methods.dense.clim.tags import TagView, tag_bce, tagged_regions
from diptych.methods.families.detection import Detection
from diptych.methods.make import Make
from diptych.models.class_names import check_names, prompt_ids, read_names
from diptych.models.two_stage.proposals import proposed
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
        self.matcher: Matcher | None = None
        self._tag_vectors: Tensor | None = None
        if config.tags:
            self.matcher = Matcher(check_names(read_names(config.tags, "--method.tags")))
            self.tag_bias = nn.Parameter(torch.tensor(BIAS))

    @classmethod
    def resolve_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Replace the name of a file of tags by the names themselves."""
        if not (given := options.get("tags")):
            return options
        return {**options, "tags": read_names(given, "--method.tags")}

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
        role = self.config.role
        tags = () if self.matcher is None else (TagView(matcher=self.matcher, role=role),)
        return (
            SeedView(),
            ImageView(preprocess=Preprocess.from_dict(tiles)),
            TextView(tokenizer=self.make.tokenizer, role=role),
            *tags,
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
        tagged: list[Tensor] = []
        if config.whole:
            whole = assemble(groups[:, : config.whole].flatten(0, 1), 1, self.model.side)
            box = tile_boxes(1).expand(len(whole), 1, 4).to(pixels)
            for each, found in zip((tiles, tagged), self._regions(whole, box, 1), strict=True):
                each.append(found.unflatten(0, (len(groups), -1)).flatten(1, 2))
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
            regions, named = self._regions(mosaics, boxes.to(pixels), side)
            tiles.append(regions[:, : side**2])
            tagged.append(named)
            places = slice(start, start + count)
            rows[:, places] = regions[:, side**2 :].to(rows)
            held = torch.stack([each for _, each in drawn])
            members[:, places, start:stop] = held.to(members)
            start = stop
        texts = self.model.encoder.embed_texts(*batch.texts["main"].flat)
        features = {
            "tile": torch.cat(tiles, dim=1).flatten(0, 1),
            "composite": rows.flatten(0, 1),
            "members": members.flatten(0, 1),
            "caption": texts.detach(),
        }
        if self.matcher is not None:
            named = torch.cat(tagged, dim=1).flatten(0, 1)
            wanted = batch.fields["tags"]
            features["tags"] = tag_bce(named, self._tags(named), wanted, self.tag_bias)
        return features

    def _regions(self, x: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """The vectors (B, R, E) of boxes (B, R, 4) of mosaics, and of the regions (B, s², E) of their tiles
        that tags name; none without tags."""
        maps = self.model.maps(x)
        if self.matcher is None:
            found = self.model.region_vectors(x, boxes, maps)
            return found, found[:, :0]
        with torch.no_grad():
            centre, sides = self.model.proposals(maps)
            counts = [each.shape[2] * each.shape[3] for each in maps]
            offered = proposed(centre, sides, counts, self.model.config.proposals)
            own = tagged_regions([each for each, _ in offered], tile_boxes(side))
        both = torch.cat([boxes, own.to(boxes)], dim=1)
        found = self.model.region_vectors(x, both, maps)
        return found[:, : boxes.shape[1]], found[:, boxes.shape[1] :]

    def _tags(self, like: Tensor) -> Tensor:
        """The vectors (C, E) of the names, by the frozen text tower."""
        if self._tag_vectors is None:
            assert self.matcher is not None
            tokenizer = self.make.tokenizer
            rows = prompt_ids(tokenizer, self.config.template, self.matcher.names)
            ids, lengths = (each.to(like.device) for each in pad_batch(rows, tokenizer))
            with torch.no_grad():
                self._tag_vectors = self.model.encoder.embed_texts(ids, lengths)
        return self._tag_vectors.to(like)

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
        tags = {"tags": weight * features["tags"].sum()} if "tags" in features else {}
        return replace(
            found,
            terms={**found.terms, "captions": weight * losses.sum(), **tags},
            carry={**found.carry, "captions": captions.detach(), "numbers": numbers},
        )

    @torch.no_grad()
    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        """Keep the captions in place of the oldest ones."""
        super().after_step(carry, at)
        for kept, new in ((self.queue, carry["captions"]), (self.queue_numbers, carry["numbers"])):
            kept.copy_(torch.cat([kept, new.to(kept)])[-len(kept) :])
