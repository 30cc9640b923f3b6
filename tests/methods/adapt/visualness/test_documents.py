"""Documents to pages: HTML in all its forms, PDFs that the test writes, and what is damaged,
encrypted, too large or not theirs."""

import json
import tempfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pypdf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.adapt.visualness import documents
from diptych.methods.adapt.visualness.documents import write
from diptych.methods.adapt.visualness.pages import label
from diptych.methods.store import load

HTML = """<!DOCTYPE html><html><head><title>Not text</title><style>p { color: red }</style>
<script>document.write("<p>never</p>")</script></head><body>
<h1>Walks &amp; beaches</h1> before<p>Two   dogs run
along the <b>bea</b>ch.<br>Second line
<figure><img alt="no text" src="img/dogs.png?size=2#top"><figcaption>On sand</figcaption></figure>
<nav><a>Home</a></nav><ul><li>One<li>Two <button>Go</button></ul><noscript><p>never</p></noscript>
<template><p>never</p><script>1 < 2</script></template>
<img src="https://example.org/a.png"><img src="//example.org/a.png"><img src="data:image/png;base64,x">
<img src="../secret.png"><img src="/etc/a.png"><img src="img/none.png"><img src="img/broken.png">
<img src="img/dot.png"><img><img src="img/the%20cat.png">
Last <i>words</i></body></html>"""
WANTED = [
    {"text": "Walks & beaches"},
    {"text": "before"},
    {"text": "Two dogs run along the beach."},
    {"text": "Second line"},
    {"image": "docs/img/dogs.png"},
    {"text": "On sand"},
    {"text": "One"},
    {"text": "Two"},
    {"image": "docs/img/the cat.png"},
    {"text": "Last words"},
]


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    (folder / "img").mkdir(parents=True)
    for name in ("dogs", "the cat"):
        Image.new("RGB", (40, 50), "red").save(folder / "img" / f"{name}.png")
    Image.new("RGB", (1, 1)).save(folder / "img" / "dot.png")
    Image.new("RGB", (40, 50)).save(tmp_path / "secret.png")
    (folder / "img" / "broken.png").write_bytes(b"no image")
    (folder / "a.html").write_text(HTML, "utf-8")
    return folder


def test_html_gives_its_blocks_and_images_in_their_order(docs, tmp_path):
    found = write(docs, tmp_path / "pages.jsonl")
    assert rows(tmp_path / "pages.jsonl") == [
        ({"image": None} if "text" in row else {}) | row | {"page_id": "a.html"} for row in WANTED
    ]
    assert (found.pages, found.texts, found.images) == (1, 8, 2)
    assert found.left_out == {
        "images at web addresses or within the page": 3,
        "images outside of the folder": 2,
        "images that are missing or of another format": 1,
        "images that cannot be decoded": 1,
        "small images": 1,
    }


def test_a_base_decides_where_images_are(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    for base in ("https://example.org/", "img/"):
        (tmp_path / "a.html").write_text(f"<base href='{base}'><p>A text<img src='a.png'>")
        found = write(tmp_path / "a.html", tmp_path / "pages.jsonl")
        assert (found.images, found.left_out.total()) == (0, 1)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<p>schön".encode(), "schön"),
        (b"<meta charset=iso-8859-1><p>sch\xf6n", "schön"),
        (b"<p>sch\xf6n \x93so\x94", "schön “so”"),
        ("\ufeff<p>schön".encode(), "schön"),
        ("<p>schön".encode("utf-16"), "schön"),
        (b"<meta charset=nonsense><p>a", "a"),
        (b"<?xml version='1.0' encoding='latin-1'?><p>\xe9t\xe9</p>", "été"),
        (b"<p>a <![if x]> b <!-- <p>c --> ", "a b"),
    ],
)
def test_html_of_any_encoding_and_broken_html_is_read(data, text, tmp_path):
    (tmp_path / "a.htm").write_bytes(data)
    write(tmp_path / "a.htm", tmp_path / "pages.jsonl")
    assert rows(tmp_path / "pages.jsonl") == [{"text": text, "image": None, "page_id": "a.htm"}]


def pdf(*pages, password=None, algorithm="RC4-128"):
    """A PDF with pages of lines and an image of a colour each, or none."""
    writer = pypdf.PdfWriter()
    for lines, colour in pages:
        if colour is not None:
            buffer = BytesIO()
            size = (60, 40) if colour != "small" else (8, 8)
            Image.new("RGB", size, "red" if colour == "small" else colour).save(buffer, "PDF")
            page = writer.add_page(pypdf.PdfReader(buffer).pages[0])
        else:
            page = writer.add_blank_page(200, 200)
        font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
        named = {NameObject(key): NameObject(value) for key, value in font.items()}
        resources = page.setdefault(NameObject("/Resources"), DictionaryObject()).get_object()
        resources[NameObject("/Font")] = DictionaryObject(
            {NameObject("/F1"): DictionaryObject(named)}
        )
        drawn = "".join(f"({line}) Tj 0 -14 Td " for line in lines)
        stream = DecodedStreamObject()
        old = page.get_contents()
        stream.set_data(
            (b"" if old is None else old.get_data())
            + f"\nBT /F1 12 Tf 20 180 Td {drawn} ET".encode()
        )
        page[NameObject("/Contents")] = stream
    if password is not None:
        writer.encrypt(password, algorithm=algorithm)
    buffer = BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


PAGES = (
    (["Two dogs run along", "the beach. Permits must be re-", "newed."], "blue"),
    (["Fees"], None),
)


