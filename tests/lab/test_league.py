"""What the docs show of stored verdicts."""

import json

import pytest

from diptych.lab import league, tables
from diptych.lab.claim import Claim, Floor, at_most, better
from diptych.lab.provenance import blob_of
from diptych.lab.stored import FORMAT
from diptych.lab.verdict import judge
from diptych.methods.registry import cards

CLAIM = Claim(
    question="Is ours better?",
    seeds=(1, 2, 3),
    arms={name: lambda trial: {} for name in ("ours", "theirs", "broken")},
    expect=(better("r1", "ours", over="theirs", breaking=("broken",)), at_most("r1", "ours", 0.9)),
    floor=Floor("r1", 0.1),
)


def record(values, content=b"claim", **changed):
    numbers = {
        seed: {"ours": {"r1": o}, "theirs": {"r1": t}, "broken": {"r1": t}}
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
    store(tmp_path, record([(0.7, 0.5), (0.7, 0.5), (0.71, 0.5)]))
    return tmp_path


def store(folders, record, name="clip.json"):
    (folders / "results" / name).write_text(json.dumps(record))


def row(folders, name="clip", **options):
    found = league.league(folders / "results", claims=folders / "claims", **options)
    [line] = [line for line in found if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_league_has_a_row_for_every_card(folders):
    found = league.league(
        folders / "results", lambda name: f"[{name}]({name}.md)", folders / "claims"
    )
    assert (
        found[0]
        == "| method | year | kind | provenance | verdict | by its effect | 95 % interval |"
    )
    assert len(found) == 2 + len(cards())
    assert any(line.startswith("| [siglip](siglip.md) | 2023 | method | code |") for line in found)


def test_a_row_tells_verdict_main_effect_and_its_interval(folders):
    assert row(folders) == [
        "clip",
        "2021",
        "method",
        "code",
        "**holds**",
        "r1: ours above theirs",
        "[+0.189, +0.2177]",
    ]
    assert row(folders, "siglip")[4:] == ["no claim", "", ""]
    (folders / "claims" / "siglip.py").write_text("")
    assert row(folders, "siglip")[4] == "not tried"


def test_an_effect_that_fails_by_an_ablation_says_so(folders):
    found = record([(0.7, 0.5), (0.7, 0.5), (0.71, 0.5)])
    effect = {
        **found["expect"][0],
        "outcome": "fails",
        "ablations": [{"arm": "plain", "kept": 0.976, "breaks": False}],
    }
    store(folders, {**found, "verdict": "fails", "expect": [effect]})
    assert row(folders)[4:] == [
        "**fails**",
        "r1: ours above theirs; but plain keeps 98% of it",
        "[+0.189, +0.2177]",
    ]


def test_the_effect_is_the_one_that_decides(folders):
    store(folders, record([(0.95, 0.5), (0.95, 0.5)]))
    assert row(folders)[4:6] == ["**fails**", "r1: ours at most 0.9"]


def test_a_claim_that_has_changed_since_and_real_data_are_told(folders):
    store(folders, record([(0.7, 0.5), (0.1, 0.5)]), "clip.real.json")
    assert row(folders)[4] == "**holds**; on real data **tie**"
    (folders / "claims" / "clip.py").write_bytes(b"another claim")
    assert row(folders)[4] == "**holds**, of an earlier form of the claim; on real data **tie**"


def test_a_methods_page_shows_what_was_measured_and_under_which_conditions(folders):
    text = "\n".join(league.result("clip", folders / "results"))
    for part in (
        "Is ours better?",
        "| ours | 0.612 ± 0.012 |",
        "| theirs | 0.5 |",
        "| r1: ours above theirs | holds | +0.2033 | [+0.189, +0.2177] | 0.0143 |",
        "|   broken by broken | keeps 0% | +0 | [+0, +0] |  |",
        "| r1: ours at most 0.9 | holds | 0.7033 | [0.689, 0.7177] |",
        "**Verdict: holds.** Seeds 0, 1, 2;",
        "1,234 CPU seconds on a processor, torch 2.11; commit `0123456789ab` of its file.",
    ):
        assert part in text, part
    assert league.result("siglip", folders / "results") == [
        "No verdict is stored yet; `diptych reproduce siglip` makes one."
    ]
    store(
        folders, record([(0.7, 0.5)] * 2, file={"blob": "f" * 40, "commit": None}), "clip.real.json"
    )
    text = "\n".join(league.result("clip", folders / "results"))
    assert "On real data: Is ours better?" in text
    assert "its file `ffffffffffff`" in text


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([(0.7, 0.5), (0.7, 0.5)], "verdict: holds"),
        ([(0.95, 0.5), (0.95, 0.5)], "verdict: fails"),
        (
            [(0.7, 0.4), (0.7, 0.6)],
            "verdict: tie (the smallest effect that this run could have seen: r1: ours above theirs: 1.27)",
        ),
        ([(0.7, 0.2), (0.7, 0.2)], "verdict: untrained (r1 must reach 0.3; theirs reached 0.2)"),
    ],
)
def test_a_sentence_for_each_verdict(values, sentence):
    assert tables.sentence(record(values)) == sentence
