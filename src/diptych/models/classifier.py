"""Classifiers of named classes on a dual encoder: what methods deliver that adapt a model to a few labelled pictures.

    logits_c = s <x, t_c>

x is a picture's unit vector, t_c that of class c, s the encoder's scale. What is learnt is how x and t_c come about;
the classes are named afterwards, new names included.

Dimensions: N pictures, C classes, L tokens of a prompt, D tower width, E embedding.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.pictures import Preprocess
from diptych.data.templates import checked, filled, written
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.errors import InputError, shortened
from diptych.models.delivered import Delivered
from diptych.towers.dual import DualEncoder
from diptych.towers.tower import ImageTower


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, without blanks around; InputError where there is none, one is empty or two are equal as prompts
    have them (`written`), capital letters or not: most tokenizers see no difference.

    >>> check_names([" cat", "dog"])
    ('cat', 'dog')
    """
    found = tuple(name.strip() for name in names)
    if not found or not all(found):
        raise InputError(f"the {len(found)} class names {list(found)[:5]} hold an empty one; name every class")
    plain = [plainly(name) for name in found]
    if twice := next((name for name, count in Counter(plain).items() if count > 1), None):
        called = dict.fromkeys(repr(name) for name in found if plainly(name) == twice)
        raise InputError(f"two classes are called {' and '.join(called)}; give each a name of its own")
    return found


def plainly(name: str) -> str:
    """How class names are compared: as prompts have them, in small letters.

    >>> plainly("Red_Apple") == plainly("red apple")
    True
    """
    return written(name).casefold()


def prompts(tokenizer: Tokenizer | None, template: str, names: Sequence[str]) -> list[str]:
    """Each name's prompt. Raises InputError for a name that the context cuts: it may be no other than the next."""
    found = [filled(template, name) for name in names]
    for name, prompt in zip(names, found, strict=True):
        if tokenizer is not None and (lost := tokenizer.lost(prompt)):
            raise InputError(f"the class name {shortened(name)!r} does not fit: its prompt loses {lost} tokens "
                             f"beyond the context of {tokenizer.context}; shorten it")  # fmt: skip
    return found


def prompt_ids(tokenizer: Tokenizer, template: str, names: Sequence[str]) -> list[list[int]]:
    """The ids of each name's prompt; raises as `prompts`."""
    return tokenizer.encode(prompts(tokenizer, template, names))


def parted(tokenizer: Tokenizer, template: str, name: str) -> tuple[list[int], list[int], list[int]]:
    """The ids of a prompt, special ones left out: the words before the name, the name, what follows it; where the last
    two share a token, all of both is the name. Raises InputError where the words before it share one with it."""
    before, prompt = template.partition("{}")[0], filled(template, name)
    words, whole = tokenizer.ids(before.strip()), tokenizer.ids(prompt)
    if whole[: len(words)] != words:
        raise InputError(f"in {prompt!r} the words before the name have other tokens than alone; put a blank between "
                         "them and {}")  # fmt: skip
    tail = whole[len(words) :]
    named = tokenizer.ids(before + written(name))[len(words) :]
    if tail[: len(named)] != named:
        named = tail
    return words, named, tail[len(named) :]