def test_each_page_of_a_pdf_has_its_texts_and_images(tmp_path):
    (tmp_path / "report.pdf").write_bytes(pdf(*PAGES, (["Signs"], "small"), ([], None)))
    out = tmp_path / "out" / "pages.jsonl"
    found = write(tmp_path / "report.pdf", out)
    assert rows(out) == [
        {
            "text": "Two dogs run along the beach. Permits must be renewed.",
            "image": None,
            "page_id": "report.pdf#1",
        },
        {"image": "pages/000001.png", "page_id": "report.pdf#1"},
        {"text": "Fees", "image": None, "page_id": "report.pdf#2"},
        {"text": "Signs", "image": None, "page_id": "report.pdf#3"},
    ]
    with Image.open(out.parent / "pages" / "000001.png") as image:
        assert (image.size, image.getpixel((30, 20))) == (
            (60, 40),
            pytest.approx((0, 0, 255), abs=9),
        )
    assert found.left_out == {"small images": 1}
    assert found.pages == 3


def test_a_page_has_the_images_that_it_draws_not_all_that_it_lists(tmp_path):
    writer = pypdf.PdfWriter(BytesIO(pdf(([], "blue"), ([], "red"))))
    first, second = writer.pages
    images = [page["/Resources"]["/XObject"].get_object() for page in (first, second)]
    both = DictionaryObject()
    for number, listed in enumerate(images):
        [name] = listed.keys()
        both[NameObject(f"/I{number}")] = listed.raw_get(name)
        stream = DecodedStreamObject()
        stream.set_data(f"q 60 0 0 40 0 0 cm /I{number} Do Q".encode())
        writer.pages[number][NameObject("/Contents")] = stream
    for page in writer.pages:
        page["/Resources"][NameObject("/XObject")] = both
    writer.write(tmp_path / "a.pdf")
    found = write(tmp_path / "a.pdf", tmp_path / "pages.jsonl")
    assert found.images == 2
    assert [row["page_id"] for row in rows(tmp_path / "pages.jsonl")] == ["a.pdf#1", "a.pdf#2"]
    with Image.open(tmp_path / "pages" / "000002.png") as image:
        assert image.getpixel((30, 20)) == pytest.approx((255, 0, 0), abs=9)


def test_documents_that_cannot_be_read_are_counted_and_the_only_one_is_an_error(docs, tmp_path):
    bad = {
        "empty.pdf": (b"", "damaged"),
        "text.pdf": (b"this is no PDF", "damaged"),
        "cut.pdf": (pdf(*PAGES)[:300], "damaged"),
        "locked.pdf": (pdf(*PAGES, password="secret"), "encrypted"),
        "aes.pdf": (pdf(*PAGES, password="secret"), "encrypted"),
    }
    for name, (data, _) in bad.items():
        (docs / name).write_bytes(data)
    found = write(docs, tmp_path / "pages.jsonl")
    assert found.damaged == {name: reason for name, (_, reason) in bad.items()}
    assert found.pages == 1
    for name, (_, reason) in bad.items():
        with pytest.raises(InputError, match=f"no page can be read .{name} is {reason}."):
            write(docs / name, tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_an_empty_password_opens_a_pdf(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf(*PAGES, password=""))
    assert write(tmp_path / "a.pdf", tmp_path / "pages.jsonl").pages == 2


def test_no_cut_of_a_pdf_ends_in_another_error(tmp_path):
    data = pdf(*PAGES)
    for end in range(1, len(data), 83):
        for kept in (data[:end], data[:end] + b"\0\xff" * 20 + data[end + 40 :]):
            (tmp_path / "a.pdf").write_bytes(kept)
            with suppress(InputError):
                write(tmp_path / "a.pdf", tmp_path / "pages.jsonl")


@given(
    st.lists(
        st.sampled_from(
            ["<", ">", "!", "--", "[", "]", "p", "img src=", "/", "&", "#", "svg", "\0", " é", '"']
        ),
        max_size=30,
    )
)
def test_no_html_ends_in_another_error(signs):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.html")
        path.write_text("<p>A text" + "".join(signs), "utf-8")
        found = write(path, Path(folder, "pages.jsonl"))
        assert found.texts >= 1


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [("MOST_PAGES", 1, "too long"), ("_BYTES", {".pdf": 100}, "too large")],
)
def test_documents_above_a_limit_are_left_out(limit, value, message, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, limit, value)
    (tmp_path / "a.pdf").write_bytes(pdf(*PAGES))
    with pytest.raises(InputError, match=message):
        write(tmp_path / "a.pdf", tmp_path / "pages.jsonl")


def test_images_above_a_limit_are_counted(docs, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MOST_IMAGES", 1)
    found = write(docs, tmp_path / "pages.jsonl")
    assert found.images == 1
    assert found.left_out["images too many for a page"] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "no such file or folder"),
        ("img", "no document with one of the endings .html"),
        ("blank.html", "neither text nor images"),
    ],
)
def test_places_without_a_page_are_refused(name, message, docs, tmp_path):
    (docs / "blank.html").write_text("<p> <script>1</script>")
    with pytest.raises(InputError, match=message):
        write(docs / name, tmp_path / "pages.jsonl")


def test_without_pypdf_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pypdf", None)
    (tmp_path / "a.pdf").write_bytes(b"")
    with pytest.raises(InputError, match=r"pip install 'diptych\[documents\]'"):
        write(tmp_path / "a.pdf", tmp_path / "pages.jsonl")


def test_the_table_is_one_that_is_labelled_and_pages_may_share_an_image(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    for name in ("one", "two"):
        (tmp_path / f"{name}.html").write_text(f"<p>A text of {name}. Another.<img src=a.png>")
    write(tmp_path, tmp_path / "pages.jsonl")
    source = open_source(str(tmp_path / "pages.jsonl"))
    found = label(source, load("tiny"), positive="50%", negative="25%")
    assert found.texts == ["A text of one", "Another", "A text of two", "Another"]
    assert found.alone == 0
