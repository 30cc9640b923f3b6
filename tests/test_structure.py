"""Code of one paper lives with that paper: the import graph, read with `ast`."""

import ast
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path

import diptych
from diptych.methods.registry import GROUPS, cards

ROOT = Path(diptych.__file__).parent
SHARED = ("data", "objectives", "towers", "models", "training", "evaluation", "inference")
# Found by folder, so that nothing imports most of them; worlds and their parts serve claims as
# well.
FOUND = ("data.sources", "data.tokenizers", "data.worlds", "evaluation.suites", "models.export", "models.pretrained",
         "towers.image", "towers.text", "training.optim")  # fmt: skip
WAITING = tomllib.loads((Path(__file__).parent / "waiting.toml").read_text("utf-8"))


@cache
def modules() -> dict[str, Path]:
    """All modules of the package, by their names below `diptych`."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def importers() -> dict[str, set[str]]:
    """Each module's importers, imports inside of functions included."""
    known, found = modules(), defaultdict(set)
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "diptych."
            ):
                continue
            source = node.module.removeprefix("diptych.")
            for alias in node.names:
                inside = f"{source}.{alias.name}"
                found[inside if inside in known else source].add(name)
    return found


def paper_of(module: str) -> str | None:
    """The paper that a module belongs to."""
    parts = module.split(".")
    if parts[0] == "methods" and len(parts) > 2 and parts[1] in GROUPS:
        return parts[2]
    if parts[:2] == ["lab", "claims"] and len(parts) > 2:
        return parts[2]
    return None


@cache
def of_one_paper() -> dict[str, str]:
    """Shared modules that one paper alone uses, itself or through others that it alone uses."""
    users, found = importers(), {}
    candidates = [
        name for name in modules() if name.split(".")[0] in SHARED and not name.startswith(FOUND)
    ]
    while True:
        more = {}
        for name in candidates:
            owners = {
                paper_of(user) or found.get(user) or "" for user in users[name] if user != name
            }
            if name not in found and len(owners) == 1 and "" not in owners:
                more[name] = owners.pop()
        if not more:
            return found
        found |= more


def test_a_shared_module_that_one_paper_alone_uses_waits_for_its_second():
    astray = {name: paper for name, paper in of_one_paper().items() if name not in WAITING}
    assert not astray, (
        f"move these to the papers that use them, or name the second one in waiting.toml: {astray}"
    )


def test_what_waits_still_waits_for_a_paper_that_is_to_come():
    private = of_one_paper()
    for module, paper in WAITING.items():
        assert module in private, (
            f"{module} has its second caller, or is gone; take it out of waiting.toml"
        )
        assert paper not in cards(), f"{paper} is in; take {module} out of waiting.toml"


def test_shared_packages_import_no_paper():
    known = importers()
    wrong = {
        (user, name)
        for name in known
        if paper_of(name)
        for user in known[name]
        if not paper_of(user) and user.split(".")[0] in SHARED
    }
    assert not wrong