def mean_directions(vectors: Tensor, classes: int | Sequence[int], shares: Sequence[float] = (1.0,)) -> Tensor:
    """The direction of each class (C, E): the mean of its unit prompt vectors, made unit. `vectors` (P, E) stand class
    by class, as many of each, or as many as `classes` says of each. Of several heads side by side each is averaged and
    made unit alone, and has its share of the squared length (`DualEncoder.shares`).

    >>> mean_directions(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), [2, 1])
    tensor([[0.7071, 0.7071],
            [0.0000, 1.0000]])
    """
    sizes = [len(vectors) // classes] * classes if isinstance(classes, int) else list(classes)
    means = torch.stack([part.mean(0) for part in normalize(vectors, dim=1).split(sizes)])
    heads = zip(means.chunk(len(shares), dim=1), shares, strict=True)
    return torch.cat([share**0.5 * normalize(head, dim=1) for head, share in heads], dim=1)


def freeze(*parts: nn.Module | nn.Parameter | None) -> None:
    """Keep the parameters of modules, or parameters, as they are: the engine never trains them."""
    for part in parts:
        own = [part] if isinstance(part, nn.Parameter) else [] if part is None else list(part.parameters())
        for parameter in own:
            parameter.requires_grad_(False).frozen = True  # type: ignore[attr-defined]


def thaw(*parts: nn.Module) -> None:
    """Let what was frozen learn again."""
    for part in parts:
        for parameter in part.parameters():
            parameter.requires_grad_(True).frozen = False  # type: ignore[attr-defined]


class Classifier(Delivered):
    """A dual encoder whose classes are named, and what is learnt beside it; `frozen` keeps its own weights as they are.

    A subclass overrides `text_features`, `image_features`, or, where a picture changes the prompts, `class_features`
    and `logits`.
    """

    ids: Tensor
    lengths: Tensor
    fixed: ClassVar[bool] = True
    """Whether `logits` reads `text_features`, which are the same for every picture."""
    independent: bool = True
    """Whether the logit of a class is the same whatever other classes are named."""

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer, template: str = "a photo of a {}.", *, frozen: bool = True
    ):
        super().__init__()
        checked([template], "the prompts")
        self.encoder, self.tokenizer, self.template = encoder, tokenizer, template
        self.classes: tuple[str, ...] = ()
        self.label = ""  # of the data that it was trained on
        self._still: Tensor | None = None  # the classes, where nothing that decides them is trained
        self.register_buffer("ids", torch.empty(0, 0, dtype=torch.int64), persistent=False)
        self.register_buffer("lengths", torch.empty(0, dtype=torch.int64), persistent=False)
        if frozen:
            freeze(encoder)

    @property
    def image(self) -> ImageTower:
        """The image tower, which knows the preprocessing."""
        return self.encoder.image

    def set_classes(self, names: Sequence[str]) -> None:
        """Name the classes. Raises InputError as `check_names` does, and for a name that the context cuts."""
        classes = check_names(names)
        self._name(classes, prompt_ids(self.tokenizer, self.template, classes))

    def _name(self, classes: tuple[str, ...], rows: Sequence[Sequence[int]]) -> None:
        """Take the ids of the classes' prompts."""
        ids, lengths = pad_batch(rows, self.tokenizer)
        self.classes, self.ids, self.lengths = classes, ids.to(self.ids.device), lengths.to(self.ids.device)
        self._still = None

    def image_features(self, x: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) -> unit vectors (N, E)."""
        return self.encoder.embed_images(x)

    def text_features(self) -> Tensor:
        """The classes as unit vectors (C, E)."""
        return self.encoder.embed_texts(self.ids, self.lengths)

    def class_features(self, x: Tensor) -> Tensor:
        """The classes as each of the pictures (N, 3, H, W) has them, unit vectors (N, C, E)."""
        return self.text_features().expand(len(x), -1, -1)

    def logits(self, x: Tensor, texts: Tensor | None) -> Tensor:
        """Pictures (N, 3, H, W) and, where they are `fixed`, the classes (C, E) -> logits (N, C)."""
        assert texts is not None
        return self.judged(self.image_features(x), texts)

    def judged(self, image: Tensor, texts: Tensor) -> Tensor:
        """Unit vectors of pictures (N, E) and of classes (C, E) -> logits (N, C)."""
        return self.encoder.scale() * image.to(texts.dtype) @ texts.T

    def of_vectors(self, image: Tensor) -> Tensor:
        """Pictures that are `image_features` (N, E) already -> logits (N, C), where classes are `fixed`."""
        return self.judged(image, self._classes_now())

    def forward(self, x: Tensor, texts: Tensor | None = None) -> Tensor:
        """Pictures (N, 3, H, W) -> logits (N, C); `texts` are `text_features`, where they are there already. Raises
        InputError where no class was named."""
        if not self.classes:
            raise InputError("the classifier knows no classes; name them first, with set_classes or --names")
        if texts is None and self.fixed:
            texts = self._classes_now()
        return self.logits(x, texts)

    def _classes_now(self) -> Tensor:
        """`text_features`, computed once for all steps in training where no step changes them."""
        still = self._still
        if still is not None and still.device == self.ids.device:
            return still
        texts = self.text_features()
        if self.training and torch.is_grad_enabled() and not texts.requires_grad:
            self._still = texts.detach()
        return texts

    def train(self, mode: bool = True) -> "Classifier":
        """As of every module; what was kept for training is forgotten, since weights may be loaded in between."""
        self._still = None
        return super().train(mode)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the label is known once it is made
        """Fields of a source that it is validated on."""
        return "images.main", f"labels.{self.label}"

    def remember(self) -> dict[str, Any]:
        return {"classes": list(self.classes)}

    def recall(self, values: Mapping[str, Any]) -> None:
        if values["classes"]:
            self.set_classes(values["classes"])

    def usable(self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str) -> Any:
        from diptych.models.model import Adapted  # which knows classifiers

        assert preprocess is not None, "a dual encoder has a preprocessing"
        return Adapted(self, preprocess, name=name)
