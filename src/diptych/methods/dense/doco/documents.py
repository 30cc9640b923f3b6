"""The teachers of DoCo: encoders of the objects of a page, which know what is written in each box.

    own        an object is the mean of its pieces' embeddings, its layout, and what the box shows:
               e_n = mean_l mlp(E[t_nl] + P[l]) + X[x0] + X[x1] + Y[y0] + Y[y1] + W[x1 - x0] + H[y1 - y0]
                   + conv(page) pooled in box n
               m = norm(transformer([g; e_1 … e_N])),   g a learned vector and the mean of conv(page)
    LayoutLMv3 pieces and patches by transformers; an object is the mean of its pieces, the page is the
               first token

Coordinates are whole numbers 0 … 1000, rounded half up. Neither has an embedding for the order of the
objects but LayoutLMv3, whose pieces are numbered.

Source of LayoutLMv3: Huang et al. 2022; of the sum of embeddings: Xu et al. 2020 (LayoutLM).

Dimensions: B pages, R objects, L pieces of an object, T pieces of a page, D width, H x W pixels.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.tokenizers import Tokenizer
from diptych.data.tokenizers.hf import from_folder, has_tokenizer
from diptych.errors import InputError, brief
from diptych.methods.make import Make
from diptych.spec import Count, Width, configure, parse
from diptych.towers.hf import stored
from diptych.towers.nn.parts import Frozen
from diptych.towers.nn.transformer import FeedForward, Transformer, init
from diptych.towers.regions import pool_areas

OWN = "layout"
LENT = "hf:"
"""The beginning of the spec of a LayoutLMv3 in a folder."""
UNITS = 1000
"""The largest coordinate."""


class Objects(NamedTuple):
    """The objects of pages: boxes (B, R, 4) as shares, which are real (B, R), the ids (B, R, L) of their
    texts, and which of these are the texts' own (B, R, L)."""

    boxes: Tensor
    there: Tensor
    ids: Tensor
    own: Tensor


def objects_of(batch: Batch, words: Tokenizer) -> Objects:
    """The objects of a batch of `pages.PageView`. A box without area in the page is none."""
    boxes = batch.fields["regions"]
    area = (boxes[..., 2:] > boxes[..., :2]).all(-1)
    texts = batch.texts["regions"]
    ids = texts.ids
    place = torch.arange(ids.shape[-1], device=ids.device)
    own = (place >= len(words.before)) & (place < texts.lengths[..., None] - len(words.after))
    return Objects(boxes, batch.fields["regions.there"] & area, ids, own)


def coordinates(boxes: Tensor) -> Tensor:
    """Boxes (…, 4) of shares as whole numbers 0 … 1000, rounded half up.

    >>> coordinates(torch.tensor([0.0004, 0.0005, 0.5, 1.0]))
    tensor([   0,    1,  500, 1000])
    """
    return (boxes.double() * UNITS + 0.5).floor().clamp(0, UNITS).long()


@dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    """The shape of our teacher, and which of its three embeddings an object has: its text, its layout,
    and what its box shows, by patches of `patch` pixels."""

    width: Width = 128
    depth: Count = 2
    heads: Count | None = None
    patch: Count = 8
    text: bool = True
    layout: bool = True
    visual: bool = True

    def __post_init__(self) -> None:
        if not (self.text or self.layout or self.visual):
            raise InputError("a teacher without text, layout and visual knows nothing; keep one")


