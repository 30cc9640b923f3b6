"""The page on logs has each key that the engine writes, each file of a run, and each environment
variable that the source reads."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.docs.tables import rows, section

import diptych

SOURCE = Path(diptych.__file__).parent
PAGE = "logs.md"
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


def trees(folder: Path, word: str = "") -> Iterator[tuple[Path, ast.Module]]:
    """The files of a folder that contain a word."""
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text("utf-8")
        if word in text:
            yield path, ast.parse(text)


def spans(cell: str) -> list[str]:
    """All code spans of a cell."""
    return re.findall(r"`([^`]+)`", cell)


def strings(node: ast.AST) -> set[str]:
    return {
        each.value
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    }


# ---- metrics.jsonl


def logged() -> list[ast.Call]:
    """Every `self.log.write(…)` of the engine."""
    return [
        node
        for _, tree in trees(SOURCE / "training", "log.write")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.log.write"
    ]


def keys_of(call: ast.Call) -> set[str]:
    """The keys that a call names: its keywords, and those of mappings that it unpacks."""
    found = {each.arg for each in call.keywords if each.arg}
    for each in call.keywords:
        if each.arg is None:
            for node in ast.walk(each.value):
                if isinstance(node, ast.Dict):
                    found |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
                if isinstance(node, ast.DictComp) and isinstance(node.key, ast.JoinedStr):
                    found.add(ast.literal_eval(node.key.values[0]) + "NAME")
    return found


def events() -> dict[str, set[str]]:
    """The keys of each event of the engine; of steps under ""."""
    found: dict[str, set[str]] = {}
    for call in logged():
        named = [each.value for each in call.keywords if each.arg == "event"]
        event = ast.literal_eval(named[0]) if named else ""
        found[event] = found.get(event, set()) | keys_of(call) - {"event"}
    return found


def test_every_key_of_a_step_has_a_row():
    written = {spans(row["key"])[0] for row in rows(section(PAGE, "metrics.jsonl")) if "key" in row}
    assert written == events()[""] | {"seconds"}


def test_every_event_has_a_row_with_its_keys():
    table = [row for row in rows(section(PAGE, "metrics.jsonl")) if "event" in row]
    written = {
        spans(row["event"])[0]: set(spans(row["keys beside `done` and `seconds`"])) - {"val/NAME"}
        for row in table
    }
    expected = {name: keys - {"done"} for name, keys in events().items() if name}
    assert written == expected


# ---- files


def test_every_file_of_a_run_is_named():
    """Names of files that the engine puts into the folder, as they stand in its source."""
    text = section(PAGE, "The folder of a run")
    named = set()
    for _, tree in (*trees(SOURCE / "training"), *trees(SOURCE, "def save_model(")):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= set(re.findall(r"^[\w.-]+\.(?:json|jsonl|yaml|safetensors)$", node.value))
            if isinstance(node, ast.JoinedStr):
                first = node.values[0]
                last = node.values[-1]
                if isinstance(last, ast.Constant) and re.fullmatch(
                    r"\.(json|safetensors|npy)", str(last.value)
                ):
                    named.add(str(first.value) if isinstance(first, ast.Constant) else last.value)
    assert {"config.yaml", "metrics.jsonl", "kept.safetensors", "spike-", "best-"} <= named
    assert not [name for name in named if name not in text]


# ---- environment variables


def read_variables() -> dict[str, str]:
    """Names of environment variables beside `os.environ` in the source, and where each is.

    A statement with `os.environ` may name them itself, or through a tuple of the module.
    """
    found: dict[str, str] = {}
    for path, tree in trees(SOURCE, "environ"):
        constants = {
            target.id: strings(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(
                node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr | ast.Return | ast.If
            ):
                continue
            own = node.test if isinstance(node, ast.If) else node
            if not re.search(r"\b(environ|getenv)\b", ast.unparse(own)):
                continue
            names = strings(own)
            for each in ast.walk(own):
                if isinstance(each, ast.Name):
                    names |= constants.get(each.id, set())
            for name in names:
                if VARIABLE.fullmatch(name) and len(name) > 3:
                    found.setdefault(name, f"{path}:{node.lineno}")
    return found


def test_every_environment_variable_of_the_source_is_on_the_page():
    table = rows(section(PAGE, "Environment variables"))
    written = {name for row in table for name in spans(row["variable"])}
    found = read_variables()
    assert {"DIPTYCH_DATA", "RANK", "MASTER_ADDR", "OMP_NUM_THREADS"} <= set(found)
    missing = {name: where for name, where in found.items() if name not in written}
    assert not missing, f"docs/{PAGE} lacks {missing}"


def test_every_environment_variable_of_the_page_is_in_the_source():
    source = "\n".join(path.read_text("utf-8") for path in SOURCE.rglob("*.py"))
    for row in rows(section(PAGE, "Environment variables")):
        for name in spans(row["variable"]):
            assert f'"{name}"' in source or f"{name}=" in source, name
