"""Region scoring: a small head on the patch tokens of a frozen image tower, and the detector of concepts around it.

    O = head(patches),    S = O E^T + b,    score_c = centrality · mean over the rows l of c of sigmoid(S_l)

Each position of the grid is a region: it has a vector O_n, a box and how central it is in it. The rows E of concepts
are a text tower's tokens, or what was searched for in their place; nothing fuses them with the picture before S.

Dimensions: B pictures, N regions (h x w), D tower width, E embedding, C concepts, L rows of all concepts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from diptych.data.pictures import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.models.delivered import Validation
from diptych.models.model import Pictures, Progress, Told, evaluating
from diptych.spec import configure
from diptych.towers.concepts import ConceptBank, Searched
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.transformer import Transformer

PRIOR = 0.01
"""The probability of a concept at a region that the bias gives at the start."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """`depth` blocks of `width` behind the tower's patch tokens."""

    width: int = 128
    depth: int = 2
    heads: int | None = None  # width / 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1:
            raise InputError(f"a head of {self.depth} blocks {self.width} wide is none; give positive numbers")


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of pictures: vectors (B, N, E), boxes (B, N, 4) as shares of the picture, logits of centrality
    (B, N), and, where classes are named, how likely each is there (B, N, C)."""

    vectors: Tensor
    boxes: Tensor
    centre: Tensor
    scores: Tensor | None = None


def grid_of(encoded: Encoded) -> tuple[int, int]:
    """The grid (h, w). Raises InputError for a tower without positions."""
    if encoded.grid is None:
        raise InputError("this image tower pools its positions away, and regions are scored at them; start from one "
                         "with patches")  # fmt: skip
    return encoded.grid


class GroundingHead(nn.Module):
    """Patch tokens (B, N, D) on their grid -> Regions. Boxes are told by the distances of their sides from the centre
    of the cell, exp(…) cells each."""

    def __init__(self, width: int, embed_dim: int, config: HeadConfig):
        super().__init__()
        self.config = config
        W = config.width
        self.embed = nn.Linear(width, W)
        self.transformer = Transformer(W, config.depth, config.heads, dropout=config.dropout)
        self.norm = nn.LayerNorm(W)
        self.vectors, self.sides, self.centre = nn.Linear(W, embed_dim), nn.Linear(W, 4), nn.Linear(W, 1)
        nn.init.normal_(self.vectors.weight, std=0.01)
        self.bias = nn.Parameter(torch.logit(torch.tensor(PRIOR)))

    def forward(self, encoded: Encoded) -> Regions:
        """Raises InputError for a tower without positions."""
        h, w = grid_of(encoded)
        x = self.norm(self.transformer(self.embed(encoded.patches.to(self.bias.dtype))))
        sides = self.sides(x).clamp(max=5).exp()
        y, across = torch.meshgrid(torch.arange(h, device=x.device), torch.arange(w, device=x.device), indexing="ij")
        centre = torch.stack([across, y], dim=-1).view(-1, 2) + 0.5
        cells = torch.tensor([w, h], device=x.device)
        boxes = torch.cat([(centre - sides[..., :2]) / cells, (centre + sides[..., 2:]) / cells], dim=-1)
        return Regions(self.vectors(x), boxes, self.centre(x)[..., 0])

    def align(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """S (B, N, L) of regions (B, N, E) and rows (L, E)."""
        return vectors @ rows.T + self.bias


def concept_scores(logits: Tensor, owner: Tensor, concepts: int) -> Tensor:
    """The probabilities (…, C) of concepts: the mean over a concept's rows of those of S (…, L); `owner` (L,) says
    whose each row is.

    >>> concept_scores(torch.tensor([[0.0, 0.0, 100.0]]), torch.tensor([0, 0, 1]), 2).tolist()
    [[0.5, 1.0]]
    """
    own = nn.functional.one_hot(owner, concepts).to(logits.dtype)  # (L, C)
    return logits.sigmoid() @ (own / own.sum(0))


class Grounding(Searched):
    """An encoder with a head that finds concepts, several rows each. Pictures are squashed, so that boxes are shares of
    the whole."""

    form = "name"
    reads = ("images.main", "boxes")

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer | None, template: str, *, count: int | None = None,
        head: HeadConfig = HeadConfig(),
    ):  # fmt: skip
        super().__init__()
        encoder.image.preprocess = Preprocess.from_dict({**encoder.image.preprocess.to_dict(), "resize": "squash"})
        self.encoder, self.tokenizer, self.template, self.count = encoder, tokenizer, template, count
        self.bank = ConceptBank(encoder.embed_dim)
        self.head = GroundingHead(encoder.image.width, encoder.embed_dim, head)
        self.classes, self.label = (), ""

    @property
    def image(self) -> Any:
        """The image tower, which knows the preprocessing."""
        return self.encoder.image

    @cached_property
    def grid(self) -> tuple[int, int]:
        """(h, w): the positions that the tower has."""
        size, device = self.image.preprocess.size, next(self.head.parameters()).device
        with evaluating(self.encoder), torch.no_grad():
            return grid_of(self.image(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)))

    def forward(self, x: Tensor) -> Regions:
        """Pictures (B, 3, H, W) -> Regions, without scores."""
        return self.head(self.encoder.encode_image(x))

    def logits(self, vectors: Tensor, rows: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """S (B, N, L) of regions (B, N, E) and the rows of the classes, or those given with their mask, and whose each
        row is (L,)."""
        values, mask = self.class_rows() if rows is None else rows
        return self.head.align(vectors, values[mask]), mask.nonzero()[:, 0]

    def remember(self) -> dict[str, Any]:
        return {**super().remember(), "head": asdict(self.head.config)}

    def recall(self, values: Mapping[str, Any]) -> None:
        config = configure(HeadConfig, values["head"], "head")
        self.head = GroundingHead(self.encoder.image.width, self.encoder.embed_dim, config)
        super().recall(values)

    def usable(self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str) -> Any:
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return Detector(self, preprocess, name=name)


@dataclass(frozen=True)
class Found:
    """What was found in a picture, the likeliest first: boxes (n, 4) as shares of it, classes (n,), scores (n,)."""

    boxes: Tensor
    classes: Tensor
    scores: Tensor


class Detector(Told):
    """A model that finds classes in pictures; embeddings are its encoder's."""

    delivered: Grounding

    def __init__(self, delivered: Grounding, preprocess: Preprocess, *, name: str):
        super().__init__(delivered, preprocess, name=name)
        self.validation = Validation("detection", ("ap50",))

    def class_logits(self, images: Pictures, **how: Any) -> Tensor:
        raise InputError(f"{self.name} finds classes in pictures and names no whole picture; use detect")

    def embed_regions(
        self, images: Pictures, *, batch_size: int = 64, exact: bool = False, progress: Progress | None = None
    ) -> Regions:
        """The regions of pictures, with the scores of the classes that are named; float32, on the CPU.

        `images` and what is raised are those of `embed_images`; InputError also where no class is named.
        """
        if not self.classes:
            raise InputError(f"{self.name} knows no classes; name them first, with set_classes or --names")
        batches, count = self._batches(images, batch_size, exact)
        found: list[tuple[Tensor, ...]] = []
        with evaluating(self.delivered), torch.inference_mode():
            for (pixels,) in batches:
                regions = self.delivered(pixels.to(self.device))
                logits, owner = self.delivered.logits(regions.vectors)
                scores = concept_scores(logits, owner, len(self.classes)) * regions.centre.sigmoid()[..., None]
                parts = (regions.vectors, regions.boxes.clamp(0, 1), regions.centre, scores)
                found.append(tuple(part.float().cpu() for part in parts))
                if progress:
                    progress(sum(len(part[0]) for part in found), count)
        return Regions(*(torch.cat(parts).clone() for parts in zip(*found, strict=True)))

    def detect(
        self, images: Pictures, *, least: float = 0.05, overlap: float = 0.6, most: int = 100, batch_size: int = 64,
        exact: bool = False,
    ) -> list[Found]:  # fmt: skip
        """What is found in each picture: scores of `least` or more, of boxes of one class that overlap by more than
        `overlap` (IoU) the likeliest, and `most` in all."""
        regions = self.embed_regions(images, batch_size=batch_size, exact=exact)
        assert regions.scores is not None
        return [chosen(boxes, scores, least=least, overlap=overlap, most=most)
                for boxes, scores in zip(regions.boxes, regions.scores, strict=True)]  # fmt: skip


def chosen(boxes: Tensor, scores: Tensor, *, least: float, overlap: float, most: int) -> Found:
    """What stays of the boxes (N, 4) of a picture with scores (N, C).

    >>> boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 0.1, 0.1]])
    >>> chosen(boxes, torch.tensor([[0.5], [0.6], [0.2]]), least=0.05, overlap=0.6, most=9).scores.tolist()
    [0.60..., 0.20...]
    """
    region, number = (scores >= least).nonzero(as_tuple=True)
    likely = scores[region, number]
    kept = batched_nms(boxes[region], likely, number, overlap)[:most]
    return Found(boxes[region[kept]], number[kept], likely[kept])
