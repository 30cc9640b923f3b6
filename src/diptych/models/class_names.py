"""Class names: validation, prompts, tokens, and class embeddings averaged over prompts.

Dimensions: C classes, P prompts, E embedding.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.templates import checked, filled, written
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError, shortened
from diptych.files import text_of


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Class names, stripped.

    Raises InputError if there are none, one is empty, or two are equal in prompts (`written`),
    ignoring case, which most tokenizers do not distinguish.

    >>> check_names([" cat", "dog"])
    ('cat', 'dog')
    """
    found = tuple(name.strip() for name in names)
    if not found or not all(found):
        raise InputError(
            f"the {len(found)} class names {list(found)[:5]} hold an empty one; name every class"
        )
    plain = [plainly(name) for name in found]
    if twice := next((name for name, count in Counter(plain).items() if count > 1), None):
        called = dict.fromkeys(repr(name) for name in found if plainly(name) == twice)
        raise InputError(
            f"two classes are called {' and '.join(called)}; give each a name of its own"
        )
    return found


def read_names(names: Sequence[str] | str | Path, option: str = "--names") -> list[str]:
    """Return the names of a list, of "a,b", or of a file with one on each line. Raises InputError,
    which calls the names `option`, for a text file that is missing, empty, or not UTF-8.

    >>> read_names("cat,dog")
    ['cat', 'dog']
    """
    if not isinstance(names, str | Path):
        return list(names)
    path = Path(names).expanduser()
    if os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises for long texts)
        found = [line for line in text_of(path).splitlines() if line.strip()]
        if not found:
            raise InputError(f"{option} {names} names no class; write one a line")
        return found
    if path.suffix == ".txt":
        raise InputError(f"{option} {names}: there is no such file; check the path")
    return str(names).split(",")


def plainly(name: str) -> str:
    """The form in which class names are compared: as in prompts, in lower case.

    >>> plainly("Red_Apple") == plainly("red apple")
    True
    """
    return written(name).casefold()


def prompts(tokenizer: Tokenizer | None, template: str, names: Sequence[str]) -> list[str]:
    """The prompt of each name. Raises InputError for a prompt that the context truncates, as it may
    equal another."""
    found = [filled(template, name) for name in names]
    for name, prompt in zip(names, found, strict=True):
        if tokenizer is not None and (lost := tokenizer.lost(prompt)):
            raise InputError(
                f"the class name {shortened(name)!r} does not fit: its prompt loses {lost} tokens "
                f"beyond the context of {tokenizer.context}; shorten it"
            )
    return found


def prompt_ids(tokenizer: Tokenizer, template: str, names: Sequence[str]) -> list[list[int]]:
    """The ids of each name's prompt; errors as in `prompts`."""
    return tokenizer.encode(prompts(tokenizer, template, names))


def split_prompt(
    tokenizer: Tokenizer, template: str, name: str
) -> tuple[list[int], list[int], list[int]]:
    """The ids of a prompt without special ones, in three parts: before the name, the name, after
    it.

    If the last two share a token, both count as the name. Raises InputError if the first two share
    one.
    """
    before = template.partition("{}")[0]
    prompt = filled(template, name)
    words = tokenizer.ids(before.strip())
    whole = tokenizer.ids(prompt)
    if whole[: len(words)] != words:
        raise InputError(
            f"in {prompt!r} the words before the name have other tokens than alone; put a blank between them and {{}}"
        )
    tail = whole[len(words) :]
    named = tokenizer.ids(before + written(name))[len(words) :]
    if tail[: len(named)] != named:
        named = tail
    return words, named, tail[len(named) :]


def mean_directions(
    vectors: Tensor, classes: int | Sequence[int], shares: Sequence[float] = (1.0,)
) -> Tensor:
    """The embedding of each class (C, E): the mean of its unit prompt vectors, normalised.

    `vectors` (P, E) are sorted by class; `classes` is the number of classes of equal size, or the
    size of each. With several heads, each is averaged and normalised separately, and has its share
    of the squared length (`DualEncoder.shares`).

    >>> mean_directions(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), [2, 1])
    tensor([[0.7071, 0.7071],
            [0.0000, 1.0000]])
    """
    sizes = [len(vectors) // classes] * classes if isinstance(classes, int) else list(classes)
    means = torch.stack([part.mean(0) for part in normalize(vectors, dim=1).split(sizes)])
    heads = zip(means.chunk(len(shares), dim=1), shares, strict=True)
    return torch.cat([share**0.5 * normalize(head, dim=1) for head, share in heads], dim=1)


def class_directions(
    model: Any,
    names: Sequence[str],
    templates: Sequence[str],
    text_embeddings: Tensor | None,
    width: int,
    batch_size: int,
) -> tuple[tuple[str, ...], Tensor]:
    """Class names, stripped, and their embeddings (C, E) of `width` E by a model that embeds texts.

    That of a class is the mean direction of its name in all templates, or its row of
    `text_embeddings` (C, E), normalised. Errors are those of `Model.set_classes`.
    """
    names = check_names(names)
    templates = checked(templates, "set_classes")
    if text_embeddings is not None:
        if text_embeddings.shape != (wanted := (len(names), width)):
            raise InputError(
                f"{tuple(text_embeddings.shape)} are no vectors of {len(names)} classes; give {wanted}"
            )
        return names, normalize(text_embeddings.detach().float().cpu(), dim=1)
    sets = zip(*(prompts(model.tokenizer, template, names) for template in templates), strict=True)
    texts = [prompt for each in sets for prompt in each]
    vectors = model.embed_texts(texts, batch_size=batch_size)
    return names, mean_directions(vectors, len(names), model.shares)


def standardised(classes: Tensor) -> Tensor:
    """Class embeddings (C, E) with mean 0 and standard deviation 1 of each coordinate over the
    classes, as unit vectors.

    >>> standardised(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor([[ 0.7071, -0.7071],
            [-0.7071,  0.7071]])
    """
    spread = classes.std(0, correction=0).clamp(min=1e-8)
    return normalize((classes - classes.mean(0)) / spread, dim=1)
