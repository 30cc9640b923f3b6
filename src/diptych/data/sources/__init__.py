"""Sources of data: one module per format, found by scanning this folder.

A format module has `FORMAT` (its name), `claims(spec) -> bool` and `open(spec) -> Source`. A spec
that begins with a module's optional `PREFIX` goes to that module only. A module with `ANY = True`
claims any file with its extension, or any folder, and gets those that no other format claims. To
add a format, add a module: `open_source`, and so every command, then reads it.

    glyphs:split=train:design=noto+emojione     the drawings in the package
    scenes:count=5000:number=2                  a world: generated data with exact annotation
    wordnet:pos=verb                            the glosses and examples of an installed WordNet
    shards/{0000..0099}.tar                     WebDataset shards, braces and globs
    s3://bucket/shards/{0000..0099}.tar         the same behind URLs that fsspec reads
    photos/                                     a folder: class/image.jpg, or image.jpg + image.txt
    table.csv:image=file:text=caption           CSV, TSV, JSONL, Parquet; images as paths or bytes
    sentences.txt                               a text on each line, without images
    parallel:TED2020-en-de-train.tsv.gz         texts and their translations
    captions_val2017.json:images=val2017/       COCO captions; instances_val2017.json: its boxes
    results_20130124.token                      Flickr8k and Flickr30k text files
    cc12m.npy, yfcc15m.pkl                      pickled lists of images and captions
    datasets:saved/:split=train                 Hugging Face datasets, written by save_to_disk
    filtered:kept.npz                           the output of `diptych data filter` on another source
    rewritten:rewritten.jsonl                   that of `diptych data rewrite`; rewritten:'shards/*.tar'
    refined:refined.jsonl                       that of `diptych data refine`
    overlay:photos/:pasted=digits/              images of one source pasted on those of another
    Beijing_captions.json:indicators=Beijing.csv    satellite tiles with captions and indicators
    new-test.pk                                 GeoQA+'s questions about figures, from pickles
    VOCdevkit/VOC2012/:split=val                PASCAL VOC's segmentation; cocostuff/, cityscapes/
    split_zhou_OxfordPets.json:split=train      CoOp's splits of classified images
    STS2014-gs/, sts-test.csv                   pairs of sentences with a score
    snli_ve_dev.jsonl, radnli_test_v1.jsonl     premise, hypothesis and label
    NLMCXR/, mimic-cxr-jpg/, MS_CXR.csv         reports of Open-I and MIMIC-CXR, phrases with boxes
    examples.jsonl, visual_genome_relation.json, add_att.json   Winoground, ARO, SugarCrepe
    flickr30k_test.json, coco_train.json        lists of captions, as ALBEF and BLIP read them
    ocr.json:links=pairs.csv                    texts read in images, and which belong together
    celeba/:split=train                         CelebA's lists of attributes and its images
    dsprites.npz                                dSprites; other .npz files are MedMNIST's
    variations.json                             images varied by `diptych data vary`, and as published
    v2_OpenEnded_mscoco_val2014_questions.json  VQA's questions with answers; VQA-E_val_set.json
    llava_v1_5_mix665k.json, problems.json      LLaVA's conversations, ScienceQA; coco_pope_random.json
    contrast.json                               pairs of images as MVC has them, of `diptych data contrast`
    docci_descriptions.jsonlines:split=train    DOCCI's long descriptions
    artemis_dataset_release_v0.csv              ArtEmis' paintings with emotions and explanations
    infographicsVQA_val_v1.0.json, train_human.json    questions of InfographicVQA and ChartQA
    dataset/training_data/, CORD/train/, val_v1.0.json   pages of FUNSD, CORD and DocVQA with boxes of words
    clips/:frames=8, dance.mp4                  videos, animations and folders of frames
    train_val_videodatainfo.json                MSR-VTT's videos; results_2M_train.csv: WebVid's

Any source may end with options that select a part of it: `:part=1/5`, `:shots=16`, `:classes=base`
(see `subset`), or give its classes captions: `:captions=bank.json` (see `captioned`).
"""

import importlib
import os
import pkgutil
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from diptych.data.compact import hash64
from diptych.data.endings import IMAGES, ending
from diptych.data.remote import is_url
from diptych.data.sample import Field, Sample, Schema, Source, labels_of, missing
from diptych.data.sources.captioned import Captioned
from diptych.data.sources.subset import OPTIONS, Part, narrowed
from diptych.errors import InputError, unknown
from diptych.renamed import refuse
from diptych.spec import Spec, parse, split_specs

_WILD = re.compile(r"[*?\[{]")


