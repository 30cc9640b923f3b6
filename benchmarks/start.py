"""Start: a fresh process imports diptych, loads `tiny`, and embeds one image and one text.

CPU seconds of the whole process, Python's own start included, against a limit. The first process is
not counted: it leaves compiled files, and what diptych probes once on a machine.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.material import photographs
from benchmarks.measure import judged, seconds, summary

PACKAGES = ()
LIMIT = 1.0
WORK = """
import sys
import diptych

model = diptych.load("tiny")
image = model.embed_images([sys.argv[1]])
text = model.embed_texts(["a red bird on a branch"])
assert image.shape == text.shape
"""


def run(times: int = 7) -> list[dict]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        photographs(1, (500, 375))[0].save(path, quality=90)
        work = partial(process, path)
        work()
        pairs = [(seconds(work), (LIMIT, LIMIT)) for _ in range(times)]
    what = "import, load tiny, embed an image and a text (theirs: the limit)"
    return [judged(what, "CPU s", summary(pairs), 1.0)]


def process(path: Path) -> None:
    """Run the work in a fresh Python, with as many threads as here."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", WORK, str(path)]
    subprocess.run(command, env={**os.environ, **threads}, check=True)
