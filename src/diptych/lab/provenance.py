"""The provenance of a result: the claim's file and its commit, the code, versions, the
processor."""

import ast
import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diptych import __version__
from diptych.errors import InputError, brief
from diptych.files import ran

_PACKAGE = Path(__file__).parents[1]
_NO_NUMBERS = {"cli", "testing", "__main__.py"}
_LAB = {
    "claim",
    "league",
    "live",
    "plan",
    "pool",
    "provenance",
    "report",
    "reproduce",
    "statistics",
    "stored",
    "tables",
    "task",
    "verdict",
}
_BEGAN = time.time()  # in a job's process: before the code that it runs is imported
OWN = "./"
"""The beginning of the name of a user's file, which is none of this package."""

_LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "tokenizers",
    "scipy",
    "scikit-learn",
    "timm",
    "transformers",
)


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """The state of a file when it was judged. `blob` is git's hash of its content, also without
    git; `code` is the digest of the block that was judged; `commit` is the last one that changed
    the file; `changed` is whether the file differs from it. Outside a checkout these two are None
    and False."""

    file: str
    blob: str
    code: str
    sha256: str
    commit: str | None
    changed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the stored form: without `changed`, which is never stored as true, and with a note
        if git does not track the file."""
        stored = {name: value for name, value in asdict(self).items() if name != "changed"}
        return (
            stored
            if self.commit
            else {**stored, "note": "outside a git checkout: known by its content alone"}
        )


def stamp(path: Path, block: str = "claim") -> Stamp:
    """Return the stamp of a claim's file, for one of its blocks. Raises InputError if it is in a
    checkout that git cannot read."""
    data = path.read_bytes()
    blob = blob_of(data)
    code = code_of(data, block)
    digest = hashlib.sha256(data).hexdigest()
    root = checkout(path.parent)
    ignored = root is not None and not _git(path, "ls-files", "--", path.name) and _is_ignored(path)
    if root is None or ignored:  # such as an environment inside a checkout
        return Stamp(
            file=path.name, blob=blob, code=code, sha256=digest, commit=None, changed=False
        )
    held = (
        _git(path, "ls-tree", "HEAD", "--", path.name).split("\t")[0].rpartition(" ")[2]
    )  # mode, type, blob, name
    commit = _git(path, "log", "-1", "--format=%H", "--", path.name) or None
    file = path.relative_to(root).as_posix()
    return Stamp(
        file=file, blob=blob, code=code, sha256=digest, commit=commit, changed=held != blob
    )


def blob_of(data: bytes) -> str:
    """Return git's hash of some content.

    >>> blob_of(b"hello\\n")
    'ce013625030ba8dba906f756967f9e9ca394464a'
    """
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def code_of(data: bytes, block: str) -> str:
    """Return 16 digits for the statements of a claim's file that one of its blocks consists of.

    These are the statement that assigns the block, and those that bind the names which it reads,
    directly or through others. So the block `real` may change while the result of `claim` stays
    that of its code, and so may comments between statements and the docstring of the file.

    >>> both = b"rate = 1\\nclaim = [rate]\\nreal = [2]\\n"
    >>> code_of(both, "claim") == code_of(both.replace(b"2", b"3"), "claim")
    True
    >>> code_of(both, "claim") == code_of(both.replace(b"1", b"3"), "claim")
    False
    """
    text = data.decode("utf-8")
    lines = text.splitlines()
    statements = [part for node in ast.parse(text).body for part in _parts(node, lines)]
    wanted = {block}
    kept: set[int] = set()
    while reached := [
        at
        for at, (binds, _, _) in enumerate(statements)
        if at not in kept and (not binds or binds & wanted)
    ]:
        kept.update(reached)
        wanted.update(*(statements[at][1] for at in reached))
    shown = [statements[at][2] for at in sorted(kept)]
    return hashlib.sha256("\n".join(shown).encode()).hexdigest()[:16]


def _parts(node: ast.stmt, lines: list[str]) -> list[tuple[set[str], set[str], str]]:
    """Return a statement of a module as the names that it binds, the names that it reads, and its
    text: an import once for each name, a docstring not at all. What binds none always counts."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return []
    if isinstance(node, ast.Import | ast.ImportFrom):
        source = f"{node.level} {node.module}" if isinstance(node, ast.ImportFrom) else ""
        return [
            ({(name.asname or name.name).split(".")[0]}, set(), f"{source} {ast.unparse(name)}")
            for name in node.names
        ]
    names = [each for each in ast.walk(node) if isinstance(each, ast.Name)]
    reads = {name.id for name in names if isinstance(name.ctx, ast.Load)}
    first = node.lineno
    binds: set[str] = set()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        binds = {node.name}
        first = min([first, *(each.lineno for each in node.decorator_list)])
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        bound = [each for target in targets for each in ast.walk(target)]
        binds = {each.id for each in bound if isinstance(each, ast.Name)}
    return [(binds, reads, "\n".join(lines[first - 1 : node.end_lineno]))]


