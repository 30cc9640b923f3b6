"""A small table with everything that a page shows, and the parts of a page."""

import csv
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = "<script>alert('x')</script>"


def drawing(number: int, size: int = 40) -> Image.Image:
    """Noise in blocks, which no other number looks like."""
    blocks = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((size, size), Image.Resampling.NEAREST)


def make_table(folder: Path) -> tuple[Path, Path]:
    """Write 20 images with captions and classes, of which one is there twice, one nearly twice, two
    are damaged and one is missing, and a validation with two of them; return both tables."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(20):
        drawing(number).save(folder / f"{number:02}.png")
        rows.append((f"{number:02}.png", f"caption {number}", ("cat", "dog")[number % 2]))
    drawing(3).save(folder / "again.png")
    near = drawing(4)
    near.putpixel((0, 0), (0, 0, 0))
    near.save(folder / "near.png")
    (folder / "cut.png").write_bytes((folder / "05.png").read_bytes()[:60])
    (folder / "web.png").write_text("<html>404</html>")
    rows += [
        ("again.png", "caption 3", "cat"),
        ("near.png", SCRIPT, SCRIPT),
        ("cut.png", "a cut", "dog"),
        ("web.png", "a web page", "dog"),
        ("gone.png", "not there", "dog"),
    ]
    train = _write(folder / "pairs.csv", rows)
    return train, _write(folder / "val.csv", [rows[7], ("08.png", "another", "cat")])


def _write(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption", "label"))
        writer.writerows(rows)
    return path


class Parts(HTMLParser):
    """The tags of a page, its ids, its links within the page, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        assert not any(name.startswith("on") for name in found), found
        if found.get("id"):
            self.ids.add(str(found["id"]))
        if tag == "a":
            self.links.append(str(found["href"]))
        if tag == "img":
            self.sources.append(str(found["src"]))

    def handle_data(self, data: str) -> None:
        self.text += data
