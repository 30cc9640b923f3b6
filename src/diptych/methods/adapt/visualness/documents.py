"""Pages of documents as a table: the blocks of text and the images of HTML and PDF files, in their
order.

    {"text": "Permits must be renewed every year.", "image": null, "page_id": "report.pdf#3"}
    {"image": "pages/000012.png", "page_id": "report.pdf#3"}

`diptych data label` finds the sentences of such a table that are visual (`pages`). An HTML file is
one page, of which no address is fetched: its images are those in the folder. Each page of a PDF is
one, and its images are written as PNG; text that is drawn as an image, as in scans, is not read.

Sizes and numbers are limited, since documents come from others: what exceeds them, cannot be read
or is smaller than `SMALL` pixels is left out and counted by its reason.
"""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from PIL import Image

from diptych.data.images import FileImage, is_image
from diptych.data.sample import BadSample
from diptych.errors import InputError, some
from diptych.files import write_atomic

SMALL = 32
"""Images with a shorter side in pixels are signs, rules and trackers, and are left out."""
MOST_PAGES = 5000  # of a PDF
MOST_IMAGES = 200  # of a page
_BYTES = {".html": 20_000_000, ".htm": 20_000_000, ".xhtml": 20_000_000, ".pdf": 500_000_000}
"""The kinds of documents, and the most bytes of one."""

_BLOCKS = re.compile(
    "address|article|aside|blockquote|body|br|caption|center|dd|details|dialog|div|dl|dt|"
    "fieldset|figcaption|figure|footer|form|h[1-6]|header|hr|legend|li|main|ol|p|pre|section|"
    "summary|table|tbody|td|tfoot|th|thead|tr|ul"
)
"""Elements that begin and end a block of text."""
_UNSEEN = re.compile(
    "audio|button|canvas|iframe|math|nav|noscript|object|script|select|style|svg|template|textarea|title|video"
)
"""Elements of which nothing is read."""
_CHARSET = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?([\w-]+)""", re.IGNORECASE)


@dataclass
class Found:
    """What documents had: pages, texts and images that were written, and the reasons for all that
    was left out; `damaged` are the documents that could not be read, each with its reason."""

    pages: int = 0
    texts: int = 0
    images: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, str] = field(default_factory=dict)


Part = tuple[str, Any]
"""("text", a block of text), ("file", the path of an image) or ("image", its pixels)."""


def write(place: Path, out: Path, progress: Callable[[int, int], None] | None = None) -> Found:
    """Write the table of a document, or of all in a folder and those below it, to `out`.

    Images of PDFs are written into a folder beside it. Raises InputError if there is no document,
    and if the only one, or none of them, can be read.
    """
    documents = _documents(place)
    root = place if place.is_dir() else place.parent
    if any(path.suffix.lower() == ".pdf" for path in documents):
        _pypdf()
    found = Found()
    rows: list[dict[str, Any]] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(documents, 1):
        name = path.relative_to(root).as_posix()
        try:
            for page, parts in _pages(path, root, found):
                page_id = name if page is None else f"{name}#{page}"
                added = [_row(part, out, found) | {"page_id": page_id} for part in parts]
                found.pages += bool(added)
                rows += added
        except BadSample as bad:
            found.damaged[name] = bad.reason
        if progress:
            progress(number, len(documents))
    if not rows:
        reasons = {f"{name} is {reason}" for name, reason in found.damaged.items()}
        why = some(sorted(reasons)) if reasons else "they have neither text nor images"
        raise InputError(f"{place}: no page can be read ({why}); check the documents")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_atomic(out, lambda at: at.write_text("".join(lines), encoding="utf-8"))
    return found


def _documents(place: Path) -> list[Path]:
    """The documents at a place, in order. Raises InputError if there is none."""
    if not place.exists():
        raise InputError(f"{place}: there is no such file or folder; check the path")
    paths = sorted(place.rglob("*")) if place.is_dir() else [place]
    found = [path for path in paths if path.suffix.lower() in _BYTES and path.is_file()]
    if not found:
        raise InputError(f"{place}: no document with one of the endings {', '.join(_BYTES)}")
    return found


def _pages(path: Path, root: Path, found: Found) -> Iterator[tuple[int | None, list[Part]]]:
    """The pages of a document, each with its number (None: it has but one) and its parts.

    Raises BadSample for a document that is too large, damaged, encrypted or unreadable.
    """
    kind = path.suffix.lower()
    try:
        if path.stat().st_size > _BYTES[kind]:
            raise BadSample("too large", str(path))
        if kind == ".pdf":
            yield from _pdf(path, found)
        else:
            yield None, _html(path, root, found)
    except OSError as error:
        raise BadSample("unreadable", str(error)) from error


def _row(part: Part, out: Path, found: Found) -> dict[str, Any]:
    """The row of a part; pixels are written first."""
    kind, value = part
    if kind == "text":
        found.texts += 1
        # the first row of a table names its columns
        return {"text": value, "image": None}
    found.images += 1
    if kind == "image":
        folder = out.with_suffix("")
        folder.mkdir(exist_ok=True)
        path = folder / f"{found.images:06d}.png"
        write_atomic(path, lambda at: value.save(at, "PNG"))
        return {"image": f"{folder.name}/{path.name}"}
    return {"image": os.path.relpath(value, out.parent.resolve())}


# ---------------------------------------------------------------------------------------------- HTML


class _Blocks(HTMLParser):
    """Collects the blocks of text and the addresses of images, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Part] = []
        self.base = ""
        self._text: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if _UNSEEN.fullmatch(tag):
            self._unseen.append(tag)
        if self._unseen:
            return
        if _BLOCKS.fullmatch(tag):
            self.end_block()
        elif tag == "base":
            self.base = self.base or dict(attrs).get("href") or ""
        elif tag == "img" and (address := dict(attrs).get("src")):
            self.end_block()
            self.parts.append(("file", urljoin(self.base, address.strip())))

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            while self._unseen.pop() != tag:
                pass
        elif _BLOCKS.fullmatch(tag) and not self._unseen:
            self.end_block()

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._text.append(data)

    def end_block(self) -> None:
        """Add the text so far as a block."""
        text = " ".join("".join(self._text).split())
        if text:
            self.parts.append(("text", text))
        self._text = []


