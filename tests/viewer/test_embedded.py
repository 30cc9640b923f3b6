import diptych
from diptych.data.sources import open_source
from diptych.viewer.embedded import Rows, of_embeddings
from diptych.viewer.file import page

SOURCE = "glyphs:split=val:design=noto:part=1/9"


def test_rows_are_samples_with_captions_and_kept_columns(tmp_path):
    folder = tmp_path / "emb"
    diptych.embed("tiny", SOURCE, folder, columns=["group", "subgroup"])
    rows = Rows(folder)
    source = open_source(SOURCE)
    groups = source.schema()["labels.group"].classes
    assert list(rows.keys()) == list(source.keys())
    assert rows.schema().keys() == {
        "images.main", "texts.caption", "texts.group", "texts.subgroup",
    }  # fmt: skip
    for at in (0, len(rows) - 1):
        assert rows[at].captions() == source[at].captions()[:1]
        assert rows[at].captions("group") == [groups[source[at].labels["group"]]]
        assert rows[at].images["main"].read() == source[at].images["main"].read()
    warned = []
    html = page(of_embeddings(folder, warn=warned.append), count=3)
    assert html.count("<img ") == 3
    assert warned == []

    html = page(of_embeddings(folder, source=str(tmp_path), warn=warned.append), count=3)
    assert "<img " not in html
    assert rows[0].captions()[0] in html
    assert "name their data with --source" in warned[0]
    html = page(
        of_embeddings(folder, source="glyphs:split=test:design=noto", warn=warned.append), count=3
    )
    assert "<img " not in html
    assert "has changed since it was embedded" in warned[1]


def test_a_row_that_is_a_region_shows_its_box(tmp_path):
    data = "scenes:split=val:number=2:count=2"
    diptych.embed("tiny", data, tmp_path / "emb", regions=True)
    rows = Rows(tmp_path / "emb")
    source = open_source(data)
    assert len(rows) == 4
    wanted = [box.xyxy for at in range(2) for box in source[at].boxes]
    assert [rows[at].boxes[0].xyxy for at in range(4)] == wanted
    assert all(len(rows[at].boxes) == 1 for at in range(4))
    warned = []
    html = page(of_embeddings(tmp_path / "emb", warn=warned.append), count=4)
    assert html.count('<svg class="boxes') == 4
    assert "4 regions of" in html
    assert warned == []
