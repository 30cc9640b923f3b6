"""WordNet's synsets as texts: `wordnet`, `wordnet:pos=noun+verb`, `wordnet:FOLDER`.

FOLDER contains data.noun, data.verb, data.adj and data.adv of a WordNet (as installed by Debian's
wordnet-base), or the pack's synsets.jsonl.gz. The default is /usr/share/wordnet, else
wordnet-glosses/ in the folder of the environment variable DIPTYCH_DATA. The texts are WordNet's and
are not part of the package.

    word      each lemma                           lamp · light source
    gloss     the definition
    example   the example sentences, if any
    entry     all of it, as in a dictionary        lamp, light source: definition. example.
    long      the entry and those of the following synsets, `page` entries in all
"""

import gzip
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.compact import Strings, hash64, is_folder
from diptych.data.sample import Field, Sample, Schema, Text
from diptych.errors import InputError, unknown
from diptych.spec import Spec, configure, several

FORMAT = "wordnet"
PREFIX = "wordnet:"
INSTALLED = Path("/usr/share/wordnet")
PACK = "wordnet-glosses"
PACKED = "synsets.jsonl.gz"
FILES = {"noun": "data.noun", "verb": "data.verb", "adjective": "data.adj", "adverb": "data.adv"}
SPLITS = ("train", "val", "test")  # of synsets, by a hash of their keys: 18, 1 and 1 of 20
LETTERS = {"noun": "n", "verb": "v", "adjective": "a", "adverb": "r"}
_MARKER = re.compile(r"\((?:a|p|ip)\)$")  # the syntactic marker after an adjective
_PARTS = re.compile(r'(?:"[^"]*"|[^;"])+')  # parts between unquoted semicolons


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its name (write `wordnet:` if there is a folder
    `wordnet` here)."""
    return spec.name.startswith(PREFIX) or (spec.name == FORMAT and not is_folder(spec))


def open(spec: Spec) -> "WordNet":
    """Open `wordnet[:FOLDER][:pos=noun+verb+adjective+adverb][:split=train|val|test][:page=N]`;
    default: all splits."""
    options = configure(WordNetOptions, spec.options, f"source {spec.name!r}")
    pos = several("pos of wordnet", options.pos, tuple(FILES))
    splits = several("split of wordnet", options.split, SPLITS)
    return WordNet(
        _folder(spec.name.removeprefix(FORMAT).removeprefix(":")), pos, splits, options.page
    )


@dataclass(frozen=True, kw_only=True)
class WordNetOptions:
    """Options of `wordnet`; several parts of speech, or splits, are joined by `+`."""

    pos: str = "all"
    split: str = "all"
    page: int = 6

    def __post_init__(self):
        if self.page < 1:
            raise InputError(f"page is {self.page}; it is a number of entries, at least 1")


class WordNet:
    """One sample per synset, in WordNet's order: nouns, verbs, adjectives, adverbs, each by offset.

    A key is the letter of the part of speech and the offset in WordNet 3.0, such as n02084071.
    Lines that are not a synset are counted in `damage`.
    """

    name = FORMAT

    def __init__(
        self,
        folder: Path,
        pos: Sequence[str] = tuple(FILES),
        splits: Sequence[str] = SPLITS,
        page: int = 6,
    ):
        self.page = page
        self.damage = {}
        found = [
            (name, record)
            for name, record in _records(folder, self.damage)
            if name in pos and (len(splits) == len(SPLITS) or split_of(record["id"]) in splits)
        ]
        if not found:
            raise InputError(
                f"{folder} has no synset of pos {'+'.join(pos)} and split {'+'.join(splits)}; name others"
            )
        self._pos = np.array([list(FILES).index(name) for name, _ in found], np.int8)
        self._keys = Strings(record["id"] for _, record in found)
        self._records = Strings(json.dumps(record, ensure_ascii=False) for _, record in found)

    def __len__(self) -> int:
        return len(self._pos)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        record = json.loads(self._records[index])
        entry = _entry(record)
        behind = [
            _entry(json.loads(other)) for other in self._records[index + 1 : index + self.page]
        ]
        texts = [Text(text=word, role="word") for word in record["words"]]
        texts += [Text(text=record["gloss"], role="gloss")] if record["gloss"] else []
        texts += [Text(text=example, role="example") for example in record["examples"]]
        texts += [
            Text(text=entry, role="entry"),
            Text(text=" ".join([entry, *behind]), role="long"),
        ]
        return Sample(
            key=record["id"], source=self.name, texts=texts, labels={"pos": int(self._pos[index])}
        )

    def keys(self) -> Sequence[str]:
        """Letter and offset of each synset."""
        return self._keys

    def labels(self, name: str) -> np.ndarray:
        """The part of speech of all synsets, (N,) int64."""
        if name != "pos":
            raise unknown("label of wordnet", name, ["pos"])
        return self._pos.astype(np.int64)

    def schema(self) -> Schema:
        """Five roles of texts, of which glosses and examples are optional, and the label `pos`."""
        roles = ("word", "gloss", "example", "entry", "long")
        texts = {
            f"texts.{role}": Field(kind="text", optional=role in ("gloss", "example"))
            for role in roles
        }
        return {**texts, "labels.pos": Field(kind="int", classes=tuple(FILES))}


def split_of(key: str) -> str:
    """The split of a synset.

    >>> split_of("n02084071")
    'train'
    """
    return {0: "val", 1: "test"}.get(hash64(key.encode()) % 20, "train")


def _folder(name: str) -> Path:
    """The folder `name`, or the first of the usual ones that contains a WordNet."""
    packs = os.environ.get("DIPTYCH_DATA")
    usual = [INSTALLED, *([Path(packs) / PACK] if packs else [])]
    for folder in [Path(name)] if name else usual:
        if (folder / FILES["noun"]).is_file() or (folder / PACKED).is_file():
            return folder
    if name:
        raise InputError(
            f"{name} holds neither {FILES['noun']} nor {PACKED}; name the folder of a WordNet"
        )
    raise InputError(
        f"wordnet: there is no WordNet in {INSTALLED}; apt install wordnet-base, name its folder with wordnet:FOLDER, "
        f"or set DIPTYCH_DATA to the folder that holds {PACK}/"
    )


def _records(folder: Path, damage: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Part of speech and record (id, words, gloss, examples) of each synset."""
    if (folder / FILES["noun"]).is_file():
        for pos, file in FILES.items():
            yield from _read(folder / file, pos, damage)
    else:
        yield from _read_pack(folder / PACKED)


