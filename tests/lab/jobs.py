"""What the tests of the lab let run in processes of their own."""

import os
import signal
from pathlib import Path


def talk(word, say):
    """Says and prints a word, and gives what the process is."""
    say(f"{word}?")
    print(f"{word} printed")
    os.write(2, b"and by the system\n")
    return {"word": word, "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}


def read(path, say):
    """A file that another job must have written."""
    return Path(path).read_text()


def write(path, say):
    """Writes that file."""
    Path(path).write_text("written")


def refuse(say):
    """Raises what a user gets to read."""
    from diptych.errors import InputError

    raise InputError("no data; bring it with: diptych data make scenes")


def break_down(say):
    """Raises what is a defect."""
    return 1 // 0


def die(say):
    """Ends as where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait(say):
    """Tells who it is, and never ends."""
    say(os.getpid())
    signal.pause()


def measured(task, say):
    """In place of training: a row whose metric follows from the cell, and a line in a file for each
    call."""
    from dataclasses import asdict

    from diptych.lab.compare.cell import write_row
    from diptych.training.config import file_digests

    with task.folder.parent.joinpath("ran.txt").open("a") as file:
        file.write(f"{task.folder.name}\n")
    cell = task.cell
    score = (
        0.1 * cell.size
        + cell.budget / 10_000
        + 0.01 * cell.seed
        + (0.05 if cell.method == "siglip" else 0.0)
    )
    row = {
        **asdict(cell),
        "parameters": int(1e6 * cell.size),
        "gflops": 0.05 * cell.size**2,
        "steps": 10,
        "samples": cell.budget,
        "batch_size": 128,
        "optimizer": "muon",
        "lr": 0.004,
        "schedule": "cosine",
        "files": file_digests([cell.method]),
        "metrics": {
            "retrieval/n": 9,
            "retrieval/t2i_r1": score,
            "retrieval/chance_t2i_r1": 0.01,
            "retrieval/mrr": 0.5,
        },
        "protocols": {"retrieval": "abc"},
        "seconds": 1.0,
        "cpu_seconds": 1.0,
        "processor": "a processor",
        "code": "0" * 16,
    }
    task.folder.mkdir(parents=True)
    write_row(task.folder / "row.json", row)
    return row


def measured_with_shorter(task, say, change=lambda row: {}):
    """As `measured`, with the rows of lower budgets; `change(row)` are other values of a row."""
    from dataclasses import replace

    from diptych.lab.compare.cell import write_row

    row = measured(task, say)
    for budget in (*task.shorter, task.cell.budget):
        folder = task.folder.with_name(replace(task.cell, budget=budget).folder)
        folder.mkdir(exist_ok=True)
        own = {**row, "budget": budget, "samples": budget}
        if budget != task.cell.budget:
            own["checkpoint_of"] = task.cell.budget
        write_row(folder / "row.json", own | change(own))
    return row


LAWS = {"retrieval/t2i_r1": (3.0, 0.2), "zeroshot/top1": (2.0, 0.15), "segment/miou": (1.5, 0.1)}
"""The scale and the exponent of three tasks' errors over samples."""
STEEPER = {"raw": 0.0, "filtered": 0.02, "clean": 0.05}
"""What the exponent has more, by the name of the data."""


def lawful(task, say):
    """As `measured_with_shorter`, where the errors of three tasks are power laws of the samples."""
    more = next(found for name, found in STEEPER.items() if name in task.data)

    def change(row):
        metrics = {
            name: 1 - scale * row["samples"] ** -(exponent + more)
            for name, (scale, exponent) in LAWS.items()
        }
        chances = {name.replace("/", "/chance_"): 0.01 for name in metrics}
        return {"metrics": metrics | chances, "weight_gflops": 0.5}

    return measured_with_shorter(task, say, change)
