"""Views of images: crops, placement, colours and blur, all drawn from the view's generator.

Dimensions: B samples, V views, H x W pixels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from diptych.data.clips import AnyClip, is_clip
from diptych.data.images import luma
from diptych.data.sample import BadSample, Sample
from diptych.data.views.randaugment import randaugment
from diptych.data.volumes import AnyPreprocess, VolumePreprocess
from diptych.errors import InputError
from diptych.spec import AtLeast, NotNegative, Share, configure


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How a training image is augmented. A crop is cut and resized in one pass; the rest works on the pixels of
    that size.

    A random crop keeps a share `crop` of the image's area; its proportions are those of the model's
    images times `ratio` (log-uniform).
    `flip` mirrors half of the images. An image with transparency is not cropped but placed: it is
    shrunk by 1/s, s uniform in [1, `place`], rotated by up to `turn` degrees and pasted wholly
    inside a background of one random colour, at a uniform position. An image without transparency
    is rotated about the centre of its crop by up to `rotate` degrees and sheared along x by up to
    `shear` degrees; what lies outside is black.

    `colour` c varies brightness and contrast by factors in 1 ± c and saturation in 1 ± 2c. A tuple
    (b, c, s, h) sets each of them, and the rotation of the hue in ± h, where 1 is a whole turn. A
    share `recoloured` of the images is varied in this way. A share `grey` becomes grey; a share
    `blur` is blurred with sigma in 0.1 … 2 pixels of an image of 224; of a share `solarise`, values
    from 128 on are inverted. Then come `randaugment` operations of RandAugment with a `magnitude` in [0,
    1], each of half of the images (`views.randaugment`). Of a share `erase` a rectangle of 2 to 33 % of
    the area becomes random colours (Zhong et al., 2020). The strength of all but `flip` and `recoloured`
    grows from zero to one between the two shares of training in `ramp`.

    Raises InputError for a range whose limits are exchanged, or not above 0.
    """

    crop: tuple[Share, Share] = (0.9, 1.0)
    ratio: tuple[NotNegative, NotNegative] = (0.75, 4 / 3)
    flip: bool = False
    place: Annotated[float, AtLeast(1)] = 1.8
    turn: NotNegative = 0.0
    rotate: NotNegative = 0.0
    shear: NotNegative = 0.0
    colour: float | tuple[float, float, float, float] = 0.0
    recoloured: Share = 1.0
    grey: Share = 0.0
    blur: Share = 0.0
    solarise: Share = 0.0
    randaugment: int = 0
    magnitude: float = 0.7
    erase: Share = 0.0
    ramp: tuple[Share, Share] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("crop", "ratio", "ramp"):
            low, high = getattr(self, name)
            if low > high or (low <= 0 and name != "ramp"):
                least = "0 or more" if name == "ramp" else "above 0"
                raise InputError(
                    f"{name}=({low:g}, {high:g}) of --method.augment; give the smaller one first, {least}"
                )
        if self.randaugment < 0 or not 0 <= self.magnitude <= 1:
            raise InputError(
                f"randaugment={self.randaugment} with magnitude={self.magnitude} of --method.augment; give a number "
                "of operations, 0 for none, and a magnitude within 0 and 1"
            )

    @property
    def tilts(self) -> bool:
        """Whether a view may be more than a crop: rotated, sheared or shifted."""
        return bool(self.rotate or self.shear or self.randaugment)

    @property
    def colours(self) -> tuple[float, float, float, float]:
        """The ranges of brightness, contrast, saturation and hue."""
        if isinstance(self.colour, int | float):
            return self.colour, self.colour, 2 * self.colour, 0.0
        brightness, contrast, saturation, hue = self.colour  # a list, if it comes from YAML
        return brightness, contrast, saturation, hue

    def strength(self, progress: float) -> float:
        """The strength of the augmentation: 0 before the ramp, 1 after it, linear between."""
        start, end = self.ramp
        return (
            float(np.clip((progress - start) / (end - start), 0, 1))
            if end > start
            else float(progress >= end)
        )

    def enlarged(self, progress: float) -> float:
        """The side of a whole image over that of its smallest crop."""
        strength = self.strength(progress)
        area = 1 + (min(self.crop) - 1) * strength
        stretch = max(max(self.ratio), 1 / min(self.ratio)) ** strength
        return math.sqrt(stretch / area)