def checkout(folder: Path) -> Path | None:
    """Return the root of the git checkout that contains a folder."""
    folder = folder.resolve()
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)


def _git(path: Path, *words: str) -> str:
    done = _call(path, *words)
    if (
        done.returncode
        and "does not have any commits" not in done.stderr
        and "Not a valid object" not in done.stderr
    ):
        raise InputError(
            f"git cannot say whether {path} is committed: {brief(RuntimeError(done.stderr))}"
        )
    return done.stdout.strip()


def _is_ignored(path: Path) -> bool:
    return _call(path, "check-ignore", "--quiet", "--", path.name).returncode == 0


def _call(path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run git in the folder of a file, without the variables that a git hook may have set."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "-C", str(path.parent), *words],
            capture_output=True,
            text=True,
            check=False,
            env={**environment, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise InputError(
            f"{path} lies in a git checkout, and git is not installed; install git"
        ) from None


def uncommitted(path: Path) -> list[str]:
    """Return what differs from the last commit in the checkout of a file, outside `results/`:
    changed files, and new files of Python; [] where git does not track the file."""
    root = checkout(path.parent)
    if root is None or _is_ignored(path):
        return []
    done = _call(root / "x", "status", "--porcelain", "--untracked-files=all")
    if done.returncode:
        raise InputError(
            f"git cannot say what differs in {root}: {brief(RuntimeError(done.stderr))}"
        )
    names = [
        (line[:2], line[3:].rpartition(" -> ")[2].strip('"')) for line in done.stdout.splitlines()
    ]
    return [
        name
        for state, name in names
        if not name.startswith("results/") and (state != "??" or name.endswith(".py"))
    ]


def head(path: Path) -> tuple[str | None, str | None]:
    """Return the commit that the checkout of a path is at, and git's hash of its folder `src`; None
    where there is none."""
    root = checkout(path)
    if root is None:
        return None, None
    commit = _call(root / "x", "rev-parse", "HEAD").stdout.strip() or None
    tree = _call(root / "x", "rev-parse", "--verify", "--quiet", "HEAD:src").stdout.strip()
    return commit, tree or None


def golden(name: str) -> dict[str, str]:
    """Return the digests of a method's stored losses, where the checkout of this package has
    them."""
    root = checkout(_PACKAGE)
    path = None if root is None else root / "tests" / "golden" / f"{name}.txt"
    return {} if path is None or not path.is_file() else {path.name: _digest(path)}


def used(claim: Path | None = None) -> dict[str, str]:
    """Return the files of this package that this process has imported and that may affect a number,
    and those of the user (`places`), each with its digest.

    A file that was written after the process began may not be what was imported: its digest is
    empty, and equals no other.
    """
    found = _of_user(claim)
    inside = f"{_PACKAGE}{os.sep}"
    for module in [*sys.modules.values()]:
        file = getattr(module, "__file__", None)
        if file is None or not file.startswith(inside) or not _counts(path := Path(file)):
            continue
        found[path.relative_to(_PACKAGE).as_posix()] = _imported(path)
    return dict(sorted(found.items()))


def _of_user(claim: Path | None) -> dict[str, str]:
    return {
        name: _joint([_imported(Path(path)) for path in paths])
        for name, paths in places(claim).items()
    }


def places(claim: Path | None = None) -> dict[str, list[str]]:
    """Return the user's files that this process has executed, by name, with their paths on this
    machine: methods given as a file, modules of installed plug-ins, and those beside the claim or
    beside such a file. The claim's file is not among them: its blob identifies it.

    A name is `./` and the path in the checkout, or else the folder, of the claim; for a file
    elsewhere its last part alone, so that what is stored names no folder of a machine.
    """
    found: dict[str, list[str]] = {}
    own = claim and claim.resolve()
    root = own and (checkout(own.parent) or own.parent)
    for path in sorted(_own_files() - {own}):
        name = "/".join(path.parts[-2:]) if path.stem == "__init__" else path.name
        if root is not None and path.is_relative_to(root):
            name = path.relative_to(root).as_posix()
        found.setdefault(f"{OWN}{name}", []).append(str(path))
    return found


def _own_files() -> set[Path]:
    found = {*ran}
    beside = {str(path.parent) for path in found}
    points = [point.value for point in entry_points(group="diptych.methods")]
    plugins = {value.partition(".")[0] for value in points if value in sys.modules}
    for name, module in [*sys.modules.items()]:
        file = getattr(module, "__file__", None)
        if file is None or name == "__main__":
            continue
        if file.rpartition(os.sep)[0] in beside or name.partition(".")[0] in plugins:
            found.add(Path(file).resolve())
    return {path for path in found if not path.is_relative_to(_PACKAGE)}


def changed(
    files: Mapping[str, str],
    paths: Mapping[str, Sequence[str]] = MappingProxyType({}),
    claim: Path | None = None,
) -> list[str]:
    """Return those of the `used` files that have changed, or are missing. `paths` are the `places`
    of the user's; without one, it is looked for in the checkout or folder of the claim."""
    root = claim and (checkout(claim.parent) or claim.parent)

    def now(name: str) -> str | None:
        here = [_PACKAGE / name]
        if name.startswith(OWN):
            here = [Path(path) for path in paths.get(name, ())] or [(root or Path()) / name]
        return _joint([_digest(path) for path in here]) if all(p.is_file() for p in here) else None

    return [name for name, digest in files.items() if now(name) != digest]


def _joint(digests: list[str]) -> str:
    """Return the digest of files of one name: their own, or one for several; empty if one is."""
    if len(digests) == 1:
        return digests[0]
    whole = repr(sorted(digests)).encode()
    return hashlib.sha256(whole).hexdigest()[:16] if all(digests) else ""


def _imported(path: Path) -> str:
    """Return the digest of a file as it was executed, empty if that is not known: it was written
    after the process began."""
    if path in ran:
        return ran[path]
    late = not path.is_file() or path.stat().st_mtime > _BEGAN
    return "" if late else _digest(path)


def digest_of(files: Mapping[str, str]) -> str:
    """Return 16 digits for all of the `used` files."""
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]


@cache
def shipped_digest() -> str:
    """Return 16 digits for the files of the package that are not code: drawings, vocabularies,
    weights."""
    kinds = {".py", ".pyc", ".css"}
    paths = [
        path for path in sorted(_PACKAGE.rglob("*")) if path.is_file() and path.suffix not in kinds
    ]
    return digest_of({path.relative_to(_PACKAGE).as_posix(): _digest(path) for path in paths})


def code_digest() -> str:
    """Return 16 digits for all the code that a run could import; after a `+` those of the user's files
    that this process has executed, if there are any."""
    paths = [path for path in _PACKAGE.rglob("*.py") if _counts(path)]
    whole = digest_of({path.relative_to(_PACKAGE).as_posix(): _digest(path) for path in paths})
    own = _of_user(None)
    return f"{whole}+{digest_of(own)}" if own else whole


def _counts(path: Path) -> bool:
    """Whether a file may affect a number: not the command line, the code that runs claims, or
    claims, which are identified by their blobs."""
    parts = path.relative_to(_PACKAGE).parts
    if parts[:2] == ("lab", "claims"):
        return parts[-1].startswith("_")
    return parts[0] not in _NO_NUMBERS and not (
        parts[0] == "lab" and len(parts) == 2 and path.stem in _LAB
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the installed libraries that an arm may
    use."""
    found = {"python": platform.python_version(), "diptych": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the name of the processor that this process computes on: its GPU if it has used one,
    else the CPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return torch.cuda.get_device_name()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return next(
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