def _html(path: Path, root: Path, found: Found) -> list[Part]:
    """The parts of an HTML file, with the paths of images that are inside of `root`."""
    parser = _Blocks()
    try:
        parser.feed(_decoded(path.read_bytes()))
        parser.close()
    except (ValueError, AssertionError) as error:  # of declarations that are broken
        raise BadSample("damaged", str(path)) from error
    parser.end_block()
    kept: list[Part] = []
    images = 0
    for kind, value in parser.parts:
        if kind == "text":
            kept.append((kind, value))
            continue
        image, reason = _inside(value, path, root)
        images += not reason
        if images > MOST_IMAGES:
            reason = "images too many for a page"
        if reason:
            found.left_out[reason] += 1
        else:
            kept.append((kind, image))
    return kept


def _decoded(data: bytes) -> str:
    """The text of an HTML file, in the encoding that it names, else UTF-8, else Windows' Latin."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    named = _CHARSET.search(data[:2048])
    for encoding in (named[1].decode("ascii") if named else "utf-8-sig", "utf-8-sig"):
        try:
            return data.decode(encoding)
        except (LookupError, UnicodeDecodeError):
            continue
    return data.decode("cp1252", "replace")


def _inside(address: str, path: Path, root: Path) -> tuple[Path, str]:
    """The file of an image's address in a document, and the reason to leave it out, or ""."""
    try:
        parts = urlsplit(address)
        image = path.parent.joinpath(unquote(parts.path)).resolve()
        if parts.scheme or parts.netloc:
            return image, "images at web addresses or within the page"
        if not image.is_relative_to(root.resolve()):
            return image, "images outside of the folder"
        if not is_image(image):
            return image, "images that are missing or of another format"
        width, height = FileImage(str(image)).decode().size
    except (BadSample, ValueError, OSError):
        return path, "images that cannot be decoded"
    return image, "small images" if min(width, height) < SMALL else ""


