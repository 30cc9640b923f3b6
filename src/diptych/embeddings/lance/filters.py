"""Filters of a search as SQL that Lance evaluates where it reads, where the meaning is the same.

It is not, and a filter stays with `embeddings.where`, where

- a column of text is compared with a number, which reads it as numbers;
- `ilike` compares letters beyond ASCII, and `like` has a backslash, for which engines have rules of
  their own;
- a number is not finite, or -2^63, which SQL has no literal for;
- a filter is long or deep, since Lance's parser is recursive.

The SQL is written from the parsed tests: no text of the user's is passed on but in quotes.
"""

import math
from collections.abc import Mapping, Sequence

from diptych.embeddings.columns import Kind
from diptych.embeddings.conditions import (
    Comparison,
    Constant,
    IsNull,
    Joined,
    Like,
    Name,
    Not,
    OneOf,
    Operand,
    Test,
)

_MOST = 200  # comparisons
_DEEPEST = 16  # parentheses within each other
_SIGNS = {
    "equal": "=",
    "not_equal": "<>",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
}


class Different(Exception):
    """This part of a filter means something else in SQL, or has no SQL."""


def pushed(test: Test, kinds: Mapping[str, Kind]) -> str | None:
    """Return a filter on columns of these kinds as SQL; None where SQL means something else.

    >>> from diptych.embeddings.where import parse
    >>> pushed(parse("brand = 'it''s' and not price < 20").test, {"brand": "text", "price": "float"})
    "(`brand` = 'it''s' AND (NOT CAST(`price` AS DOUBLE) < CAST(20 AS DOUBLE)))"
    >>> pushed(parse("brand > 3").test, {"brand": "text"})
    """
    try:
        return _Writer(kinds).test(test, 0)
    except Different:
        return None


class _Writer:
    def __init__(self, kinds: Mapping[str, Kind]):
        self.kinds = kinds
        self.count = 0

    def test(self, test: Test, depth: int) -> str:
        self.count += 1
        if self.count > _MOST or depth > _DEEPEST:
            raise Different
        match test:
            case Joined(function, tests):
                parts = [self.test(each, depth + 1) for each in tests]
                return _balanced({"and_kleene": " AND ", "or_kleene": " OR "}[function], parts)
            case Not(inner):
                return f"(NOT {self.test(inner, depth + 1)})"
            case IsNull(Name(name)):
                return f"{_quoted(name)} IS NULL"
            case IsNull(_):
                return "(1 = 0)"
            case Comparison(function, left, right):
                first, second = self.alike(left, [right])
                return f"{first} {_SIGNS[function]} {second}"
            case OneOf(left, values):
                first, *others = self.alike(left, values)
                return f"{first} IN ({', '.join(others)})"
            case Like(left, pattern, ignore_case):
                if ignore_case or "\\" in pattern or self.kind(left) != "text":
                    raise Different
                return f"{self.value(left, False)} LIKE {literal(pattern)}"
        raise Different

    def alike(self, left: Operand, others: Sequence[Operand]) -> list[str]:
        """Return operands of one type: texts, whole numbers, or decimals if one of them has these."""
        operands = [left, *others]
        kinds = {self.kind(each) for each in operands}
        if "text" in kinds and len(kinds) > 1:
            raise Different
        return [self.value(each, "float" in kinds) for each in operands]

    def kind(self, operand: Operand) -> Kind:
        if isinstance(operand, Name):
            return self.kinds[operand.name]
        return (
            "text" if isinstance(operand, str) else "float" if isinstance(operand, float) else "int"
        )

    def value(self, operand: Operand, as_float: bool) -> str:
        named = isinstance(operand, Name)
        text = _quoted(operand.name) if named else literal(operand)
        return f"CAST({text} AS DOUBLE)" if as_float else text


def _balanced(sign: str, parts: list[str]) -> str:
    """Join many parts as a tree, which is parsed and evaluated with little recursion."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return f"({_balanced(sign, parts[:middle])}{sign}{_balanced(sign, parts[middle:])})"


def _quoted(name: str) -> str:
    return f"`{name}`"  # a name has no backtick: the grammar of filters ends it there


def literal(value: Constant) -> str:
    """Return a text in quotes, or a number, as SQL. Raises Different for one that SQL cannot hold."""
    if isinstance(value, str):
        if "\0" in value:
            raise Different
        return "'" + value.replace("'", "''") + "'"
    if not math.isfinite(value) or value == -(2**63):
        raise Different
    return repr(value + 0)  # without the sign of -0.0
