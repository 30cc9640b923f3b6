"""A table of eight rows, and conditions on its columns, for those that evaluate filters."""

from hypothesis import strategies as st

ROWS = {
    "price": [1.5, None, 30.0, -2.0, 0.0, 20.0, None, 19.99],
    "stock": [5, 7, None, 0, -3, 5, None, 2**53 + 1],
    "brand": ["acme", None, "it's", "Used %", "", "apex", None, "ACME"],
    "list price": [1, 2, 3, 4, 5, 6, 7, 8],
}
KINDS = {"price": "float", "stock": "int", "brand": "text", "list price": "int"}


NUMBERS = st.sampled_from(["price", "stock", "`list price`", "5", "-3", "0.5", "1.5e1", ".25"])
TEXTS = st.sampled_from(["brand", "'acme'", "'it''s'", "''", "'b'"])
COMPARE = st.sampled_from(["=", "==", "!=", "<>", "<", "<=", ">", ">="])
NOT = st.sampled_from(["", "not "])
SPACE = st.sampled_from([" ", "  ", "\n"])


@st.composite
def one_condition(draw):
    """One condition without `and` and `or`."""
    kind = draw(st.sampled_from(["numbers", "texts", "in", "in texts", "between", "like", "null"]))
    space = draw(SPACE)
    if kind == "numbers":
        return f"{draw(NUMBERS)}{space}{draw(COMPARE)}{space}{draw(NUMBERS)}"
    if kind == "texts":
        return f"{draw(TEXTS)}{draw(COMPARE)}{draw(TEXTS)}"
    if kind == "in":
        return f"{draw(NUMBERS)} {draw(NOT)}in (5, 7.0,{space}-3)"
    if kind == "in texts":
        return f"brand {draw(NOT)}IN ('acme','apex', '')"
    if kind == "between":
        return f"{draw(NUMBERS)} {draw(NOT)}between {draw(NUMBERS)} and {draw(NUMBERS)}"
    if kind == "like":
        return (
            f"brand {draw(NOT)}like {draw(st.sampled_from(['%', 'a%', '_cme', '%s%', 'acme']))!r}"
        )
    return f"{draw(st.sampled_from(['price', 'brand', 'stock']))} is {draw(NOT)}null"


CONDITIONS = st.recursive(
    one_condition(),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or", "AND", "Or"]), inner).map(" ".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"not ({text})"),
    ),
    max_leaves=6,
)
