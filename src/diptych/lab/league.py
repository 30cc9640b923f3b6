"""Stored verdicts in the docs, as Markdown: all methods in one table, and the result of one
claim."""

from collections.abc import Callable
from pathlib import Path

from diptych.lab import tables
from diptych.lab.claim import CLAIMS
from diptych.lab.provenance import blob_of
from diptych.lab.stored import Record, read_result, result_path
from diptych.methods.registry import cards

COLUMNS = ("method", "year", "kind", "provenance", "verdict", "by its effect", "95 % interval")


def league(results: Path, link: Callable[[str], str] = str, claims: Path = CLAIMS) -> list[str]:
    """Return all cards with the verdict on their claims and the interval of the effect that decided
    it; of several, the first.

    `results` is the folder of stored verdicts; `link` returns the Markdown for a method's name.
    """
    rows = []
    for name, card in cards().items():
        record = read_result(result_path(name, out=results))
        effect, interval = _effect(record) if record is not None else ("", "")
        reported = _verdict(name, record, results, claims)
        rows.append(
            (link(name), str(card.year), card.kind, card.provenance, reported, effect, interval)
        )
    return tables.markdown((COLUMNS, rows))


def _effect(record: Record) -> tuple[str, str]:
    """Return the first expectation whose outcome is the verdict, with the ablations that make it
    fail; the first of all if the arms are untrained."""
    deciding = [each for each in record["expect"] if each["outcome"] == record["verdict"]]
    found = (deciding or record["expect"])[0]
    kept = [
        f"; but {each['arm']} keeps {each['kept']:.0%} of it"
        for each in found["ablations"]
        if found["outcome"] == "fails" and each["kept"] is not None and not each["breaks"]
    ]
    return found["says"] + "".join(kept), tables.ends(
        found["interval"], "" if found["kind"] == "at_most" else "+"
    )


def _verdict(name: str, record: Record | None, results: Path, claims: Path) -> str:
    """Return the verdict, whether the claim has changed since, and the verdict on real data if
    there is one."""
    path = claims / f"{name}.py"
    if record is None:
        return "not tried" if path.exists() else "no claim"
    reported = f"**{record['verdict']}**"
    if not path.exists() or blob_of(path.read_bytes()) != record["file"]["blob"]:
        reported += ", of an earlier form of the claim"
    real = read_result(result_path(name, "real", results))
    return reported + (f"; on real data **{real['verdict']}**" if real is not None else "")


def result(name: str, results: Path) -> list[str]:
    """Return the stored result of a claim and of its block on real data: question, arms,
    expectations, verdict, conditions."""
    found = [
        (title, read_result(result_path(name, block, results)))
        for title, block in (("", "claim"), ("On real data: ", "real"))
    ]
    shown = [
        line for title, record in found if record is not None for line in _block(title, record)
    ]
    return shown or [f"No verdict is stored yet; `diptych reproduce {name}` makes one."]


def _block(title: str, record: Record) -> list[str]:
    file = record["file"]
    seeds = ", ".join(map(str, record["seeds"]))
    where = (
        f"commit `{file['commit'][:12]}` of its file"
        if file["commit"]
        else f"its file `{file['blob'][:12]}`"
    )
    conditions = (
        f"Seeds {seeds}; means ± half the 95 % t-interval. {record['cpu_seconds']:,.0f} CPU seconds on "
        f"{', '.join(record['processors'])}, torch {record['versions'].get('torch', '?')}; {where}."
    )
    reported = tables.sentence(record)
    return [
        f"{title}{record['question']}",
        "",
        *tables.markdown(tables.arms(record)),
        "",
        *tables.markdown(tables.expectations(record)),
        "",
        f"**{reported[0].upper()}{reported[1:]}.** {conditions}",
        "",
    ]
