"""Rebuild the drawings that ship with diptych (src/diptych/data/glyphs) from the public packages
they come from.

    pip install resvg-py==0.5.0
    python tools/make_glyphs.py --out build/glyphs              # download, draw, write, compare with the shipped pack
    python tools/make_glyphs.py --out build/glyphs --packages D # the .tgz files are already in folder D

Fetches five npm packages (12 MB) with `npm pack`, checks each against its published SHA-512, and
reads them without unpacking. The shipped split of the concepts is a hash of their codes, so it is
made here too: nothing is copied from the old pack. concepts.jsonl comes out equal, byte for byte,
and so do the lines of names.jsonl.gz; the sheets, which are lossy, to 2 grey levels of 255 on
average.
"""

import argparse
import base64
import gzip
import hashlib
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

TILE = 64
COLUMNS = 40
DRAWN = 128  # pixels at which an icon is drawn before it is scaled to TILE
QUALITY = {
    "quality": 81,
    "alpha_quality": 45,
    "method": 6,
}  # 5.3 MB in all, no loss that the eye sees at 64 px
EMOJI_VERSION = 15.1  # later ones are drawn by few hands
SHIPPED = Path(__file__).parents[1] / "src" / "diptych" / "data" / "glyphs"

PACKAGES = {  # name: (version, published SHA-512)
    "@iconify-json/noto": (
        "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    "@iconify-json/twemoji": (
        "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    ),
    "@iconify-json/fluent-emoji-flat": (
        "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    "@iconify-json/emojione": (
        "1.2.3",
        "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
    ),
    "emojibase-data": (
        "17.0.0",
        "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    ),
}
DESIGNS = {
    "noto": "@iconify-json/noto",
    "twemoji": "@iconify-json/twemoji",
    "fluent-flat": "@iconify-json/fluent-emoji-flat",
    "emojione": "@iconify-json/emojione",
}
LANGUAGES = (  # all of emojibase-data but English, whose names are in concepts.jsonl
    *("bn", "da", "de", "en-gb", "es", "es-mx", "et", "fi", "fr", "hi", "hu", "it", "ja", "ko"),
    *("lt", "ms", "nb", "nl", "pl", "pt", "ru", "sv", "th", "uk", "vi", "zh", "zh-hant"),
)
# silhouettes of "any family" and "any couple": signs of a category, alike in all hands
LEFT_OUT = {
    "1f9d1-200d-1f91d-200d-1f9d1",
    "1f9d1-200d-1f9d1-200d-1f9d2",
    "1f9d1-200d-1f9d1-200d-1f9d2-200d-1f9d2",
    "1f9d1-200d-1f9d2",
    "1f9d1-200d-1f9d2-200d-1f9d2",
}


def package(name: str, folder: Path) -> tarfile.TarFile:
    """The npm package, downloaded into `folder` unless it is there, checked against its published
    hash."""
    version, integrity = PACKAGES[name]
    path = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not path.exists():
        subprocess.run(
            ["npm", "pack", f"{name}@{version}", "--pack-destination", folder], check=True
        )
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != integrity:
        raise SystemExit(f"{path}: SHA-512 is {found}, not the published {integrity}")
    return tarfile.open(path)


def read_json(tar: tarfile.TarFile, name: str) -> dict:
    """One JSON file of a package."""
    member = tar.extractfile(f"package/{name}")
    assert member is not None
    return json.load(member)


def code(hexcode: str) -> str:
    """The code as the icon sets write it: lower case, without the sign that asks for the coloured
    form."""
    return hexcode.lower().replace("-fe0f", "")


def split(hexcode: str) -> str:
    """A tenth for testing, a tenth for validation, by the concept's code alone.

    >>> split("1f600"), split("1f604")
    ('train', 'test')
    """
    digit = int.from_bytes(hashlib.sha1(hexcode.encode()).digest(), "big") % 10
    return {0: "test", 1: "val"}.get(digit, "train")


def slug(name: str) -> str:
    """A name as icon sets spell it: "keycap: #" -> "keycap"."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub("['’]", "", name.lower())).strip("-")


def icon_names(
    hexcode: str, name: str, chars: dict[str, dict], icons: dict[str, dict]
) -> dict[str, str]:
    """The icon of a concept in each design: by its code, else (EmojiOne's package lists none) by
    the others' names."""
    listed = {design: chars[design][hexcode] for design in chars if hexcode in chars[design]}
    found = {}
    for design, icon_set in icons.items():
        known = {*icon_set["icons"], *icon_set.get("aliases", {})}
        candidates = [listed[design]] if design in listed else [slug(name), *listed.values()]
        if match := next((candidate for candidate in candidates if candidate in known), None):
            found[design] = match
    return found


def draw(icon_set: dict, name: str) -> Image.Image:
    """One icon as RGBA, TILE x TILE: stretched where it is not square, as one of them (Twemoji's
    watermelon) is."""
    import resvg_py

    while name in icon_set.get("aliases", {}):
        name = icon_set["aliases"][name]["parent"]
    icon = icon_set["icons"][name]
    width = icon.get("width", icon_set["width"])
    height = icon.get("height", icon_set["height"])
    left = icon.get("left", 0)
    top = icon.get("top", 0)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{DRAWN}" height="{DRAWN}" viewBox="{left} {top} {width} {height}" preserveAspectRatio="none">'
        f"{icon['body']}</svg>"
    )
    drawing = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    return drawing.resize((TILE, TILE), Image.Resampling.BICUBIC)


def concepts(
    data: list[dict], groups: dict, chars: dict[str, dict], icons: dict[str, dict]
) -> list[dict]:
    """The records of concepts.jsonl, with the name of each design's icon under "icons" (not
    written)."""
    records = []
    for entry in data:
        hexcode = code(entry["hexcode"])
        drawn_by_both = all(hexcode in chars[design] for design in ("noto", "twemoji"))
        if (
            "group" not in entry
            or entry["version"] > EMOJI_VERSION
            or hexcode in LEFT_OUT
            or not drawn_by_both
        ):
            continue
        names = icon_names(hexcode, entry["label"], chars, icons)
        records.append(
            {
                "index": len(records),
                "hexcode": hexcode,
                "char": entry["emoji"],
                "name": entry["label"],
                "tags": entry.get("tags", []),
                "group": groups["groups"][str(entry["group"])],
                "subgroup": groups["subgroups"][str(entry["subgroup"])],
                "designs": [design for design in DESIGNS if design in names],
                "split": split(hexcode),
                "icons": names,
            }
        )
    return records


def names(records: list[dict], languages: dict[str, list[dict]]) -> str:
    """The lines of names.jsonl.gz: the names of each concept by language, without tags."""
    labels = {
        language: {code(entry["hexcode"]): entry["label"] for entry in data}
        for language, data in languages.items()
    }
    lines = [
        {
            "index": record["index"],
            "names": {language: found[record["hexcode"]] for language, found in labels.items()},
        }
        for record in records
    ]
    return as_lines(lines)


def as_lines(records: list[dict]) -> str:
    """Records as JSON lines."""
    return "".join(
        json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n" for record in records
    )


def main() -> None:
    """Build the pack, then say how far it is from the shipped one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packages", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.packages or options.out
    icons = {
        design: read_json(package(name, folder), "icons.json") for design, name in DESIGNS.items()
    }
    chars = {
        d: read_json(package(n, folder), "chars.json")
        for d, n in DESIGNS.items()
        if d != "emojione"
    }
    emojibase = package("emojibase-data", folder)
    data = read_json(emojibase, "en/data.json")
    groups = read_json(emojibase, "meta/groups.json")
    records = concepts(data, groups, chars, icons)  # type: ignore[arg-type]

    rows = -(-len(records) // COLUMNS)
    for design in DESIGNS:
        sheet = Image.new("RGBA", (COLUMNS * TILE, rows * TILE))
        for record in records:
            if name := record["icons"].get(design):
                at = (record["index"] % COLUMNS * TILE, record["index"] // COLUMNS * TILE)
                sheet.paste(draw(icons[design], name), at)
        sheet.save(options.out / f"{design}.webp", **QUALITY)
    lines = [{key: value for key, value in record.items() if key != "icons"} for record in records]
    (options.out / "concepts.jsonl").write_text(as_lines(lines), encoding="utf-8", newline="\n")
    languages = {name: read_json(emojibase, f"{name}/data.json") for name in LANGUAGES}
    packed = gzip.compress(names(records, languages).encode(), 9, mtime=0)  # type: ignore[arg-type]
    (options.out / "names.jsonl.gz").write_bytes(packed)
    compare(options.out)


def compare(out: Path) -> None:
    """Print how the built pack differs from the shipped one."""
    same = (out / "concepts.jsonl").read_bytes() == (SHIPPED / "concepts.jsonl").read_bytes()
    print("concepts.jsonl:", "equal" if same else "DIFFERENT")
    ours, shipped = (gzip.decompress((at / "names.jsonl.gz").read_bytes()) for at in (out, SHIPPED))
    print("names.jsonl.gz:", "equal" if ours == shipped else "DIFFERENT")
    for design in DESIGNS:
        ours, shipped = (on_white(folder / f"{design}.webp") for folder in (out, SHIPPED))
        if ours.shape != shipped.shape:
            print(f"{design}: sheet is {ours.shape}, shipped {shipped.shape}")
            continue
        tiles = np.abs(ours - shipped).reshape(-1, TILE, COLUMNS, TILE, 3).mean((1, 3, 4)).ravel()
        print(
            f"{design}: mean difference {tiles.mean():.2f} of 255, worst tile {tiles.argmax()} with {tiles.max():.2f}"
        )


def on_white(path: Path) -> np.ndarray:
    """A sheet laid on white, as numbers."""
    image = Image.open(path).convert("RGBA")
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return np.asarray(ground).astype(np.float32)


if __name__ == "__main__":
    main()
