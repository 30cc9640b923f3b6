"""A denoiser from the command line: trained, validated, drawn with, asked for swapped captions, and
distilled into a model with its error on held-out pairs."""

import json

WORLD = "scenes:number=2:same=0:size=32:texts=caption:drop=0:objects=shapes"
FEW = ("--steps", "2", "--batch-size", "8", "--quiet")
SIZE = {"size": 8, "patch": 4, "width": 16, "depth": 1, "steps": 20}


def test_a_denoiser_draws_judges_and_teaches(diptych, tmp_path):
    teacher = tmp_path / "denoiser"
    options = [word for name, value in SIZE.items() for word in (f"--method.{name}", str(value))]
    data = ("--data", f"{WORLD}:count=16", "--val", f"{WORLD}:split=val:count=4")
    tower = ("--text-tower", "text:width=16:depth=1:heads=2:causal=false", "--embed-dim", "16")
    called = diptych("train", "denoise", *data, *tower, *options, *FEW, "--out", teacher)
    assert called.code == 0, called.err
    assert "validation: explained " in called.err
    assert f"diptych draw {teacher}" in called.out
    drawn = tmp_path / "drawn"
    called = diptych("draw", teacher, "a red star", "--count", "2", "--steps", "2", "--out", drawn)
    assert called.code == 0, called.err
    assert len(list(drawn.glob("*.png"))) == 2
    swaps = f"{WORLD}:split=val:edits=swap:count=4"
    called = diptych(
        "evaluate", teacher, "--data", swaps, "--suite", "composition", "--by", "match"
    )
    assert called.code == 0, called.err
    assert "i2t_2way" in called.out
    lines = ["text,label", "a red star,1", "a blue ring,1", "nobody knows why,0", "a promise,0"]
    (tmp_path / "kinds.csv").write_text("\n".join(lines))
    words = ("--suite", "visualness", "--drawer", teacher, "--draws", "2")
    called = diptych("evaluate", "tiny", "--data", tmp_path / "kinds.csv", *words)
    assert called.code == 0, called.err
    assert "visualness by drawing:" in called.out
    assert "likeness" in called.out
    out = tmp_path / "run"
    called = diptych(
        *("train", "sds_clip", "--init", "tiny", "--method.denoiser", teacher),
        *("--method.warm", "{steps: 1}", "--data", f"train={WORLD}:count=16"),
        *("--data", f"held_out={WORLD}:split=val:count=4", *FEW, "--out", out),
    )
    assert called.code == 0, called.err
    assert json.loads((out / "sds_error.json").read_text())["n"] == 4
