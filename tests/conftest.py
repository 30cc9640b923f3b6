"""What all tests share: where the real packs lie, and small data."""

import gc
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from diptych.testing import Ranks

torch.set_num_threads(1)

# Started in the background of a script, a process ignores SIGINT, and so would the commands that
# tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests kill processes, not the machine: they need not wait until files are on the disk, some
# milliseconds for each. That files are flushed before they are renamed is a test of its own.
os.fsync = lambda handle: None

# No test fails because the machine is busy. The same examples on every run of CI: a new one that fails
# is found while somebody looks, not when a change lands.
settings.register_profile(
    "steady",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("steady")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect all tests without garbage collection, which took a quarter of that time: they make a
    million objects that stay, and are not searched later either."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def data_pack():
    """`data_pack("flickr8k-1k")` gives the folder of a real pack, or skips where DIPTYCH_DATA does
    not hold it."""

    def find(name: str) -> Path:
        root = os.environ.get("DIPTYCH_DATA")
        if not root or not Path(root).is_dir():
            pytest.skip("DIPTYCH_DATA names no folder of real packs")
        path = Path(root) / name
        assert path.is_dir(), f"DIPTYCH_DATA={root} holds no {name}"
        return path

    return find


@pytest.fixture(scope="session")
def two():
    """Two ranks for all tests: starting them costs more than most tests do."""
    with Ranks(2) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def four():
    """Four ranks for all tests."""
    with Ranks(4) as ranks:
        yield ranks


@pytest.fixture
def pairs_csv(tmp_path: Path) -> Path:
    """48 images of one colour each with its caption, as a table with files beside it."""
    return make_pairs(tmp_path / "pairs", 48)


def make_pairs(folder: Path, count: int, size: int = 20) -> Path:
    """Images of noise in a few colours, `count` captions all different; the path of the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    words = "red green blue small large round square bright dark old new warm cold fast slow thin"
    for number in range(count):
        pixels = np.clip(
            rng.integers(0, 256, 3) + rng.normal(0, 12, (size, size, 3)), 0, 255
        ).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        chosen = [
            words.split()[i]
            for i in (number % 16, (number // 16 + 3 * number) % 16, (7 * number + 1) % 16)
        ]
        lines.append(f"{number:03d}.png,{' '.join(chosen)} thing {number}")
    path = folder / "pairs.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium, driven by playwright."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()
