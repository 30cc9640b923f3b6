"""Columns that a folder of embeddings keeps."""

import pyarrow
import pytest

from diptych.data.sample import BadSample, Field, Sample, Text
from diptych.data.sources import open_source
from diptych.embeddings.columns import Column, arrow, find_columns
from diptych.errors import InputError


class Shop:
    """A source of fields alone."""

    name = "shop"

    def schema(self):
        return {
            "texts.caption": Field(kind="text"),
            "texts.sku": Field(kind="text"),
            "labels.price": Field(kind="float"),
            "labels.stock": Field(kind="int"),
            "labels.class": Field(kind="int", classes=("cup", "bowl")),
            "labels.size": Field(kind="int"),
            "texts.size": Field(kind="text"),
            "labels.rank": Field(kind="int"),
        }


def sample(*texts: tuple[str, str], **labels) -> Sample:
    said = [Text(text=text, role=role) for role, text in texts]
    return Sample(key="k", source="shop", texts=said, labels=labels)


def test_numbers_names_of_classes_and_first_texts_are_kept():
    price, stock, kind, sku, size = find_columns(Shop(), ["price", "stock", "class", "sku", "size"])
    assert [column.kind for column in (price, stock, kind, sku, size)] == [
        "float",
        "int",
        "text",
        "text",
        "text",
    ]
    full = sample(("sku", "a1"), ("sku", "a2"), price=2.5, stock=-1, **{"class": 1})
    assert [column.value(full) for column in (price, stock, kind, sku)] == [2.5, -1, "bowl", "a1"]
    empty = sample(price=float("nan"), **{"class": -1})
    assert [column.value(empty) for column in (price, stock, kind, sku)] == [None] * 4
    assert size.value(sample(("size", "XL"))) == "XL"
    assert size.value(sample(size=42)) == "42"
    assert kind.value(sample(**{"class": 7})) is None


def test_words_in_a_column_of_numbers_are_a_damaged_sample():
    with pytest.raises(BadSample, match=r"price is 'dear' and not a number"):
        Column("price", "float").value(sample(("price", "dear")))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["prise"], "unknown column of shop 'prise'; did you mean 'price'"),
        (["zzzz"], "there are: class, price, rank, size, sku, stock"),
        (["caption"], "'caption' is a column that every search shows"),
        (["rank"], "'rank' is a column that every search shows; .* rename"),
        (["sku", "sku"], "'sku' is named twice"),
        ("sku", "give a list of names"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(names, message):
    with pytest.raises(InputError, match=message):
        find_columns(Shop(), names)


def test_a_column_of_whole_numbers_becomes_one_of_decimals_by_its_values_alone():
    assert arrow("int", [1, None, 2**60 + 1]).to_pylist() == [1, None, 2**60 + 1]
    assert arrow("int", [1, 2.5]).type == pyarrow.float64()
    assert arrow("int", arrow("int", [1, 2.5, 3]).to_pylist()[::2]).type == pyarrow.int64()
    assert arrow("int", [None]).type == pyarrow.int64()
    assert arrow("float", [1, None]).to_pylist() == [1.0, None]
    assert arrow("text", [None, "a"]).type == pyarrow.string()


def test_a_table_gives_its_columns_with_their_types(tmp_path):
    (tmp_path / "t.csv").write_text("caption,price,stock,sku,kind\na,1.5,3,007,x\nb,2,,008,y\n")
    source = open_source(f"{tmp_path}/t.csv:label=kind")
    columns = find_columns(source, ["price", "stock", "sku", "kind"])
    assert [column.kind for column in columns] == ["float", "int", "text", "text"]
    assert [[column.value(source[at]) for column in columns] for at in range(2)] == [
        [1.5, 3, "007", "x"],
        [2.0, None, "008", "y"],
    ]
