"""What the docs show of stored verdicts."""

import json
import re

import pytest

from diptych.lab import league, tables
from diptych.lab.claim import Claim, Floor, at_most, better
from diptych.lab.provenance import blob_of, golden
from diptych.lab.stored import EARLIER, FORMAT
from diptych.lab.verdict import judge
from diptych.methods.registry import cards

CLAIM = Claim(
    question="Ours is better.",
    arms={name: lambda trial: {} for name in ("ours", "theirs", "broken")},
    headline=(better("r1", "ours", over="theirs"),),
    mechanism=("broken",),
    checks=(at_most("r1", "ours", 0.9),),
    delta=0.01,
    floor=Floor("r1", 0.1),
)
HOLDS = [(0.7, 0.5), (0.71, 0.5), (0.72, 0.5), (0.7, 0.5), (0.71, 0.5)]
OPEN = [(0.7, 0.4), (0.7, 0.8), (0.7, 0.5), (0.7, 0.9), (0.7, 0.4)]


def record(values, content=b"claim", **changed):
    numbers = {
        200 + seed: {"ours": {"r1": o}, "theirs": {"r1": t}, "broken": {"r1": t + o / 1e3}}
        for seed, (o, t) in enumerate(values)
    }
    arms = {
        "ours": {"r1": {"mean": 0.612, "interval": [0.6, 0.624]}},
        "theirs": {"r1": {"mean": 0.5, "interval": None}},
    }
    return {
        "format": FORMAT,
        "claim": "clip",
        "block": "claim",
        "question": CLAIM.question,
        **judge(CLAIM, numbers).to_dict(),
        "quick": False,
        "seeds": [*numbers],
        "table": ["r1"],
        "arms": arms,
        "cpu_seconds": 1234.5,
        "processors": ["a processor"],
        "versions": {"torch": "2.11"},
        "files": {},
        "golden": golden("clip"),
        "file": {
            "file": "clip.py",
            "blob": blob_of(content),
            "commit": "0123456789abcdef",
            "sha256": "",
        },
        **changed,
    }


@pytest.fixture
def folders(tmp_path):
    """Stored results, claims: clip has both, siglip neither."""
    for name in ("results", "claims"):
        (tmp_path / name).mkdir()
    (tmp_path / "claims" / "clip.py").write_bytes(b"claim")
    store(tmp_path, record(HOLDS))
    return tmp_path


def store(folders, record, name="clip.json"):
    (folders / "results" / name).write_text(json.dumps(record))


def table(folders, **options):
    return league.league(folders / "results", claims=folders / "claims", **options)


