"""Filters against SQLite, which has the same conditions, and what is refused."""

import sqlite3
from contextlib import suppress

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.embeddings.filters import CONDITIONS, KINDS, ROWS

from diptych.embeddings.where import parse
from diptych.errors import InputError


def table() -> pyarrow.Table:
    return pyarrow.table(
        {
            "price": pyarrow.array(ROWS["price"], pyarrow.float64()),
            "stock": pyarrow.array(ROWS["stock"], pyarrow.int64()),
            "brand": pyarrow.array(ROWS["brand"], pyarrow.string()),
            "list price": pyarrow.array(ROWS["list price"], pyarrow.int64()),
        }
    )


def passing(text: str) -> list[int]:
    return parse(text).mask(table()).nonzero()[0].tolist()


def by_sqlite(text: str) -> list[int]:
    """The rows that SQLite finds, with its LIKE made case-sensitive as the standard has it."""
    with sqlite3.connect(":memory:") as base:
        base.execute("PRAGMA case_sensitive_like = ON")
        base.execute("CREATE TABLE t (price REAL, stock INTEGER, brand TEXT, `list price` INTEGER)")
        base.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", zip(*ROWS.values(), strict=True))
        return [row - 1 for (row,) in base.execute(f"SELECT rowid FROM t WHERE {text}")]


@settings(max_examples=100, deadline=None)
@given(CONDITIONS)
def test_a_filter_passes_the_rows_that_sqlite_finds(text):
    assert passing(text) == by_sqlite(text)


def test_what_sqlite_does_not_have():
    assert passing('brand = "it\'s"') == [2]  # both quotes hold a text
    assert passing("brand ilike 'acm_'") == [0, 7]
    assert passing("stock = 9007199254740993") == [7]  # which no float64 holds
    assert passing("stock > 1e300 or stock < 99999999999999999999") == [0, 1, 3, 4, 5, 7]
    assert passing("true = 1 and false != true") == list(range(8))


def test_a_column_of_text_is_compared_as_numbers_with_a_number():
    kept = pyarrow.table({"size": ["36", " 40.5 ", "", None, "-1"]})
    assert parse("size > 36").mask(kept).tolist() == [False, True, False, False, False]
    assert parse("size in (36, -1)").mask(kept).tolist() == [True, False, False, False, True]
    assert parse("size = '36'").mask(kept).tolist() == [True, False, False, False, False]
    odd = pyarrow.table({"size": ["36", "XL"]})
    with pytest.raises(
        InputError, match="column 'size' holds text, such as 'XL'; compare .* quotes"
    ):
        parse("size > 36").mask(odd)


def test_a_filter_reads_only_its_columns():
    where = parse("price < `list price` and not (brand = 'x' or price > 3)")
    assert where.columns == ("price", "list price", "brand")
    where.check(KINDS, "emb")
    with pytest.raises(InputError, match="column of emb 'prise'; did you mean 'price'"):
        parse("prise < 3").check(KINDS, "emb")
    with pytest.raises(InputError, match="'acme'.*a text is in quotes.*embed --columns"):
        parse("brand = acme").check({"brand": "text"}, "emb")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a value is missing at the end"),
        ("price", "a comparison is missing at the end"),
        ("price <", "a value is missing at the end"),
        ("price < 20 and", "a value is missing at the end"),
        ("price < 20 brand = 'a'", "'and' or 'or' is missing before 'brand' at character 12"),
        ("(price < 20", "')' is missing at the end"),
        ("price < 20)", "missing before ')' at character 11"),
        ("brand = 'acme", '"\'acme" at character 9 has no closing quote'),
        ("price ! 3", "'! 3' at character 7 is not part of a filter"),
        ("price = 3x", "'3x' at character 9 is not part"),
        ("brand in ()", "missing before ')' at character 11"),
        ("brand in (stock)", "a number or a text in quotes is missing before 'stock'"),
        ("brand like 3", "a text in quotes after like is missing before '3'"),
        ("brand not 'a'", "a comparison is missing before"),
        ("price = null", "ask for it with is null"),
        ("price between 1", "'and' is missing at the end"),
        ("(" * 60 + "1 = 1" + ")" * 60, "nested more than 50 deep"),
        ("not " * 60 + "1 = 1", "nested more than 50 deep"),
        ("1 = 1 or " * 20_000, "at most 100,000 are read"),
        ("__import__('os').system('true')", "is not part of a filter"),
        ("price < 20; drop table x", "'; drop table x' at character 11"),
    ],
)
def test_a_text_that_is_no_filter_is_refused_at_its_place(text, message):
    with pytest.raises(InputError) as error:
        parse(text)
    assert message in str(error.value)
    assert str(error.value).endswith("write a condition such as price < 20 and brand = 'acme'")
    assert "\n" not in str(error.value)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab'\"`()<>=!,.-+ 019eEnotinads\n\0é", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_filter_or_refused(text):
    with suppress(InputError):
        assert parse(text).text == text


def test_a_text_and_a_column_of_numbers_are_not_compared():
    with pytest.raises(InputError, match="column 'price' holds numbers, and '9' is a text"):
        passing("price < '9'")
    with pytest.raises(InputError, match="column 'stock' holds numbers, which are not like"):
        passing("stock like '5%'")
    with pytest.raises(InputError, match="a filter is a text"):
        parse(3)  # type: ignore[arg-type]


def test_long_lists_and_many_conditions_are_read():
    many = " or ".join(f"`list price` = {number}" for number in range(300))
    assert passing(many) == list(range(8))
    assert passing(f"stock in ({', '.join(map(str, range(1000)))})") == [0, 1, 3, 5]
