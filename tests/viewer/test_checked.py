import re

from tests.viewer.helpers import SCRIPT, Parts

from diptych.data.check import check
from diptych.data.sources import open_source
from diptych.viewer.checked import of_source
from diptych.viewer.file import page, spread, write


def silent(done: int, total: int) -> None:
    assert 0 < done <= total


def test_a_page_shows_what_check_finds_and_each_finding_leads_to_a_card(table):
    train, val = map(str, table)
    subject = of_source(train, val=val).finished(silent)
    html = page(subject, count=3, progress=silent)
    found = Parts(html)
    report = check(open_source(train), val=open_source(val))
    assert {section.id for section in subject.sections} == {
        "check", "classes-label", "damaged", "duplicates", "leakage",
    }  # fmt: skip
    assert "script" not in found.tags
    assert SCRIPT in found.text
    for link in found.links:
        assert link.startswith("#")
        assert link[1:] in found.ids
    assert set(report.damaged.values()) == {"truncated", "html", "missing"}
    keys = {key: at for at, key in enumerate(open_source(train).keys())}
    pairs = report.leakage.pairs
    named = [*report.damaged, *(own for _, own, _ in pairs)]
    named += [key for group in report.duplicates.groups + report.alike.groups for key in group]
    assert {"03.png", "again.png", "04.png", "near.png", "07.png", "08.png"} <= set(named)
    for key in named:
        assert f"s0-{keys[key]}" in found.ids
    vals = list(open_source(val).keys())
    for key, _, _ in pairs:
        assert f"s1-{vals.index(key)}" in found.ids
    for reason, count in report.damage.items():
        assert f"{reason}: {count}" in found.text
    assert re.search(r"cat\s*11", found.text)


def test_a_page_loads_nothing_and_runs_nothing(table, tmp_path):
    html = page(of_source(str(table[0]), quick=True), count=4)
    write(html, tmp_path / "deep" / "page.html")
    html = (tmp_path / "deep" / "page.html").read_text("utf-8")
    found = Parts(html)
    assert found.sources
    assert all(source.startswith("data:image/webp;base64,") for source in found.sources)
    assert "Content-Security-Policy\" content=\"default-src 'none'" in html
    assert "http" not in re.sub(r"http-equiv", "", html)
    assert not {"script", "link", "iframe"} & set(found.tags)
    assert sum(each.startswith("s0-") for each in found.ids) == 4


def test_a_quick_page_is_not_checked(table):
    subject = of_source(str(table[0]), quick=True)
    assert subject.finished(silent) is subject


def test_samples_are_spread_over_the_source():
    assert spread(3, 10) == [0, 1, 2]
    assert spread(100, 4) == [0, 33, 66, 99]
    assert spread(7, 1) == [0]