def row(folders, name="clip", **options):
    [line] = [line for line in table(folders, **options) if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_league_has_a_row_for_every_claim_and_names_the_others(folders):
    found = table(folders, link=lambda name: f"[{name}]({name}.md)")
    assert found[0] == "| method | year | claim | verdict | effect |"
    assert len([line for line in found if line.startswith("| [")]) == 1
    others = found[-1]
    assert "[siglip](siglip.md)" in others
    assert others.count("](") == len(cards()) - 1


def test_a_row_has_the_sentence_the_verdict_and_a_bar(folders):
    name, year, question, verdict, bar = row(folders)
    assert (name, year) == ("clip", "2021")
    assert question == "Ours is better. <small>Judged: r1: ours above theirs.</small>"
    assert verdict == "**holds, mechanism shown**"
    assert "<title>r1: ours above theirs +0.208 [+0.1976, +0.2184]</title>" in bar
    places = {key: float(re.search(rf'{key}="([\d.]+)"', bar)[1]) for key in ("cx", "r")}
    assert 60 < places["cx"] < 120  # right of zero, inside
    (folders / "claims" / "siglip.py").write_text("")
    assert row(folders, "siglip")[3:] == ["not tried", ""]


def test_baselines_have_a_table_of_their_own(folders):
    store(folders, record(HOLDS), "tip_adapter.json")
    found = table(folders)
    assert found.index("Baselines:") > next(i for i, line in enumerate(found) if "| clip " in line)
    assert found.index("Baselines:") < next(
        i for i, line in enumerate(found) if "| tip_adap" in line
    )


def test_a_bar_has_its_interval_inside():
    drawn = league.bar(-0.2, -0.1, 0.05, "x")
    x1, x2 = (float(re.findall(rf'{name}="([\d.]+)"', drawn)[1]) for name in ("x1", "x2"))
    middle = float(re.search(r'cx="([\d.]+)"', drawn)[1])
    assert 0 <= x1 < middle < 60 < x2 <= league.WIDTH


def test_code_that_has_changed_since_and_real_data_are_shown(folders):
    store(folders, record(OPEN), "clip.real.json")
    assert row(folders)[3] == "**holds, mechanism shown**; on real data **undecided**"
    for changed in (
        {"files": {"methods/pretrain/clip.py": "other"}},
        {"golden": {"clip.txt": "other"}},
    ):
        store(folders, record(HOLDS, **changed))
        assert "code changed since" in row(folders)[3]
    store(folders, record(HOLDS, files={"files.py": "other"}))
    assert "changed" not in row(folders)[3]
    text = "\n".join(league.result("clip", folders / "results", folders / "claims"))
    assert "Other files that ran and have changed: 1." in text
    (folders / "claims" / "clip.py").write_bytes(b"another = claim")
    assert "code changed since" in row(folders)[3]


def test_a_methods_page_shows_what_was_measured_and_under_which_conditions(folders):
    text = "\n".join(league.result("clip", folders / "results", folders / "claims"))
    for part in (
        "Ours is better.",
        "| ours | 0.612 ± 0.012 |",
        "| theirs | 0.5 |",
        "| headline | r1: ours above theirs | holds | +0.208 | [+0.1976, +0.2184] | 0.0141 |",
        "| mechanism | half the gain less that of broken | keeps 0% of the gain |",
        "| check | r1: ours at most 0.9 | holds | 0.708 | [0.6976, 0.7184] |",
        "**Holds after 5 seeds, mechanism shown after 5.** Seeds 200 to 204;",
        "1,234 CPU seconds on a processor, torch 2.11; commit `0123456789ab` of its file.",
    ):
        assert part in text, part
    assert league.result("lion", folders / "results") == ["No verdict is stored yet."]
    [line] = league.result("siglip", folders / "results")
    assert line.startswith("Not judged yet: its claim is not written")
    store(folders, record(HOLDS, file={"blob": "f" * 40, "commit": None}), "clip.real.json")
    text = "\n".join(league.result("clip", folders / "results", folders / "claims"))
    assert "On real data: Ours is better." in text
    assert "its file `ffffffffffff`" in text


def test_a_result_of_the_earlier_rule_says_so(folders):
    earlier = record(HOLDS, format=EARLIER, verdict="tie")
    for name in ("headline", "mechanism", "checks", "files", "golden"):
        del earlier[name]
    store(folders, earlier)
    assert row(folders)[3:] == ["**tie (earlier rule)**", ""]
    text = "\n".join(league.result("clip", folders / "results", folders / "claims"))
    assert "**Tie, by the earlier rule, and not comparable.**" in text
    assert "| ours | 0.612 ± 0.012 |" in text


@pytest.mark.parametrize(
    ("values", "changed", "sentence"),
    [
        (HOLDS, {}, "holds after 5 seeds, mechanism shown after 5"),
        ([(t, o) for o, t in HOLDS], {}, "fails after 5 seeds"),
        (OPEN, {}, "undecided after 5 seeds; 46 seeds would decide it"),
        (
            OPEN,
            {"open_look": 10},
            "undecided after 5 seeds; 46 seeds would decide it; the look at 10 seeds is due",
        ),
        (
            [(o, 0.2) for o, _ in HOLDS],
            {},
            "untrained after 5 seeds (theirs is under the floor of 0.3 in 5 of 5 seeds)",
        ),
    ],
)
def test_a_sentence_for_each_verdict(values, changed, sentence):
    found = tables.sentence(record(values, **changed))
    assert re.sub(r"\d+ seeds would", "46 seeds would", found) == sentence