def augmentation(options: Mapping[str, Any] | None) -> Augment | None:
    """The `Augment` of an option dict, None for None. Raises InputError for an unknown option.

    >>> augmentation({"flip": True}).flip, augmentation(None)
    (True, None)
    """
    return None if options is None else configure(Augment, dict(options), "augment")


def place(
    tile: Image.Image,
    size: int,
    shrink: float,
    at: tuple[float, float],
    ground: tuple[int, int, int],
) -> Image.Image:
    """Paste an RGBA tile, shrunk by 1/`shrink`, wholly inside a `size` x `size` canvas of one
    colour.

    `at` is the position: (0, 0) is top left, (1, 1) bottom right.

    >>> place(Image.new("RGBA", (8, 8), (255, 0, 0, 255)), 16, 2.0, (1.0, 1.0), (0, 0, 0)).getpixel((15, 15))
    (255, 0, 0)
    """
    side = max(1, round(size / shrink))
    height = round(side * tile.height / max(tile.size))
    width = round(side * tile.width / max(tile.size))
    small = tile.resize(
        (max(width, 1), max(height, 1)), Image.Resampling.BILINEAR, reducing_gap=2.0
    )
    canvas = Image.new("RGB", (size, size), ground)
    corner = (round(at[0] * (size - small.width)), round(at[1] * (size - small.height)))
    canvas.paste(small, corner, small.getchannel("A"))
    return canvas