def _read(path: Path, pos: str, damage: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a data file as described in wndb(5WN); the lines of its licence begin with two
    spaces."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing beside the other files of WordNet; install it again"
        ) from None
    for number, line in enumerate(lines):
        if line.startswith("  "):
            continue
        try:
            yield pos, _synset(line, pos)
        except (ValueError, IndexError):
            damage[f"{path}:{number + 1}"] = "synset"


def _synset(line: str, pos: str) -> dict[str, Any]:
    """Parse `offset lexicographer kind count word id … pointers … | gloss`, the count in
    hexadecimal.

    >>> line = "00000123 04 s 02 bluish_green 0 aqua(p) 0 001 & 00000001 a 0000 | like the sea; \\"an aqua scarf\\"  "
    >>> record = _synset(line, "adjective")
    >>> record["id"], record["words"], record["gloss"], record["examples"]
    ('a00000123', ['bluish green', 'aqua'], 'like the sea', ['an aqua scarf'])
    """
    data, bar, gloss = line.partition(" | ")
    offset, _, _, count, *rest = data.split()
    behind = 2 * int(count, 16)
    words = rest[:behind:2]
    if not (
        bar and offset.isdigit() and rest[behind].isdigit()
    ):  # after the words: the number of pointers
        raise ValueError(line)
    parts = [part.strip() for part in _PARTS.findall(gloss)]
    return {
        "id": LETTERS[pos] + offset,
        "words": [_MARKER.sub("", word).replace("_", " ") for word in words],
        "gloss": "; ".join(part for part in parts if part and not part.startswith('"')),
        "examples": [part[1:].partition('"')[0] for part in parts if part.startswith('"')],
    }


def _read_pack(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the pack, whose ids begin with `a` for adverbs too, which start where offsets
    restart."""
    names = list(FILES)
    letters = [*LETTERS.values()]
    last = (0, 0)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            place = letters.index(record["id"][0])
            offset = int(record["id"][1:])
            if (place, offset) < last:
                place = letters.index(LETTERS["adverb"])
            last = (place, offset)
            kept = {
                "id": letters[place] + record["id"][1:],
                "words": record["words"],
                "gloss": record["gloss"],
            }
            yield names[place], {**kept, "examples": record.get("examples", [])}


def _entry(record: dict[str, Any]) -> str:
    sentences = [part for part in (record["gloss"], *record["examples"]) if part]
    ended = (part if part.endswith((".", "!", "?")) else f"{part}." for part in sentences)
    return f"{', '.join(record['words'])}: {' '.join(ended)}"