# ----------------------------------------------------------------------------------------------- PDF


def _pypdf() -> Any:
    try:
        import pypdf
    except ImportError as error:
        raise InputError(
            "reading PDF needs pypdf; install it with: pip install 'diptych[documents]'"
        ) from error
    return pypdf


def _pdf(path: Path, found: Found) -> Iterator[tuple[int, list[Part]]]:
    """The pages of a PDF, each with its text, then its images."""
    pypdf = _pypdf()
    with _quiet():
        try:
            reader = pypdf.PdfReader(path)
            count = len(reader.pages)
        except OSError:
            raise
        except Exception as error:  # pypdf raises many kinds
            locked = (pypdf.errors.FileNotDecryptedError, pypdf.errors.DependencyError)
            reason = "encrypted" if isinstance(error, locked) else "damaged"
            raise BadSample(reason, f"{path}: {error}") from error
        if count > MOST_PAGES:
            raise BadSample("too long", f"{path} has {count:,} pages")
        for number in range(count):
            yield number + 1, _pdf_page(reader, number, found)


def _pdf_page(reader: Any, number: int, found: Found) -> list[Part]:
    """The parts of one page; what cannot be read is counted."""
    try:
        page = reader.pages[number]
        parts: list[Part] = [("text", text) for text in _paragraphs(page.extract_text())]
    except Exception:
        found.left_out["pages whose text is damaged"] += 1
        return []
    try:
        names = _drawn(page)
    except Exception:
        found.left_out["pages whose images are damaged"] += 1
        return parts
    if len(names) > MOST_IMAGES:
        found.left_out["images too many for a page"] += len(names) - MOST_IMAGES
    for name in names[:MOST_IMAGES]:
        try:
            image = _plain(page.images[name].image)
        except Exception:
            found.left_out["images that cannot be decoded"] += 1
            continue
        if min(image.size) < SMALL:
            found.left_out["small images"] += 1
        else:
            parts.append(("image", image))
    return parts


def _drawn(page: Any) -> list[Any]:
    """The names of a page's images that it draws, since several pages may list the same images."""
    content = page.get_contents()
    operations = [] if content is None else content.operations
    used = {operands[0] for operands, operator in operations if operator == b"Do" and operands}
    names = page.images.keys()
    firsts = [(name, name if isinstance(name, str) else name[0]) for name in names]
    # names that begin with ~ are of images within the page's own commands; of a list the first
    # one is the form that draws the image
    return [name for name, first in firsts if first in used or first.startswith("~")]


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of a page's text: its lines are joined, and words that were divided at the end
    of a line; a blank line ends a paragraph.

    >>> _paragraphs("Permits must be re-\\nnewed every\\nyear.\\n \\nFees")
    ['Permits must be renewed every year.', 'Fees']
    """
    text = text.encode("utf-8", "ignore").decode("utf-8")  # halves of surrogate pairs
    text = re.sub(r"(?<=[^\W\d_])[-\u00ad]\n(?=[^\W\d_A-Z])", "", text)
    blocks = (" ".join(block.split()) for block in re.split(r"\n\s*\n", text))
    return [block for block in blocks if block]


def _plain(image: Image.Image) -> Image.Image:
    """An image of a mode that PNG has."""
    return image if image.mode in ("L", "LA", "RGB", "RGBA") else image.convert("RGB")


@contextmanager
def _quiet() -> Iterator[None]:
    """Context in which pypdf does not log what it repairs."""
    log = logging.getLogger("pypdf")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