@dataclass(frozen=True, kw_only=True)
class ImageView:
    """One image of a role as `count` views (B, V, 3, H, W), augmented in training.

    With `augment=None`, training images are preprocessed as in evaluation. `second` is the
    augmentation of all views but the first, by default the same. With `like` and the same
    augmentation, the view has the crops and colours of another view, at its own size.

    With `crops`, fields.NAME.crops (B, V, 4) are the positions x0, y0, x1, y1 of the first and last
    pixel of each view, where 0 is the image's first pixel and 1 its last:

        x0 = left / (W - 1),    x1 = (left + width - 1) / (W - 1)

    A mirrored view has x0 and x1 exchanged. Transparent images, which are placed and not cropped,
    raise BadSample.

    With the preprocessing of volumes these are volumes (B, V, 1, D, H, W), without augmentation.

    Of a clip the views are its frames (B, V, 3, H, W), all with one crop, place and colour; `count`
    is then 1. Note that a mirrored clip moves the other way.
    """

    preprocess: AnyPreprocess
    name: str = "main"
    role: str = "main"
    augment: Augment | None = Augment()
    second: Augment | None = None
    count: int = 1
    like: str | None = None
    crops: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.preprocess, VolumePreprocess) and (self.augment or self.crops):
            raise InputError(
                "this image tower reads volumes, and crops and colours are of images; give --method.augment null"
            )
        if self.crops and any(each.tilts for each in self._augments):
            raise InputError(
                "a rotated view is no crop of its image; give rotate and shear of --method.augment as 0, and "
                "no randaugment"
            )

    @property
    def _augments(self) -> list[Augment]:
        """The augmentation of each view in training; none if they are not augmented."""
        if self.augment is None:
            return []
        return [self.augment, *[self.second or self.augment] * (self.count - 1)]

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"images.{self.role}",)

    @property
    def gives(self) -> tuple[str, ...]:
        crops = (f"fields.{self.name}.crops",) if self.crops else ()
        return f"images.{self.name}", *crops

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        encoded = sample.images.get(self.role)
        if encoded is None:
            raise BadSample("no-image", f"no image of role {self.role!r}")
        if isinstance(self.preprocess, VolumePreprocess):
            return {
                f"images.{self.name}": torch.stack([self.preprocess.read(encoded)] * self.count)
            }
        if is_clip(encoded):
            return {f"images.{self.name}": self._frames(encoded, rng, progress)}
        image = encoded.decode(self._least(progress))
        if self.crops and image.mode == "RGBA":
            raise BadSample("transparent", "a transparent image is placed and has no crop")
        if progress is None or not self._augments:
            views = [self.preprocess(image, exact=False)] * self.count
            boxes = [self.preprocess.seen(*image.size)] * self.count if self.crops else []
        else:
            varied = [self._vary(image, rng, augment, progress) for augment in self._augments]
            views = [pixels for pixels, _ in varied]
            boxes = [box for _, box in varied]
        found: dict[str, Any] = {f"images.{self.name}": torch.stack(views)}
        if self.crops:
            found[f"fields.{self.name}.crops"] = _positions(boxes, image.size)
        return found

    def _frames(self, clip: AnyClip, rng: np.random.Generator, progress: float | None) -> Tensor:
        """The frames (V, 3, H, W), each augmented by the same random numbers."""
        if self.count > 1 or self.crops:
            raise InputError(
                f"images.{self.role} are clips, which have one view of each frame and no crops; name an image"
            )
        frames = clip.frames(self._least(progress))
        if progress is None or not self._augments:
            return torch.stack([self.preprocess(frame, exact=False) for frame in frames])  # type: ignore[call-arg]  # of images
        start = rng.bit_generator.state
        views = []
        for frame in frames:
            rng.bit_generator.state = start
            views.append(self._vary(frame, rng, self._augments[0], progress)[0])
        return torch.stack(views)

    def _least(self, progress: float | None) -> int | None:
        """The fewest pixels of the image's short side for which the smallest crop has the target's
        size."""
        if progress is None or not self._augments:
            return self.preprocess.least()  # type: ignore[union-attr]  # of images
        side = max(self.preprocess.shape[-2:])
        return max(math.ceil(side * augment.enlarged(progress)) for augment in self._augments)

    def _vary(
        self, image: Image.Image, rng: np.random.Generator, augment: Augment, progress: float
    ) -> tuple[Tensor, tuple[float, float, float, float]]:
        """A view, and the box of the image that it shows, with x0 and x1 exchanged if mirrored."""
        size = (self.preprocess.shape[-1], self.preprocess.shape[-2])
        strength = augment.strength(progress)
        box = (0.0, 0.0, float(image.width), float(image.height))
        if image.mode == "RGBA":
            shrink = 1 + (augment.place - 1) * strength * rng.uniform()
            x = rng.uniform()
            y = rng.uniform()
            colour = rng.integers(0, 256, 3)
            ground = tuple(int(255 + (value - 255) * strength) for value in colour)
            if augment.turn:
                angle = augment.turn * strength * rng.uniform(-1, 1)
                image = image.rotate(angle, Image.Resampling.BILINEAR)
            image = place(image, self.preprocess.side, shrink, (x, y), ground)  # type: ignore[arg-type]
        else:
            box = _crop_box(image.size, augment, strength, rng, size[0] / size[1])
            image = image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
            image = _tilt(image, augment, strength, rng)
        if augment.flip and rng.uniform() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            box = (box[2], box[1], box[0], box[3])
        pixels = np.array(image)
        if augment.colour and (augment.recoloured == 1 or rng.uniform() < augment.recoloured):
            pixels = _recolour(pixels, augment.colours, strength, rng)
        if augment.grey and rng.uniform() < augment.grey * strength:
            pixels = np.repeat(np.rint(luma(pixels)[..., None]).astype(np.uint8), 3, axis=2)
        if augment.blur and rng.uniform() < augment.blur * strength:
            sigma = rng.uniform(0.1, 2.0) * min(size) / 224
            pixels = np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))
        if augment.solarise and rng.uniform() < augment.solarise * strength:
            pixels = np.where(pixels < 128, pixels, 255 - pixels)
        if augment.randaugment:
            pixels = randaugment(
                pixels, augment.randaugment, augment.magnitude, rng, applied=0.5 * strength
            )
        if augment.erase and rng.uniform() < augment.erase * strength:
            pixels = _erased(pixels, rng)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), box