@lru_cache(maxsize=1)
def formats() -> dict[str, ModuleType]:
    """All format modules of this folder, by their `FORMAT` names."""
    found = (
        importlib.import_module(f"{__name__}.{item.name}")
        for item in pkgutil.iter_modules(__path__)
    )
    return {module.FORMAT: module for module in found if hasattr(module, "FORMAT")}


class Items(Protocol):
    """A list, a table, a torch Dataset: what `python.source_of` takes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


DataLike = str | Path | Source | Items
"""Data as the functions of `diptych` take them: a spec, a source, or data of a Python program."""


def open_source(spec: DataLike) -> Source:
    """Open the source `NAME_OR_PATH[:option=value…]`; several, separated by commas, are
    concatenated. Data of a Python program become a source as in `python.source_of`, and a source
    stays as it is.

    Raises InputError if the source does not exist, is empty, or has no format that reads it.

    >>> len(open_source("glyphs:split=val:design=noto,glyphs:split=test:design=noto"))
    369
    """
    if isinstance(spec, Path):
        spec = str(spec)
    if not isinstance(spec, str):
        return spec if isinstance(spec, Source) else formats()["python"].source_of(spec)
    if not spec:
        raise InputError(
            "no data given; name a source, such as glyphs, photos/ or 'shards/{0000..0099}.tar'"
        )
    specs = [spec] if os.path.exists(spec) else split_specs(spec)  # noqa: PTH110  (False for any text)
    sources = [_open_one(parse(part)) for part in specs]
    return sources[0] if len(sources) == 1 else Concat(sources)


def _open_one(spec: Spec) -> Source:
    if is_url(spec.name) and not formats()["tar"].claims(spec):
        raise InputError(
            f"{spec.name}: only tar shards are read by URL, and other data from disks, not from the network; "
            "download it first"
        )
    refuse("source", [spec.name.partition(":")[0]] if ":" in spec.name else ())
    own = {key: value for key, value in spec.options.items() if key not in OPTIONS}
    if len(own) < len(spec.options):
        source = narrowed(_open_one(replace(spec, options=own)), spec.options)
        if "captions" not in spec.options:
            return source
        of = spec.options.get("of")
        return Captioned(source, str(spec.options["captions"]), None if of is None else str(of))
    _refuse_irregular(spec.name)
    prefixed = [
        module
        for module in formats().values()
        if spec.name.startswith(getattr(module, "PREFIX", "\0"))
    ]
    claiming = prefixed or [module for module in formats().values() if module.claims(spec)]
    claiming = [module for module in claiming if not getattr(module, "ANY", False)] or claiming
    assert len(claiming) <= 1, f"{spec.name} is claimed by several formats: {claiming}"
    if claiming:
        return claiming[0].open(spec)
    path = Path(spec.name)
    if (images := _images_of(path)) is not None:
        raise InputError(images)
    if os.path.exists(path):  # noqa: PTH110
        raise InputError(
            f"{path}: no format reads this file; the formats are {', '.join(sorted(formats()))}"
        )
    if path.suffix or len(path.parts) > 1:
        raise InputError(f"{path}: no such file or folder; check the path")
    from diptych.data.worlds import cards  # worlds draw from sources

    here = (entry.name for entry in Path().iterdir() if entry.is_dir())
    raise unknown("source", spec.name, ["glyphs", "wordnet", *cards(), *here])


def _images_of(path: Path) -> str | None:
    """What to do with a path that is one image, or a pattern of images; None for other paths."""
    kinds = re.findall(r"\w+", ending(path.name))
    is_images = any(kind in IMAGES for kind in kinds)
    if os.path.exists(path):  # noqa: PTH110
        taken = "`diptych classify`, `detect`, `segment` and `generate` take one image too"
        place = f"name its folder, {path.parent}/"
        return f"{path}: one image is no source; {place} ({taken})" if is_images else None
    wild = next((at for at, part in enumerate(path.parts) if _WILD.search(part)), None)
    if wild is None or not (is_images or not kinds):
        return None
    return (
        f"{path}: a pattern of images is no source; name their folder, {Path(*path.parts[:wild])}/"
    )


def _refuse_irregular(name: str) -> None:
    path = re.sub(r"^\w+:", "", name) if not os.path.exists(name) else name  # noqa: PTH110  (filtered:FILE)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # noqa: PTH110,PTH112,PTH113
        raise InputError(
            f"{path}: a pipe, a device or a socket, which cannot be read at random; save it as a file"
        )


class Concat:
    """Concatenated sources. If a key occurs in two of them, all keys are prefixed with their
    source's number.

    Labels of the same name are renumbered to the union of their class names, in order of
    appearance. A field that only some sources have becomes optional.
    """

    def __init__(self, sources: Sequence[Source]):
        assert sources
        self.sources = list(sources)
        self.name = ",".join(source.name for source in sources)
        self._ends = np.cumsum([len(source) for source in sources])
        self._prefixed = _collide([source.keys() for source in sources])
        self._schema, self._renumber = _merge([source.schema() for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, index: int) -> tuple[int, int]:
        index = range(len(self))[index]  # negative and out-of-range indices as in a list
        which = bisect_right(self._ends, index)
        return which, index - (int(self._ends[which - 1]) if which else 0)

    def __getitem__(self, index: int) -> Sample:
        which, at = self._find(index)
        sample = self.sources[which][at]
        if self._prefixed:
            sample = replace(sample, key=f"{which}/{sample.key}")
        renumber = self._renumber[which]
        return _relabelled(sample, renumber) if renumber else sample

    def keys(self) -> Sequence[str]:
        """The keys of all sources in order."""
        return _Keys(self)

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,), -1 (NaN of floats) if a source lacks it, without decoding
        images."""
        parts = []
        none = missing(self._schema.get(f"labels.{name}"))
        for source, renumber in zip(self.sources, self._renumber, strict=True):
            there = f"labels.{name}" in source.schema()
            values = labels_of(source, name) if there else np.full(len(source), none)
            table = renumber.get(name)
            parts.append(
                values if table is None else np.where(values < 0, -1, np.asarray(table)[values])
            )
        return np.concatenate(parts)

    @property
    def damage(self) -> Mapping[str, str]:
        """The samples that the sources lost when they were indexed: place -> reason."""
        return {
            key: reason
            for source in self.sources
            for key, reason in getattr(source, "damage", {}).items()
        }

    def schema(self) -> Schema:
        """The fields of all sources."""
        return self._schema


