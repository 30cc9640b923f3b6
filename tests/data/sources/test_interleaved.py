"""Multimodal C4 and OBELICS, on fixtures of their true forms."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.errors import InputError


def mmc4(names=("b9040a0dbb22.jpg", "db1c21bc8474.png"), **more):
    return {
        "url": "http://www.example.org/seeds",
        "text_list": ["Planting is easy.", "The seeds are small.", "Water them."],
        "image_info": [
            {
                "face_detections": None,
                "image_name": name,
                "raw_url": f"http://cdn.example.org/{name}",
                "matched_text_index": 1 + at,
                "matched_sim": 0.27 - 0.01 * at,
            }
            for at, name in enumerate(names)
        ],
        "similarity_matrix": [[0.1, 0.27, 0.2], [0.15, 0.2, 0.26]][: len(names)],
        "could_have_url_duplicate": 0,
        **more,
    }


ADDRESSES = ["https://example.org/2020/cat.jpg?w=300", "https://example.org/2020/dog.png"]
OBELICS = {
    "images": [ADDRESSES[0], None, ADDRESSES[1], None],
    "metadata": json.dumps([{"alt_text": "cat"}, None, {"alt_text": "dog"}, None]),
    "general_metadata": json.dumps({"url": "https://example.org"}),
    "texts": [None, "A cat.\n\nIt sleeps.", None, "A dog."],
}


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), "red").save(path, "PNG")


@pytest.fixture
def folder(tmp_path):
    for name in ("images/b9040a0dbb22.jpg", "images/example.org/2020/cat.jpg?w=300"):
        picture(tmp_path / name)
    return tmp_path


def written(path, rows):
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return str(path)


def told(sample):
    return [(text.text, text.attrs["image"]) for text in sample.texts]


def test_documents_of_multimodal_c4(folder):
    damaged = [
        mmc4(text_list="one"),
        mmc4(names=["../b9040a0dbb22.jpg"]),
        mmc4(similarity_matrix=[[0.1, 0.2]]),
        '{"text_list": ["cut',
    ]
    path = written(folder / "docs_no_face_shard_0_v2.jsonl", [mmc4(), *damaged, mmc4(["none.jpg"])])
    source = open_source(path)
    assert len(source) == 2
    assert sorted(source.damage.values()) == ["columns"] * 3 + ["json"]
    sample = source[0]  # its second image was not downloaded
    assert told(sample) == [
        ("Planting is easy.", ""), ("The seeds are small.", "main"), ("Water them.", "")
    ]  # fmt: skip
    assert list(sample.images) == ["main"]
    assert sample.arrays["similarity"].tolist() == [pytest.approx([0.1, 0.27, 0.2])]
    with pytest.raises(BadSample, match="no-image"):
        source[1]
    picture(folder / "images/db1c21bc8474.png")
    assert list(source[0].images) == ["main", "page2"]
    assert list(source.schema()) == [
        "images.main",
        "images.page2",
        "texts.document",
        "arrays.similarity",
    ]
    with pytest.raises(InputError, match="no line is a document of Multimodal C4"):
        open_source(written(folder / "bad.jsonl", damaged[:1]))
    with pytest.raises(InputError, match=":images=FOLDER"):
        open_source(written(folder / "far.jsonl", [mmc4(["none.jpg"])]))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_documents_of_obelics(folder, form):
    path = folder / f"train-00000-of-01335.{form}"
    uneven = {**OBELICS, "texts": ["A cat."]}
    if form == "jsonl":
        written(path, [OBELICS, uneven])
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([OBELICS, uneven]), path)
    source = open_source(str(path))
    assert list(source.damage.values()) == ["columns"]
    assert told(source[0]) == [("A cat.\n\nIt sleeps.", "main"), ("A dog.", "")]
    picture(folder / "images/example.org/2020/dog.png")
    assert told(source[0])[1] == ("A dog.", "page2")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.recursive(st.none() | st.integers() | st.text(max_size=4), lambda x: st.lists(x, max_size=3), max_leaves=4),
       st.sampled_from(["text_list", "image_info", "similarity_matrix", "images", "texts"]))  # fmt: skip
def test_any_value_of_a_field_is_read_or_counted(folder, value, field):
    good = mmc4() if field in mmc4() else OBELICS
    source = open_source(written(folder / "rows.jsonl", [good, {**good, field: value}]))
    assert len(source) + len(source.damage) == 2
    reasons = set()
    for index in range(len(source)):
        try:
            _ = source[index]
        except BadSample as bad:
            reasons.add(bad.reason)
    assert reasons <= {"no-image"}