def _erased(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pixels (H, W, 3), uint8, with random colours in a rectangle of 2 to 33 % of their area, whose
    proportions are log-uniform in 0.3 … 1/0.3."""
    height, width = pixels.shape[:2]
    area = rng.uniform(0.02, 1 / 3) * height * width
    stretch = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
    rows = min(height, max(1, round(math.sqrt(area * stretch))))
    columns = min(width, max(1, round(math.sqrt(area / stretch))))
    top = int(rng.integers(height - rows + 1))
    left = int(rng.integers(width - columns + 1))
    found = pixels.copy()
    found[top : top + rows, left : left + columns] = rng.integers(0, 256, (rows, columns, 3))
    return found


@dataclass(frozen=True, kw_only=True)
class HiddenView:
    """Patches to hide of the image NAME: fields.NAME.hidden (B, h · w) bool for a `grid` of h x w
    patches.

    A share `share` of them, rounded, is hidden: random ones, or with `blocks` those under random
    rectangles, the last of which is cut to the number. Hidden patches are drawn outside training
    too. Source of the blocks: Bao et al. 2022 (BEiT).
    """

    grid: tuple[int, int]
    share: float
    name: str = "main"
    blocks: bool = False
    reads = ()

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"fields.{self.name}.hidden",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        h, w = self.grid
        count = round(self.share * h * w)
        order = rng.permutation(h * w)
        if self.blocks:
            order = self._by_blocks(count, rng)
        hidden = np.zeros(h * w, bool)
        hidden[order[:count]] = True
        return {self.gives[0]: torch.from_numpy(hidden)}

    def _by_blocks(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """The patches in the order in which rectangles cover them."""
        h, w = self.grid
        order: dict[int, None] = {}
        while len(order) < count:
            area = rng.uniform(min(4, count), max(4, count - len(order)))
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            height = min(h, max(1, round(math.sqrt(area * aspect))))
            width = min(w, max(1, round(math.sqrt(area / aspect))))
            top = int(rng.integers(h - height + 1))
            left = int(rng.integers(w - width + 1))
            rows = np.arange(top, top + height)[:, None] * w + np.arange(left, left + width)
            order |= dict.fromkeys(rows.ravel().tolist())
        return np.array(list(order), np.int64)


def _positions(boxes: list[tuple[float, float, float, float]], size: tuple[int, int]) -> Tensor:
    """The positions (V, 4) of the first and last pixels of boxes, whose order says in which
    direction they are seen."""
    x0, y0, x1, y1 = np.array(boxes, np.float64).T
    last_x = max(size[0] - 1, 1)
    last_y = max(size[1] - 1, 1)
    ends = [
        np.where(x0 <= x1, x0, x0 - 1) / last_x,
        y0 / last_y,
        np.where(x0 <= x1, x1 - 1, x1) / last_x,
        (y1 - 1) / last_y,
    ]
    return torch.from_numpy(np.stack(ends, axis=1).astype(np.float32))


def _recolour(
    pixels: np.ndarray,
    most: tuple[float, float, float, float],
    strength: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Vary hue, brightness, contrast about the mean, and saturation about each pixel's grey, of (H,
    W, 3) uint8."""
    *factors, hue = most
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3) * factors
    if hue:
        by_hue = np.array(Image.fromarray(pixels).convert("HSV"))
        by_hue[..., 0] += np.uint8(
            round(255 * hue * strength * rng.uniform(-1, 1)) % 256
        )  # a circle of 256
        pixels = np.array(Image.fromarray(by_hue, "HSV").convert("RGB"))
    values = pixels.astype(np.float32) * brightness
    mean = values.mean()
    values = (values - mean) * contrast + mean
    grey = values.mean(axis=2, keepdims=True)
    return np.clip((values - grey) * saturation + grey, 0, 255).astype(np.uint8)


def _crop_box(
    size: tuple[int, int],
    augment: Augment,
    strength: float,
    rng: np.random.Generator,
    proportions: float = 1.0,
) -> tuple[float, float, float, float]:
    """A crop (x0, y0, x1, y1) of random area and aspect ratio about `proportions`, clipped to the
    image if it does not fit."""
    width, height = size
    area = width * height * (1 + (rng.uniform(*augment.crop) - 1) * strength)
    turned = np.exp(rng.uniform(np.log(augment.ratio[0]), np.log(augment.ratio[1])) * strength)
    aspect = turned * proportions
    w = min(width, np.sqrt(area * aspect))
    h = min(height, np.sqrt(area / aspect))
    x = rng.uniform(0, width - w)
    y = rng.uniform(0, height - h)
    return float(x), float(y), float(x + w), float(y + h)


def _tilt(
    image: Image.Image, augment: Augment, strength: float, rng: np.random.Generator
) -> Image.Image:
    """The image rotated and sheared about its centre by random angles."""
    if not augment.rotate and not augment.shear:
        return image
    angle = math.radians(augment.rotate * strength * rng.uniform(-1, 1))
    slant = math.tan(math.radians(augment.shear * strength * rng.uniform(-1, 1)))
    # from a position in the result to that in the image, relative to the centre
    a = math.cos(angle)
    b = math.sin(angle) + slant * math.cos(angle)
    d = -math.sin(angle)
    e = math.cos(angle) - slant * math.sin(angle)
    x = image.width / 2
    y = image.height / 2
    matrix = (a, b, x - a * x - b * y, d, e, y - d * x - e * y)
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR
    )
