"""Index of tars by their headers: offsets of members, damage, unsafe members.

Python's tarfile stops silently at the first bad header; here the damage is counted and reading
continues after it.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from diptych.data import remote
from diptych.data.compact import Strings
from diptych.data.sources import cache
from diptych.errors import InputError

_BLOCK = 512
_PICKLES = (
    "pkl",
    "pickle",
    "pyd",
    "pt",
    "pth",
    "joblib",
    "dill",
)  # reading them can run arbitrary code
_UNSAFE_TYPES = {
    b"1": "a link",
    b"2": "a link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "sparse",
}
_FILE = (b"0", b"\0", b"7")
_FOLDER = b"5"
_PAX = b"x"
_GLOBAL = b"g"
_LONG_NAME = b"L"
_LONG_LINK = b"K"
_PASSED_OVER = (
    _FOLDER,
    _GLOBAL,
    _LONG_LINK,
    b"V",
    b"D",
)  # V, D: GNU's volume label and folder list
_LONGEST_HEADER = 1 << 20  # bytes of an extended header; a path is rarely above a thousand
_LENGTH = re.compile(rb"(\d{1,7}) ")

_CACHED_FROM = 50_000  # members; fewer are indexed in less than a second
_CACHED_FROM_URLS = 1_000  # whose tars are read whole for it
_THREADS = 16  # that wait for a server


@dataclass(frozen=True)
class Index:
    """All shards' samples in file order: N samples, M members.

    Sample i is in shard `shard[i]`; its members are `ends[i - 1]` … `ends[i]` - 1, each with the
    number of its extension, its offset and its size.
    """

    keys: Strings
    extensions: list[str]
    damage: dict[str, str]
    shard: np.ndarray  # (N,) int32
    ends: np.ndarray  # (N,) int64
    extension: np.ndarray  # (M,) uint16
    offset: np.ndarray  # (M,) int64
    size: np.ndarray  # (M,) int64

    def arrays(self) -> dict[str, Any]:
        """The index as arrays for `np.savez`."""
        words = json.dumps([self.extensions, self.damage]).encode()
        numbers = {
            name: getattr(self, name) for name in ("shard", "ends", "extension", "offset", "size")
        }
        return {"words": np.frombuffer(words, np.uint8), **self.keys.arrays("key"), **numbers}

    @classmethod
    def from_arrays(cls, arrays: Any) -> "Index":
        """The inverse of `arrays`."""
        extensions, damage = json.loads(arrays["words"].tobytes())
        numbers = {name: arrays[name] for name in ("shard", "ends", "extension", "offset", "size")}
        return cls(Strings.from_arrays(arrays, "key"), extensions, damage, **numbers)


def load_index(paths: Sequence[str], stored: Path) -> Index:
    """The index of the shards; a large one is cached in `stored`, which depends on their content."""
    kept = cache.read(stored, _load)
    if kept is not None:
        return kept
    urls = any(map(remote.is_url, paths))
    with ThreadPoolExecutor(_THREADS if urls else 1) as pool:
        index = _join([*pool.map(index_shard, paths)], paths)
    if len(index.offset) >= (_CACHED_FROM_URLS if urls else _CACHED_FROM):
        cache.write(stored, lambda file: np.savez(file, **index.arrays()))
    return index


def _load(stored: Path) -> Index:
    with np.load(stored) as arrays:
        return Index.from_arrays(arrays)


def _join(shards: Sequence["Shard"], paths: Sequence[str]) -> Index:
    keys = [key for shard in shards for key in shard.keys]
    if len(set(keys)) < len(keys):  # two shards share a key: prefix the shard's name
        stems = [Path(path).stem for path in paths]
        names = (
            stems
            if len(set(stems)) == len(stems)
            else [str(Path(path).with_suffix("")) for path in paths]
        )
        keys = [
            f"{name}/{key}" for name, shard in zip(names, shards, strict=True) for key in shard.keys
        ]
    extensions = sorted({extension for shard in shards for extension in shard.extensions})
    code = {extension: at for at, extension in enumerate(extensions)}
    return Index(
        keys=Strings(keys),
        extensions=extensions,
        damage={place: reason for shard in shards for place, reason in shard.damage.items()},
        shard=np.repeat(
            np.arange(len(shards), dtype=np.int32), [len(shard.keys) for shard in shards]
        ),
        ends=np.cumsum([count for shard in shards for count in shard.counts], dtype=np.int64),
        extension=np.array(
            [code[name] for shard in shards for name in shard.extensions], np.uint16
        ),
        offset=np.array([offset for shard in shards for offset in shard.offsets], np.int64),
        size=np.array([size for shard in shards for size in shard.sizes], np.int64),
    )


@dataclass
class Shard:
    """One tar's samples in file order: sample i has `counts[i]` entries of `extensions`, `offsets`
    and `sizes`."""

    path: str
    keys: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    extensions: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    damage: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    offset: int
    size: int
    # "checksum", "truncated" or "member-type"; if not empty, only the name, if known, is valid
    damage: str = ""


def index_shard(path: str) -> Shard:
    """Index a tar. Members with one key form one sample, wherever they are in the tar.

    Each damage is counted once. A header with a wrong checksum or size, or a member of an unknown
    type, loses its sample; a truncated tail loses the sample that it cuts; a repeated key is a
    duplicate. Raises InputError for a file that is no tar, a compressed tar, and a member with an
    absolute path or "..", or that is a link, device or pickle.
    """
    shard = Shard(path)
    samples: dict[str, dict[str, _Member]] = {}
    repeats: Counter[tuple[str, str]] = Counter()
    lost: dict[str, str] = {}
    last = ""
    for member in _members(path):
        key, extension = _split(member.name)
        if member.damage:
            key = key or (_torn(samples, last) if member.damage == "truncated" else "")
            lost[key or f"@{member.offset}"] = member.damage
            continue
        _refuse_unsafe(path, member.name)
        if not (key and extension):
            continue
        sample = samples.setdefault(key, {})
        if (
            extension in sample
        ):  # a second .jpg and a second .json of one key count as one duplicate
            repeats[key, extension] += 1
            shard.damage[f"{path}:{key}#{1 + repeats[key, extension]}"] = "duplicate-key"
        else:
            sample[extension] = member
        last = key
    for key, reason in lost.items():
        shard.damage[f"{path}:{key}"] = reason
        samples.pop(key, None)
    for key, members in samples.items():
        shard.keys.append(key)
        shard.counts.append(len(members))
        shard.extensions += members
        shard.offsets += [member.offset for member in members.values()]
        shard.sizes += [member.size for member in members.values()]
    return shard


def _torn(samples: dict[str, dict[str, _Member]], last: str) -> str:
    """The sample cut by truncation between members: the last, if it lacks extensions of the
    first."""
    return last if last and set(samples[last]) < set(samples[next(iter(samples))]) else ""


def _split(name: str) -> tuple[str, str]:
    """Split `dir/stem.a.b` into (`dir/stem`, `a.b`); hidden and special files have no key.

    >>> _split("./000/cat.seg.PNG"), _split("a/._cat.jpg")
    (('000/cat', 'seg.png'), ('', ''))
    """
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or base.startswith("__"):
        return "", ""
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def _refuse_unsafe(path: str, name: str) -> None:
    if (
        name.startswith(("/", "\\"))
        or name[1:2] == ":"
        or ".." in name.replace("\\", "/").split("/")
    ):
        raise InputError(
            f"{path}: member {name!r} points outside the tar; repack it with plain relative names"
        )
    if name.rpartition(".")[2].lower() in _PICKLES:
        raise InputError(
            f"{path}: member {name!r} is a pickle, which runs code when read; store JSON or .npy instead"
        )


def _members(path: str) -> Iterator[_Member]:
    """Yield every file member, and damage at its position."""
    url = remote.is_url(path)
    with remote.opened(path) if url else Path(path).open("rb", buffering=1 << 14) as file:
        end = file.seek(0, os.SEEK_END)
        at = 0
        found = False
        closed = end == 0
        # from an extended header, for the member that follows
        name = ""
        size = -1
        while at < end:
            block = _read(file, at, _BLOCK)
            if len(block) == _BLOCK and not any(block):
                at = _after_zeros(file, at)
                closed = True
                continue
            if len(block) < _BLOCK:
                break
            closed = False
            header = _parse(block)
            if header is None:
                at = _resync(file, path, at, found, block)
                yield _Member(_name(block) if block[257:262] == b"ustar" else "", at, 0, "checksum")
                name = ""
                size = -1
                continue
            found = True
            kind, plain_name, plain_size = header
            member_name = name or plain_name
            member_size = size if size >= 0 else plain_size
            data = at + _BLOCK
            at = at + _BLOCK + -(-member_size // _BLOCK) * _BLOCK
            if kind in _UNSAFE_TYPES:
                raise InputError(
                    f"{path}: member {member_name!r} is {_UNSAFE_TYPES[kind]}; repack the tar with plain files"
                )
            if data + member_size > end:
                yield _Member(member_name if kind in _FILE else "", data, 0, "truncated")
                return
            if kind in (_LONG_NAME, _PAX):
                try:
                    name, size = _extended(file, kind, data, member_size, name, size)
                except ValueError:
                    yield _Member("", data, 0, "checksum")
                continue
            if kind in _FILE:
                yield _Member(member_name, data, member_size)
            elif kind not in _PASSED_OVER:
                yield _Member(member_name, data, 0, "member-type")
            if kind not in (_GLOBAL, _LONG_LINK):
                name = ""
                size = -1
        if not closed:  # a complete tar ends with blocks of zeros
            yield _Member("", end, 0, "truncated")


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _after_zeros(file: BinaryIO, at: int) -> int:
    """The offset of the first block from `at` that is not all zeros (another tar may be appended),
    or the end."""
    file.seek(at)
    while chunk := file.read(1 << 20):
        rest = chunk.lstrip(b"\0")
        if rest:
            return at + (len(chunk) - len(rest)) // _BLOCK * _BLOCK
        at += len(chunk)
    return at


def _resync(file: BinaryIO, path: str, at: int, found: bool, block: bytes) -> int:
    """The offset of the next valid header after a bad one. Raises InputError for a file without
    any."""
    while len(following := _read(file, at := at + _BLOCK, _BLOCK)) == _BLOCK:
        if following[257:262] == b"ustar" and _parse(following) is not None:
            return at
    if not found:
        if block.startswith(b"\x1f\x8b"):
            raise InputError(
                f"{path}: a compressed tar cannot be read at random; unpack it with gunzip first"
            )
        raise InputError(
            f"{path}: not a tar file (it begins with {block[:16]!r}); check where it came from"
        )
    return at


def _parse(block: bytes) -> tuple[bytes, str, int] | None:
    """(type, name, size) of a header, or None if its checksum or size is invalid."""
    try:
        stored = int(block[148:156].strip(b" \0") or b"0", 8)
        if stored != sum(block) - sum(block[148:156]) + 8 * ord(" "):
            return None
        return block[156:157], _name(block), _number(block[124:136])
    except ValueError:
        return None


def _name(block: bytes) -> str:
    name = _text(block[:100].partition(b"\0")[0])
    # GNU tars (magic "ustar ") store times, not a prefix, at 345.
    prefix = _text(block[345:500].partition(b"\0")[0]) if block[257:265] == b"ustar\x0000" else ""
    return f"{prefix}/{name}" if prefix else name


def _number(data: bytes) -> int:
    if data[0] == 0x80:  # base 256, for members above 8 GB (0xFF marks a negative one)
        return int.from_bytes(data[1:], "big")
    size = int(data.strip(b" \0") or b"0", 8)
    if size < 0:
        raise ValueError("a size below 0")
    return size


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _extended(
    file: BinaryIO, kind: bytes, offset: int, length: int, name: str, size: int
) -> tuple[str, int]:
    """Name and size of the following member, from an extended header. Raises ValueError for a bad
    one."""
    if length > _LONGEST_HEADER:
        raise ValueError("an extended header that is too long")
    data = _read(file, offset, length)
    return (_text(data.rstrip(b"\0")), size) if kind == _LONG_NAME else _pax(data, name, size)


def _pax(data: bytes, name: str, size: int) -> tuple[str, int]:
    """`path` and `size` of a POSIX extended header: records of "LENGTH KEY=VALUE\\n"."""
    at = 0
    while at < len(data):
        length = _LENGTH.match(data, at)
        end = at + int(length[1]) if length else 0
        if length is None or not length.end() < end <= len(data):
            raise ValueError("damaged extended header")
        key, _, value = data[length.end() : end - 1].partition(b"=")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            if not value.isdigit():
                raise ValueError("a size that is no number")
            size = int(value)
        at = end
    return name, size
