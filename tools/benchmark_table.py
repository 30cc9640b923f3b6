"""Rewrite the table of docs/performance.md from results/benchmarks/*.json.

python tools/benchmark_table.py
"""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "results" / "benchmarks"
BEGIN = "<!-- measured: by tools/benchmark_table.py -->\n"
END = "<!-- end -->\n"
ORDER = ("text", "images", "folder", "step", "loss_softmax", "loss_sigmoid", "loss_memory", "tar", "recall", "ivf",
         "stores", "serving", "growth", "scenes", "adapt", "lora", "tuning", "sentences", "concepts", "decoding",
         "start", "search", "backends", "sentences_clip", "adaptation", "gpu")  # fmt: skip


def table(results: Path = RESULTS) -> str:
    """One line a stored row, those that `ORDER` does not name at the end; a row that it names and that
    was never stored is listed as not measured."""
    lines = ["| row | unit | ours | theirs | ratio | smallest to largest | bar | of the peak |"]
    lines.append("|" + "---|" * 8)
    others = sorted({path.stem for path in results.glob("*.json")} - set(ORDER))
    for name in (*ORDER, *others):
        path = results / f"{name}.json"
        if not path.exists():
            lines.append(f"| `{name}` | not measured |" + " |" * 6)
            continue
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cells(row: dict) -> list[str]:
    scale, unit = (1e6, "MB") if "bytes" in row["unit"] else (1, row["unit"])
    spread = f"{row['ratio_min']:.3f} to {row['ratio_max']:.3f}" if "ratio_min" in row else ""
    bar = "" if row["bar"] is None else f"{row['bar']:.3f}" + ("" if row["met"] else ", missed")
    share = "" if row.get("roofline") is None else f"{row['roofline']:.0%}".replace("%", " %")
    found = (
        f"{row[side] / scale:.3g}" if row[side] / scale < 1000 else f"{row[side] / scale:,.0f}"
        for side in ("ours", "theirs")
    )
    return [row["what"], unit, *found, f"{row['ratio']:.3f}", spread, bar, share]


def rewritten(page: str) -> str:
    """The page with the table of today."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
