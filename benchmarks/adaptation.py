"""A training step of MaPLe, CoOp and LoRA on ViT-B/32 against the same step of an earlier commit.

The commit is checked out into a temporary git worktree. Both sides begin at the same weights, each in
a process of its own (`benchmarks.adapted_step`) that holds its model and takes a step when asked, in
turns; with LoRA and CoOp, whose start is not random, the first losses must agree. Neither side reads
data: both take the same batch of random pixels again and again.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import torch

from benchmarks.material import NAME, peer, same_weights
from benchmarks.measure import judged, summary
from diptych.errors import InputError

PACKAGES = ("open_clip_torch", "peft")
ROOT = Path(__file__).resolve().parents[1]
COMMIT = "d5d39f2"
METHODS = ("maple", "coop", "lora")
BAR = 1 / 1.5
CLASSES = 50
BATCH = 32


def run(pairs: int = 7, classes: int = CLASSES, batch: int = BATCH) -> list[dict]:
    with TemporaryDirectory() as temporary, worktree(Path(temporary) / "past") as past:
        same_weights(peer()[0], Path(temporary), "float32")  # writes the file
        words = [f"openclip:{NAME}", str(Path(temporary) / "peer.safetensors")]
        words += [str(classes), str(batch)]
        return [
            _row(name, words, past, pairs, f"{classes} classes, batch {batch}") for name in METHODS
        ]


@contextmanager
def worktree(place: Path, root: Path = ROOT, commit: str = COMMIT) -> Iterator[Path]:
    """The files of a commit in a new folder, which is removed in the end.

    Raises InputError without git, outside a checkout, and if the checkout lacks the commit.
    """
    if shutil.which("git") is None:
        raise InputError(
            f"benchmarks.adaptation checks out commit {commit}, and git is not installed"
        )
    git = ["git", "-C", str(root)]
    known = subprocess.run(
        [*git, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True, check=False
    )
    if known.returncode:
        raise InputError(
            f"benchmarks.adaptation compares with commit {commit}, which {root} does not hold; run it in a "
            "full clone (git fetch --unshallow)"
        )
    add = [*git, "worktree", "add", "--quiet", "--detach", str(place), commit]
    subprocess.run(add, check=True)
    try:
        yield place
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(place)], check=True)


class Side:
    """A process that takes steps with the code in a folder; `begun` is what it says first."""

    def __init__(self, name: str, words: list[str], root: Path):
        source = root / "src"
        paths = [str(source), str(ROOT)]  # diptych of that commit, and these benchmarks
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        }
        command = [sys.executable, "-P", "-m", "benchmarks.adapted_step", name, *words, str(source)]
        self._errors = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.begun = self._answer()

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # ends its loop
        self._process.wait()
        self._errors.close()

    def step(self) -> tuple[float, float]:
        """CPU and wall seconds of a step."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        cpu, wall, _ = self._answer()
        return cpu, wall

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:]
            raise InputError(f"a process of benchmarks.adapted_step ended: {''.join(last)}")
        return json.loads(line)


def _row(name: str, words: list[str], past: Path, pairs: int, what: str) -> dict:
    with ExitStack() as both:
        ours, theirs = (both.enter_context(Side(name, words, root)) for root in (ROOT, past))
        counts = [side.begun["parameters"] for side in (ours, theirs)]
        assert counts[0] == counts[1], f"{name}: they train {counts} parameters"
        losses = [side.begun["loss"] for side in (ours, theirs)]
        alike = abs(losses[0] - losses[1]) <= 1e-4 * abs(losses[1])
        assert alike or name == "maple", f"{name}: the first losses are {losses}"
        ours.step(), theirs.step()
        times = [(ours.step(), theirs.step()) for _ in range(pairs)]
    line = judged(
        f"{name}, ViT-B/32, {what}, a step, against {COMMIT}", "CPU s", summary(times), BAR
    )
    return {**line, "parameters": counts[0]}
