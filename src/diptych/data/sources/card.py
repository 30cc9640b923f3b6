"""Data set cards: a name and a split instead of paths, `flickr8k-1k:split=test` or
`mine.toml:split=val`.

A card is a TOML file of at most 15 lines. `splits` gives a source for each split; `title`,
`licence`, `origin` and `protocol` describe the data set. `options = { language = "en+de" }` lets
`:language=de` choose what `{language}` stands for in the splits; the first is the default. Paths
are relative to the card's folder.
The cards in data/cards, whose data are not in the package, are relative to the folder `home` in the
folder of the environment variable DIPTYCH_DATA.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from diptych.data.compact import is_folder
from diptych.data.sample import Source
from diptych.errors import InputError, unknown
from diptych.spec import Spec, configure

FORMAT = "card"


@dataclass(frozen=True, kw_only=True)
class Card:
    """The content of a card."""

    title: str
    splits: Mapping[str, str]
    licence: str
    origin: str = ""
    protocol: str = ""
    home: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


@lru_cache(maxsize=1)
def cards() -> dict[str, Card]:
    """The cards in the package, by name.

    >>> cards()["flickr8k-1k"].splits["test"]
    'test.tar'
    """
    folder = files("diptych.data").joinpath("cards")
    texts = {
        item.name.removesuffix(".toml"): item.read_text("utf-8")
        for item in sorted(folder.iterdir(), key=str)
    }
    return {name: _card(text, name) for name, text in texts.items()}


def card_of(name: str) -> Card | None:
    """The card that the name of a source means, in the package or in a file; None if it means none.

    >>> card_of("sick").licence == cards()["sick"].licence, card_of("pets/")
    (True, None)
    """
    if name in cards():
        return cards()[name]
    path = Path(name)
    if name.endswith(".toml") and path.is_file():
        return _card(path.read_text("utf-8", errors="replace"), name)
    return None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`."""
    return spec.name in cards() or (spec.name.endswith(".toml") and not is_folder(spec))


def open(spec: Spec) -> Source:
    """Open `NAME:split=SPLIT` or `FILE.toml:split=SPLIT`, with the card's options; the default
    split is train."""
    from diptych.data.sources import open_source

    card, root = _find(spec.name)
    split = str(spec.options.get("split", "train"))
    if split not in card.splits:
        raise unknown(f"split of {spec.name}", split, card.splits)
    for name in spec.options:
        if name != "split" and name not in card.options:
            raise unknown(f"option of {spec.name}", name, ["split", *card.options])
    source = card.splits[split]
    for name, values in card.options.items():
        choices = values.split("+")
        value = str(spec.options.get(name, choices[0]))
        if value not in choices:
            raise unknown(f"{name} of {spec.name}", value, choices)
        source = source.replace(f"{{{name}}}", value)
    return open_source(str(root / source))


def _find(name: str) -> tuple[Card, Path]:
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{path}: no such file; check the path")
        return _card(path.read_text("utf-8", errors="replace"), name), path.parent
    card = cards()[name]
    packs = os.environ.get("DIPTYCH_DATA")
    if not packs:
        raise InputError(
            f"{name} does not ship; set DIPTYCH_DATA to the folder that holds {card.home}/"
        )
    root = Path(packs) / card.home
    if not root.is_dir():
        raise InputError(
            f"{name}: DIPTYCH_DATA={packs} holds no folder {card.home}; {card.licence}: {card.origin}"
        )
    return card, root


def _card(text: str, name: str) -> Card:
    try:
        card = configure(Card, tomllib.loads(text), f"card {name!r}")
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not TOML ({error})") from error
    if not isinstance(card.splits, dict) or not all(
        isinstance(value, str) for value in card.splits.values()
    ):
        raise InputError(
            f"{name}: splits must name a source for each split, as in {{ train = 'train.tar' }}"
        )
    return card
