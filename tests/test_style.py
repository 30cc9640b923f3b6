"""What the formatter does not see: one assignment a line, and a layout of its own for literal
tables alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import diptych

SOURCES = sorted(Path(diptych.__file__).parent.rglob("*.py"))


def places(path: Path, nodes: Iterator[ast.AST]) -> list[str]:
    return [f"{path}:{node.lineno}" for node in nodes]


def names(node: ast.AST) -> set[str]:
    """Names and attributes in an expression, as they are written."""
    return {
        ast.unparse(each)
        for each in ast.walk(node)
        if isinstance(each, ast.Name | ast.Attribute | ast.Subscript)
    }


def unrelated(tree: ast.AST) -> Iterator[ast.Assign]:
    """Assignments of several values to several targets, none of which the values read: `a, b = b,
    a` is none."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
            continue
        [target] = node.targets[:1]
        if isinstance(target, ast.Tuple) and not names(target) & names(node.value):
            yield node


def test_a_line_assigns_one_thing():
    found = [
        place
        for path in SOURCES
        for place in places(path, unrelated(ast.parse(path.read_text("utf-8"))))
    ]
    assert not found, f"one assignment a line: {found}"


def is_literal(node: ast.stmt) -> bool:
    try:
        ast.literal_eval(getattr(node, "value", None))
    except ValueError:
        return False
    return isinstance(node, ast.Assign | ast.AnnAssign)


def test_only_literal_tables_keep_a_layout_of_their_own():
    for path in SOURCES:
        text = path.read_text("utf-8")
        skipped = {
            number for number, line in enumerate(text.splitlines(), 1) if "# fmt: skip" in line
        }
        if not skipped:
            continue
        statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
        literal = {node.end_lineno for node in statements if is_literal(node)}
        assert skipped <= literal, (
            f"{path}: let the formatter lay out lines {sorted(skipped - literal)}"
        )
