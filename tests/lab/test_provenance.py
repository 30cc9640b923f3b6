"""Where a result comes from: git's names, and the digest of the code."""

import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from diptych import __version__, files
from diptych.errors import InputError
from diptych.lab import provenance
from diptych.lab.provenance import (
    blob_of,
    changed,
    checkout,
    code_digest,
    code_of,
    digest_of,
    places,
    processor,
    shipped_digest,
    stamp,
    used,
    versions,
)


def git(folder, *words):
    done = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", folder, *words],
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q")
    return tmp_path


BLOCKS = '''"""What is asked."""
from functools import cache
from x import first, second

RATE = 1  # of a grid

@cache
def drawn(count):
    return first(count, RATE)


def real_only():
    return second(CELLS)


check("names")
claim = Claim(arms=[drawn(3)])
CELLS = "cells"
"""Where they lie."""
real = Claim(arms=[drawn(3), real_only(), *(count for count in (1, 2))])
'''


@pytest.mark.parametrize(
    ("before", "after", "touched"),
    [
        ("What is asked", "What else", set()),
        ("\n\n\ndef real_only", "\n# on cells\ndef real_only", set()),
        ("Where they lie", "Their place", set()),
        ('CELLS = "cells"', 'CELLS = "smears"', {"real"}),
        ("import first, second", "import first, third as second", {"real"}),
        ("import first, second", "import first, other, second", set()),
        ("from x import", "from y import", {"claim", "real"}),
        ("RATE = 1", "RATE = 2", {"claim", "real"}),
        ("@cache\n", "", {"claim", "real"}),
        ('check("names")', "", {"claim", "real"}),
        ("claim = Claim(arms=[drawn(3)])", "claim = Claim(arms=[drawn(4)])", {"claim"}),
    ],
)
def test_a_block_is_the_code_that_it_reads(before, after, touched):
    assert BLOCKS.count(before)
    changed = BLOCKS.replace(before, after, 1)
    differ = {
        block
        for block in ("claim", "real")
        if code_of(BLOCKS.encode(), block) != code_of(changed.encode(), block)
    }
    assert differ == touched


def test_a_file_is_changed_until_it_is_committed_and_again_when_it_differs(repository):
    folder = repository / "claims"
    folder.mkdir()
    path = folder / "gap.py"
    path.write_text("expect = 1\n")
    assert (stamp(path).changed, stamp(path).commit) == (True, None)  # there is no commit at all
    git(repository, "add", "claims")
    assert stamp(path).changed
    git(repository, "commit", "-qm", "first")
    first = git(repository, "rev-parse", "HEAD")
    (repository / "other").write_text("x")
    assert (stamp(path).changed, stamp(path).commit, stamp(path).file) == (
        False,
        first,
        "claims/gap.py",
    )
    assert (
        stamp(path).blob
        == git(repository, "rev-parse", "HEAD:claims/gap.py")
        == blob_of(b"expect = 1\n")
    )
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "second")
    assert stamp(path).commit == first  # the commit of the file, not of the repository
    path.write_text("expect = 2\n")
    assert stamp(path).changed
    git(repository, "add", ".")
    assert stamp(path).changed  # staged is not committed
    untracked = folder / "new.py"
    untracked.write_text("")
    assert (stamp(untracked).changed, stamp(untracked).commit) == (True, None)


def test_what_a_checkout_ignores_or_does_not_hold_is_known_by_its_content(
    repository, tmp_path_factory
):
    (repository / ".gitignore").write_text("env/\n")
    outside = tmp_path_factory.mktemp("installed")
    for folder in (repository / "env", outside):
        folder.mkdir(exist_ok=True)
        (folder / "gap.py").write_text("expect = 1\n")
        found = stamp(folder / "gap.py")
        assert (found.commit, found.changed, found.blob) == (None, False, blob_of(b"expect = 1\n"))
        assert "outside a git checkout" in found.to_dict()["note"]
    assert checkout(outside) is None
    assert checkout(repository / "env") == repository


def test_a_checkout_that_git_cannot_read_is_told(repository, monkeypatch):
    path = repository / "gap.py"
    path.write_text("")
    (repository / ".git" / "HEAD").unlink()
    with pytest.raises(InputError, match="git cannot say whether .*gap.py is committed: fatal"):
        stamp(path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="git is not installed"):
        stamp(path)