class LayoutEncoder(nn.Module):
    """Our teacher, for pages of (H, W) pixels whose texts are split by `words`.

    >>> from diptych.data.tokenizers import build
    >>> words = build("bpe:vocab_size=300:context=8", ["rail damo"])
    >>> teacher = LayoutEncoder(LayoutConfig(width=16, patch=4), words, (8, 8))
    >>> ids = torch.tensor([words.encode(["rail", "damo"])])
    >>> objects = Objects(torch.rand(1, 2, 4), torch.ones(1, 2).bool(), ids, torch.ones_like(ids).bool())
    >>> vectors, there = teacher(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), objects)
    >>> vectors.shape, there
    (torch.Size([1, 3, 16]), tensor([[True, True, True]]))
    """

    def __init__(self, config: LayoutConfig, words: Tokenizer, size: tuple[int, int]):
        super().__init__()
        if any(side % config.patch for side in size):
            raise InputError(
                f"the teacher's patches are of {config.patch} pixels, and pages of {size[0]} x {size[1]} are no whole "
                f"number of them; give another with --method.teacher {OWN}:patch=…"
            )
        D = config.width
        self.config = config
        self.width = D
        self.words = words
        self.page = nn.Parameter(torch.randn(D) * D**-0.5)
        if config.text:
            self.table = nn.Embedding(words.vocab_size, D)
            self.place = nn.Embedding(words.context, D)
            self.mlp = FeedForward(D, 2, "gelu")  # a mean alone would not know the pieces' order
            init(self.mlp, D, 1)
        if config.layout:
            self.x, self.y, self.w, self.h = (nn.Embedding(UNITS + 1, D) for _ in "xywh")
        if config.visual:
            self.patches = nn.Conv2d(3, D, config.patch, config.patch)
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=D**-0.5)
        self.transformer = Transformer(D, config.depth, config.heads)
        self.norm = nn.LayerNorm(D)

    def forward(self, pixels: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
        """Pages (B, 3, H, W) uint8 with R objects -> vectors (B, R + 1, D), that of the page first, and
        which are real (B, R + 1)."""
        B, R = objects.there.shape
        page = self.page.expand(B, 1, -1)
        rows = torch.zeros_like(page).expand(B, R, -1)
        if self.config.text:
            rows = rows + self._texts(objects)
        if self.config.layout:
            rows = rows + self._layout(objects.boxes)
        if self.config.visual:
            maps = self.patches(pixels.to(self.patches.weight.dtype) / 127.5 - 1)
            cells = maps.flatten(2).mT
            page = page + cells.mean(1, keepdim=True)
            rows = rows + pool_areas(cells, objects.boxes, (maps.shape[2], maps.shape[3]))
        there = F.pad(objects.there, (1, 0), value=True)
        tokens = torch.cat([page, rows.to(page.dtype)], dim=1)
        return self.norm(self.transformer(tokens, mask=there)), there

    def _texts(self, objects: Objects) -> Tensor:
        """The mean (B, R, D) of each text's pieces, which know their places in it."""
        place = (objects.own.cumsum(-1) - 1).clamp(0, self.place.num_embeddings - 1)
        pieces = self.mlp(self.table(objects.ids) + self.place(place))
        own = objects.own[..., None].to(pieces.dtype)
        return (pieces * own).sum(2) / own.sum(2).clamp(min=1)

    def _layout(self, boxes: Tensor) -> Tensor:
        x0, y0, x1, y1 = coordinates(boxes).unbind(-1)
        sides = self.w((x1 - x0).clamp(min=0)) + self.h((y1 - y0).clamp(min=0))
        return self.x(x0) + self.x(x1) + self.y(y0) + self.y(y1) + sides


class LentLayout(Frozen):
    """The LayoutLMv3 of a folder in transformers' layout, frozen, loaded when it is first used.

    It reads the pages at its own size, scaled from those of the image tower. Objects whose pieces are
    beyond its context are left out. When first used, raises InputError for a folder that does not hold
    one, or no tokenizer.
    """

    def __init__(self, folder: str):
        super().__init__(None, f"{LENT}{folder}")
        self.folder = folder

    @property
    def width(self) -> int | None:
        """The width of its vectors by config.json; None if there is no such file."""
        path = Path(self.folder) / "config.json"
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({brief(error)}); copy the model again") from None
        kind = found.get("model_type") if isinstance(found, dict) else None
        if kind != "layoutlmv3":
            raise InputError(
                f"{path} is of the type {kind!r}, and the teacher reads texts, boxes and pixels; name the folder of a "
                "layoutlmv3"
            )
        return int(found.get("hidden_size", 768))

    @cached_property
    def model(self) -> Any:
        """transformers' model."""
        if self.width is None:
            raise InputError(
                f"the teacher cannot be loaded: {self.folder} holds no config.json; give the folder of a layoutlmv3 in "
                f"transformers' layout, or our own with --method.teacher {OWN}"
            )
        model = stored(self.folder).to(self.checksum.device)
        if not model.config.visual_embed:
            raise InputError(f"the layoutlmv3 in {self.folder} reads no pixels (visual_embed)")
        self.hold(model)
        return model

    @property
    def module(self) -> Any:
        return self.model

    def check(self) -> None:
        """Load model and tokenizer. Raises InputError where they cannot be."""
        assert self.module is not None
        assert self.words is not None

    @cached_property
    def words(self) -> Tokenizer:
        """The folder's tokenizer."""
        if not has_tokenizer(Path(self.folder)):
            raise InputError(
                f"{self.folder} has no tokenizer files, such as tokenizer.json; copy them too"
            )
        return from_folder(self.folder, context=self._context, local=True)

    @property
    def _context(self) -> int:
        """The most tokens: positions begin behind the number of the padding."""
        config = self.model.config
        return config.max_position_embeddings - config.pad_token_id - 1

    @torch.no_grad()
    def forward(self, pixels: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
        """As `LayoutEncoder.forward`."""
        B, R, L = objects.own.shape
        model = self.model
        config = model.config
        pieces = (objects.own & objects.there[..., None]).flatten(1)  # (B, R * L)
        place = pieces.cumsum(1)  # the first piece is behind the start
        kept = pieces & (place < self._context - 1)
        count = kept.sum(1)
        T = int(count.max()) + 2
        place = place.where(kept, T)  # one column more than there are, which is dropped
        ids = torch.full((B, T + 1), config.pad_token_id, device=pixels.device)
        ids[:, 0] = self.words.before[0] if self.words.before else config.bos_token_id
        ids.scatter_(1, place, objects.ids.flatten(1))
        end = self.words.after[0] if self.words.after else config.eos_token_id
        ids.scatter_(1, (count + 1)[:, None], end)
        boxes = coordinates(objects.boxes).repeat_interleave(L, 1)
        bbox = torch.zeros(B, T + 1, 4, dtype=torch.long, device=pixels.device)
        bbox.scatter_(1, place[..., None].expand(-1, -1, 4), boxes)
        bbox.scatter_(1, (count + 1)[:, None, None].expand(-1, -1, 4), 0)
        mask = torch.arange(T, device=pixels.device) <= (count + 1)[:, None]
        found = model(
            input_ids=ids[:, :T],
            bbox=bbox[:, :T],
            attention_mask=mask.long(),
            pixel_values=self._pixels(pixels),
        ).last_hidden_state
        rows = found.gather(1, place.where(kept, 0)[..., None].expand(-1, -1, found.shape[2]))
        own = kept[..., None].to(found.dtype)
        total = (rows * own).unflatten(1, (R, L)).sum(2)
        number = own.unflatten(1, (R, L)).sum(2)
        vectors = torch.cat([found[:, :1], total / number.clamp(min=1)], dim=1)
        return vectors, F.pad(number[..., 0] > 0, (1, 0), value=True)

    def _pixels(self, pixels: Tensor) -> Tensor:
        """Pages at the model's size, in -1 … 1, as its image processor gives them."""
        weight = next(self.model.parameters())
        side = self.model.config.input_size
        x = pixels.to(weight.dtype)
        if tuple(x.shape[-2:]) != (side, side):
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True).clamp(0, 255)
        return x / 127.5 - 1


def teacher_of(spec: str, make: Make, size: tuple[int, int]) -> LayoutEncoder | LentLayout:
    """The teacher of a spec: `layout:width=…`, a new one of ours, or `hf:FOLDER`, a LayoutLMv3.

    Raises InputError for any other, and for a new one where there is no tokenizer.
    """
    if spec.startswith(LENT):
        return LentLayout(spec.removeprefix(LENT))
    parsed = parse(spec)
    if parsed.name != OWN:
        raise InputError(
            f"teacher is {spec!r}; write {OWN}:width=128:depth=2, a new one, or {LENT}FOLDER, a layoutlmv3"
        )
    config = configure(LayoutConfig, parsed.options, "teacher")
    return LayoutEncoder(config, make.tokenizer, size)