class _Keys(Sequence[str]):
    def __init__(self, concat: Concat):
        self._concat = concat
        self._keys = [source.keys() for source in concat.sources]

    def __len__(self) -> int:
        return len(self._concat)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        which, at = self._concat._find(index)
        return (
            f"{which}/{self._keys[which][at]}" if self._concat._prefixed else self._keys[which][at]
        )


def _collide(all_keys: Sequence[Sequence[str]]) -> bool:
    """Whether a key occurs in two lists, by 64-bit hashes, which take less memory than millions of
    strings."""
    hashes = [
        np.unique(
            np.fromiter(
                (hash64(key.encode("utf-8", "surrogateescape")) for key in keys),
                np.uint64,
                count=len(keys),
            )
        )
        for keys in all_keys
    ]
    together = np.concatenate(hashes)
    return len(np.unique(together)) < len(together)


def _relabelled(sample: Sample, renumber: Mapping[str, Sequence[int]]) -> Sample:
    """The sample, and its edits, with renumbered labels."""
    labels = {name: _renumbered(value, renumber.get(name)) for name, value in sample.labels.items()}
    edits = [_relabelled(edit, renumber) for edit in sample.edits]
    return replace(sample, labels=labels, edits=edits)


def _renumbered(value: int | float, table: Sequence[int] | None) -> int | float:
    return value if table is None or value < 0 else table[int(value)]


def _merge(schemas: Sequence[Schema]) -> tuple[dict[str, Field], list[dict[str, list[int]]]]:
    """The merged schema, and for each source the new numbers of labels whose class lists differ."""
    merged: dict[str, Field] = {}
    renumber: list[dict[str, list[int]]] = [{} for _ in schemas]
    for name in dict.fromkeys(name for schema in schemas for name in schema):
        fields = [schema[name] for schema in schemas if name in schema]
        kinds = {field.kind for field in fields}
        if len(kinds) > 1:
            raise InputError(
                f"the sources disagree on {name}: {' and '.join(sorted(kinds))}; give them separately"
            )
        lists = {field.classes for field in fields}
        if len(lists) > 1 and () in lists:
            raise InputError(
                f"{name} has class names in one source and bare numbers in another; give them separately"
            )
        classes = tuple(dict.fromkeys(entry for field in fields for entry in field.classes))
        if len(lists) > 1:
            number = {entry: at for at, entry in enumerate(classes)}
            for tables, schema in zip(renumber, schemas, strict=True):
                if name in schema:
                    tables[name.removeprefix("labels.")] = [
                        number[entry] for entry in schema[name].classes
                    ]
        optional = len(fields) < len(schemas) or any(field.optional for field in fields)
        merged[name] = Field(kind=fields[0].kind, optional=optional, classes=classes)
    return merged, renumber


__all__ = ["Concat", "DataLike", "Items", "Part", "formats", "open_source"]