def test_what_a_process_used_is_known_and_noticed_when_it_changes(tmp_path, monkeypatch):
    names = ("methods/clip.py", "cli/train.py", "lab/pool.py", "lab/claims/_shared.py", "lab/claims/lion.py",
             "lab/demo/trial.py", "methods/not_imported.py")  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one = 1\n")
        if "not" not in name:
            module = ModuleType(name)
            module.__file__ = str(tmp_path / name)
            monkeypatch.setitem(sys.modules, f"pretended.{name}", module)
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    monkeypatch.setattr(provenance, "ran", {})
    monkeypatch.setattr(provenance, "_BEGAN", time.time() + 1)
    found = used()
    assert [*found] == ["lab/claims/_shared.py", "lab/demo/trial.py", "methods/clip.py"]
    assert changed(found) == []
    before, code = digest_of(found), code_digest()
    (tmp_path / "lab/pool.py").write_text("two = 2\n")
    assert (changed(found), digest_of(used()), code_digest()) == ([], before, code)
    (tmp_path / "methods/clip.py").write_text("two = 2\n")
    assert changed(found) == ["methods/clip.py"]
    assert digest_of(used()) != before
    assert code_digest() != code
    monkeypatch.setattr(
        provenance, "_BEGAN", time.time() - 60
    )  # both were written after they were imported, maybe
    assert changed(used()) == [*found]


def test_the_files_of_the_user_are_known_by_their_names(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ran", ran := {})
    monkeypatch.setattr(provenance, "ran", ran)
    monkeypatch.setattr(provenance, "_BEGAN", time.time() + 600)
    plain = code_digest()
    for name in (
        "here/claim.py",
        "here/mine.py",
        "here/helper.py",
        "there/hinge.py",
        "there/late.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one = 1\n")
    claim = tmp_path / "here" / "claim.py"
    helper = ModuleType("helper")
    helper.__file__ = str(tmp_path / "here" / "helper.py")
    monkeypatch.setitem(sys.modules, "pretended.helper", helper)
    for path in (claim, claim.with_name("mine.py"), tmp_path / "there" / "hinge.py"):
        files.run_module(path, f"pretended.{path.stem}")
    found = {name: digest for name, digest in used(claim).items() if name.startswith("./")}
    assert [*found] == ["./helper.py", "./hinge.py", "./mine.py"]
    assert "tmp" not in str(found)
    assert code_digest().startswith(f"{plain}+")
    where = places(claim)
    assert changed(found, where, claim) == []
    assert changed(found, {}, claim) == ["./hinge.py"]  # nobody knows where it lies
    claim.with_name("mine.py").write_text("two = 2\n")
    assert changed(found, where, claim) == ["./mine.py"]
    files.run_module(claim.with_name("mine.py"), "pretended.mine")
    assert used(claim)["./mine.py"] == ""  # it ran in two states

    for name in ("theirs", "theirs.method", "theirs.other"):
        module = ModuleType(name)
        module.__file__ = str(tmp_path / "site" / f"{name.replace('.', '/')}.py")
        monkeypatch.setitem(sys.modules, name, module)
    theirs = {"./theirs.py", "./method.py", "./other.py"}
    for value, counts in (("theirs.absent", False), ("theirs.method", True)):
        point = EntryPoint("theirs", value, "diptych.methods")
        monkeypatch.setattr(provenance, "entry_points", lambda group, point=point: [point])
        assert {*used(claim)} & theirs == (theirs if counts else set())


def test_what_ships_with_the_package_has_a_digest_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)

    def digest(name, text):
        (tmp_path / name).write_text(text)
        shipped_digest.cache_clear()
        return shipped_digest()

    try:
        first, second, third = digest("a.webp", "1"), digest("a.py", "1"), digest("a.webp", "2")
        assert first == second != third
    finally:
        shipped_digest.cache_clear()


def test_versions_and_processor_are_told():
    assert versions()["diptych"] == __version__
    assert {"python", "torch", "numpy", "scipy"} <= set(versions())
    assert processor()
