"""Filters of a search: the conditions of SQL's WHERE on the columns of a folder of embeddings.

    price < 20 and brand = 'acme'
    (colour in ('red', 'blue') or size between 36 and 40) and not title like 'used%'
    `list price` > price and sku is not null

    condition   = test | not condition | condition and condition | condition or condition | (condition)
    test        = value (= | == | != | <> | < | <= | > | >=) value
                | value [not] in (value, …) | value [not] between value and value
                | value [not] (like | ilike) 'text%' | value is [not] null
    value       = column | `column with blanks` | 20 | -0.5 | 'text' | "text" | true | false

As in SQL, a comparison with null is neither true nor false, and a row passes only if the whole is
true. A column of text that is compared with a number is read as numbers, its blanks as null. The
text is parsed here and evaluated by pyarrow; nothing of it is executed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from diptych.embeddings.columns import Kind
from diptych.embeddings.conditions import (
    Comparison,
    Constant,
    IsNull,
    Like,
    Name,
    Operand,
    Test,
    among,
    compute,
    inverted,
    joined,
)
from diptych.errors import InputError, brief, shortened, unknown

EXAMPLE = "price < 20 and brand = 'acme'"
_LONGEST = 100_000  # characters
_DEEPEST = 50  # parentheses and nots within each other
_WORDS = {"and", "or", "not", "in", "between", "like", "ilike", "is", "null", "true", "false"}
_COMPARISONS = {
    "=": "equal",
    "==": "equal",
    "!=": "not_equal",
    "<>": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?!\w))
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | `(?P<quoted>[^`]+)`
      | (?P<word>[^\W\d]\w*)
      | (?P<sign><=|>=|<>|!=|==|[=<>(),])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Where:
    """A parsed filter: its text, the columns that it reads, and its test."""

    text: str
    columns: tuple[str, ...]
    test: Test = field(repr=False)

    def check(self, have: Mapping[str, Kind], place: str) -> None:
        """Raise InputError if a column of the filter is not among those of `place`."""
        for name in self.columns:
            if name not in have:
                raise InputError(
                    f"{unknown(f'column of {place}', name, have)}; a text is in quotes, as in {EXAMPLE}, and "
                    "`diptych embed --columns` keeps further columns"
                )

    def mask(self, table: Any) -> np.ndarray:
        """Return which rows (N,) of a pyarrow table pass. Raises InputError for a column whose
        values cannot be compared so."""
        found = self.test(table)
        return np.asarray(compute().fill_null(found, False).to_numpy(zero_copy_only=False), bool)


def parse(text: str) -> Where:
    """Parse a filter.

    Raises InputError, with the place, for a text that is none.

    >>> parse("price < 20 and brand = 'acme'").columns
    ('price', 'brand')
    >>> parse("price <")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    diptych.errors.InputError: filter 'price <': a value is missing at the end; write a condition such as price < 20 ...
    """
    parser = _Parser(text)
    test = parser.whole()
    return Where(text, tuple(dict.fromkeys(parser.columns)), test)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    """Recursive descent over the tokens of a filter; each method returns the test of what it
    read."""

    def __init__(self, text: str):
        if not isinstance(text, str):
            raise InputError(f"a filter is a text such as {EXAMPLE!r}, not {brief(repr(text), 40)}")
        self.text = text
        self.columns: list[str] = []
        self._depth = 0
        if len(text) > _LONGEST:
            self._fail(f"it has {len(text):,} characters, and at most {_LONGEST:,} are read")
        self._tokens = self._cut()
        self._next = 0

    def _cut(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        end = len(self.text.rstrip())
        while at < end:
            found = _TOKEN.match(self.text, at)
            if found is None:
                start = at + len(self.text[at:]) - len(self.text[at:].lstrip())
                rest = brief(self.text[start:], 20)
                what = "has no closing quote" if rest[0] in "'\"`" else "is not part of a filter"
                self._fail(f"{rest!r} at character {start + 1} {what}")
            kind = found.lastgroup or ""
            said = found[kind]
            start = found.start(kind)
            if kind == "word" and said.lower() in _WORDS:
                kind = "sign"
                said = said.lower()
            tokens.append(_Token("word" if kind == "quoted" else kind, said, start))
            at = found.end()
        return tokens

    def _fail(self, why: str) -> NoReturn:
        raise InputError(
            f"filter {shortened(self.text)!r}: {why}; write a condition such as {EXAMPLE}"
        )

    def _unexpected(self, wanted: str) -> NoReturn:
        if self._next >= len(self._tokens):
            self._fail(f"{wanted} is missing at the end")
        token = self._tokens[self._next]
        self._fail(
            f"{wanted} is missing before {brief(token.text, 20)!r} at character {token.at + 1}"
        )

    def _sign(self, *signs: str) -> str | None:
        """Take the next token if it is one of the signs or keywords."""
        if self._next < len(self._tokens):
            token = self._tokens[self._next]
            if token.kind == "sign" and token.text in signs:
                self._next += 1
                return token.text
        return None

    def _need(self, sign: str) -> None:
        if self._sign(sign) is None:
            self._unexpected(repr(sign))

    def whole(self) -> Test:
        test = self._either()
        if self._next < len(self._tokens):
            self._unexpected("'and' or 'or'")
        return test

    def _either(self) -> Test:
        tests = [self._both()]
        while self._sign("or"):
            tests.append(self._both())
        return joined("or_kleene", tests)

    def _both(self) -> Test:
        tests = [self._negated()]
        while self._sign("and"):
            tests.append(self._negated())
        return joined("and_kleene", tests)

    def _negated(self) -> Test:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._fail(f"it is nested more than {_DEEPEST} deep")
        if self._sign("not"):
            test = inverted(self._negated(), True)
        elif self._sign("("):
            test = self._either()
            self._need(")")
        else:
            test = self._test()
        self._depth -= 1
        return test

    def _test(self) -> Test:
        left = self._operand()
        sign = self._sign(*_COMPARISONS)
        if sign is not None:
            return Comparison(_COMPARISONS[sign], left, self._operand())
        if self._sign("is"):
            is_not = self._sign("not") is not None
            self._need("null")
            return inverted(IsNull(left), is_not)
        negated = self._sign("not") is not None
        kind = self._sign("in", "between", "like", "ilike")
        if kind is None:
            self._unexpected("a comparison")
        if kind == "in":
            return inverted(among(left, self._list()), negated)
        if kind == "between":
            low = self._operand()
            self._need("and")
            limits = [
                Comparison("greater_equal", left, low),
                Comparison("less_equal", left, self._operand()),
            ]
            return inverted(joined("and_kleene", limits), negated)
        return inverted(Like(left, self._pattern(kind), kind == "ilike"), negated)

    def _operand(self) -> Operand:
        if self._next >= len(self._tokens):
            self._unexpected("a value")
        truth = self._sign("true", "false")
        if truth is not None:
            return int(truth == "true")
        token = self._tokens[self._next]
        if (token.kind, token.text) == ("sign", "null"):
            self._fail("null equals nothing; ask for it with is null or is not null")
        if token.kind == "sign":
            self._unexpected("a value")
        self._next += 1
        if token.kind == "word":
            self.columns.append(token.text)
            return Name(token.text)
        if token.kind == "text":
            quote = token.text[0]
            return token.text[1:-1].replace(quote * 2, quote)
        return _number(token.text)

    def _list(self) -> list[Constant]:
        self._need("(")
        values: list[Constant] = []
        while not values or self._sign(","):
            value = self._operand()
            if isinstance(value, Name):
                self._next -= 1
                self._unexpected("a number or a text in quotes")
            values.append(value)
        self._need(")")
        return values

    def _pattern(self, kind: str) -> str:
        pattern = self._operand()
        if not isinstance(pattern, str):
            self._next -= 1
            self._unexpected(f"a text in quotes after {kind}")
        return pattern


def _number(text: str) -> int | float:
    """Return a whole number of 64 bits as int, any other number as float."""
    value = float(text)
    if re.fullmatch(r"[-+]?\d{1,19}", text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    return value
