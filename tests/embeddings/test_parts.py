"""Folders of embeddings that are made in parts: the bytes of one process, whatever happens."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.embeddings.helpers import Noises, contents, killed, toy_model

import diptych
from diptych.data.sample import Field, Text
from diptych.embeddings import parts, writer
from diptych.embeddings.embed import embed_source
from diptych.embeddings.index import Index
from diptych.embeddings.layout import Manifest
from diptych.embeddings.parts import Part, merge
from diptych.errors import InputError
from diptych.models.model import Model
from diptych.testing.ranks import RankError

BATCH = 6  # 50 samples are 9 batches
COLUMNS = ("price", "lot", "brand")


class Priced(Noises):
    """Noise with columns; some whole numbers of `lot` are decimals behind the first file."""

    def __getitem__(self, i):
        sample = super().__getitem__(i)
        brand = () if i % 4 == 3 else (Text(text="acme" if i % 2 else "b", role="brand"),)
        labels = {"price": i / 4, "lot": i + 0.5 if i == 30 else i}
        return replace(sample, texts=(*sample.texts, *brand), labels=labels)

    def schema(self):
        return {
            **super().schema(),
            "labels.price": Field(kind="float"),
            "labels.lot": Field(kind="int"),
            "texts.brand": Field(kind="text", optional=True),
        }


@pytest.fixture(scope="module")
def model():
    return toy_model()


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(writer, "PART_ROWS", 12)
    monkeypatch.setattr(writer, "SAVE_SECONDS", 0.0)


def embed(model, out, part=None, source=None, **options):
    settings = {"batch_size": BATCH, "max_bad": 0.5, "columns": COLUMNS, **options}
    return embed_source(model, source or Priced(), out, part=part, **settings)


@pytest.fixture(scope="module")
def unbroken(model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PART_ROWS", 12)
        out = tmp_path_factory.mktemp("unbroken") / "emb"
        embed(model, out)
    return contents(out)


@pytest.fixture
def made(model, tmp_path):
    """The folder of three finished parts, and what they make."""
    out = tmp_path / "emb"
    for number in (1, 2, 3):
        embed(model, out, f"{number}/3")
    return out


class Cut(Priced):
    """Priced noise, of which two more samples were lost when it was opened."""

    damage: ClassVar = {"line 3": "columns", "line 9": "columns"}


def test_samples_that_were_lost_on_opening_are_damaged_ones(model, tmp_path):
    whole = embed(model, tmp_path / "emb", source=Cut())
    assert whole.damaged["columns"] == ["line 3", "line 9"]
    assert whole.count == embed(model, tmp_path / "other").count
    for number in (2, 1):
        embed(model, tmp_path / "joined", f"{number}/2", source=Cut())
    assert merge(tmp_path / "joined", max_bad=0.5).damaged == whole.damaged
    for name in ("emb", "joined"):
        shutil.move(tmp_path / name, tmp_path / f"old {name}")
    with pytest.raises(InputError, match=r"2 of its 52 samples are damaged so far \(2 columns; la"):
        embed(model, tmp_path / "emb", source=Cut(), max_bad=0.03)
    assert not list(tmp_path.glob("emb*"))


@given(samples=st.integers(0, 200), batch_size=st.integers(1, 30), count=st.integers(1, 30))
def test_parts_divide_the_batches(samples, batch_size, count):
    spans = [Part(number, count).span(samples, batch_size) for number in range(1, count + 1)]
    assert [at for span in spans for at in span] == list(range(samples))
    assert all(span.start % batch_size == 0 for span in spans if span)
    batches = [-(-len(span) // batch_size) for span in spans]
    assert max(batches) - min(batches) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/2/3", "a/b", "-1/3", "1/0", ""])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="is none; write 1/N to N/N"):
        Part.parse(text)


@pytest.mark.parametrize("count", [1, 2, 4, 9, 12])
def test_parts_in_any_order_are_joined_to_the_bytes_of_one_process(
    model, unbroken, tmp_path, count
):
    """Twelve parts of nine batches: some have no sample."""
    out = tmp_path / "emb"
    order = np.random.default_rng(count).permutation(count) + 1
    for number in order.tolist():
        manifest = embed(model, out, f"{number}/{count}")
        assert len(list(out.with_name("emb.parts").iterdir())) == count - len(parts.missing(out))
    assert manifest.count <= 45
    merged = merge(out, max_bad=0.5)
    assert contents(out) == unbroken
    assert merged == Manifest.read(out)
    assert [path.name for path in tmp_path.iterdir()] == ["emb"]


def test_texts_alone_and_a_part_without_a_readable_sample(model, tmp_path):
    class Wrecks(Noises):
        """The images of the second part are all damaged."""

        def __getitem__(self, i):
            sample = super().__getitem__(i)
            return sample if i < 24 or i >= 48 else replace(sample, images={})

    class Texts(Noises):
        def schema(self):
            return {"texts.caption": Field(kind="text")}

    for name, source in {"wrecks": Wrecks(), "texts": Texts()}.items():
        options = {"source": source, "columns": (), "max_bad": 0.7}
        embed(model, tmp_path / f"{name}-whole", **options)
        sizes = [embed(model, tmp_path / name, f"{at}/2", **options).count for at in (1, 2)]
        assert (sizes[1] <= 2) == (name == "wrecks")
        merge(tmp_path / name, max_bad=0.7)
        assert contents(tmp_path / name) == contents(tmp_path / f"{name}-whole")
    options = {"source": Wrecks(48), "columns": (), "max_bad": 0.7}
    embed(model, tmp_path / "whole", **options)
    assert [embed(model, tmp_path / "p", f"{at}/2", **options).count for at in (1, 2)] == [22, 0]
    assert embed(model, tmp_path / "p", "2/2", **options).count == 0
    merge(tmp_path / "p", max_bad=0.7)
    assert contents(tmp_path / "p") == contents(tmp_path / "whole")


def test_a_part_is_a_folder_that_can_be_searched(model, made):
    opened = Index.open(made.with_name("emb.parts") / "2-of-3")
    assert len(opened) == 16
    hits = opened.hits(*(each[0] for each in opened.top(model.embed_texts(["noise number 20"]), 3)))
    assert {18 <= hit.position < 36 for hit in hits} == {True}
    assert list(hits[0].columns) == list(COLUMNS)


def test_what_is_done_is_not_done_again(model, made):
    before = contents(made.with_name("emb.parts"))
    source, seen = Priced(), []
    manifest = embed(model, made, "2/3", source, progress=lambda *at: seen.append(at))
    assert manifest.count == 16
    assert source.read == []
    assert seen == [(18, 18)]
    assert contents(made.with_name("emb.parts")) == before


POINTS = {
    "write_atomic": writer,
    "write_metadata": writer,
    "append": writer._Npy,
    "replace": Path,
    "rmtree": shutil,
}


@pytest.mark.parametrize(
    ("point", "call"), [("write_atomic", 2), ("append", 3), ("write_metadata", 1), ("replace", 3)]
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_part_continues_to_the_same_bytes(model, unbroken, tmp_path, point, call, moment):
    out = tmp_path / "emb"
    assert killed(POINTS[point], point, call, moment, lambda: embed(model, out, "2/2"))
    with pytest.raises(InputError, match=r"emb\.parts lacks part 1/2, 2/2; make it with"):
        merge(out, max_bad=0.5)
    for number in (1, 2):
        embed(model, out, f"{number}/2")
    merge(out, max_bad=0.5)
    assert contents(out) == unbroken


@pytest.mark.parametrize(
    ("point", "call"),
    [
        ("append", 1),
        ("append", 8),
        ("write_metadata", 4),
        ("replace", 1),
        ("rmtree", 1),
        ("rmtree", 2),
    ],
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_join_is_done_again_from_the_parts(model, unbroken, made, point, call, moment):
    before = contents(made.with_name("emb.parts"))
    assert killed(POINTS[point], point, call, moment, lambda: merge(made, max_bad=0.5))
    if made.exists():
        assert contents(made) == unbroken
        return
    assert contents(made.with_name("emb.parts")) == before
    merge(made, max_bad=0.5)
    assert contents(made) == unbroken
    assert [path.name for path in made.parent.iterdir()] == ["emb"]


def refuse(made: Path, message: str, **options) -> None:
    """A join is refused, and the parts are as they were."""
    before = contents(made.with_name("emb.parts"))
    with pytest.raises(InputError, match=message):
        merge(made, **{"max_bad": 0.5, **options})
    assert contents(made.with_name("emb.parts")) == before
    assert not made.exists()


@pytest.mark.parametrize(
    "name",
    [
        "img_emb/img_emb_0.npy",
        "text_emb/text_emb_1.npy",
        "metadata/metadata_1.parquet",
    ],
)
def test_a_damaged_part_is_refused_and_can_be_made_again(model, unbroken, made, name):
    path = made.with_name("emb.parts") / "2-of-3" / name
    data = bytearray(path.read_bytes())
    data[140] ^= 1
    path.write_bytes(data)
    again = r"remove .*2-of-3, and run `diptych embed` with --part 2/3 again"
    refuse(made, f"2-of-3: {name} is damaged .*{again}")
    path.write_bytes(data[:130])
    refuse(made, f"2-of-3: {name} is damaged .*{again}")
    path.unlink()
    refuse(made, f"2-of-3 is damaged .*{again}")
    shutil.rmtree(made.with_name("emb.parts") / "2-of-3")
    refuse(made, r"lacks part 2/3; make it with: diptych embed MODEL SOURCE --out .* --part 2/3")
    embed(model, made, "2/3")
    merge(made, max_bad=0.5)
    assert contents(made) == unbroken


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "diptych-part/9"}, "this version reads"),
        ({"position": "many"}, "is damaged .*'position'"),
        ({"settings": {}}, "it has no samples"),
        ({"settings": {"samples": 50, "batch size": 0}}, "it has no batch size"),
        ({"settings": {"samples": 50, "batch size": 6, "kinds": ["../x"]}}, "it has no kinds"),
        ({"count": 3}, "holds 3 rows and 2 damaged samples of 18"),
        ({"files": {"../../x": [1, 1]}}, "is damaged"),
        ({"files": []}, "is damaged"),
        ([], "is of format 'list'"),
    ],
)
def test_a_manifest_of_any_content_is_refused(made, change, message):
    path = made.with_name("emb.parts") / "2-of-3" / "part.json"
    record = json.loads(path.read_text())
    if isinstance(change, dict):
        change = {**record, **change}
    path.write_text(json.dumps(change))
    refuse(made, f"{message}.*with --part 2/3 again")
    path.unlink()
    refuse(made, r"has no part\.json, so it is no part; remove")


def test_files_that_the_manifest_does_not_count_are_refused(made):
    folder = made.with_name("emb.parts") / "2-of-3"
    shutil.copy(folder / "img_emb/img_emb_0.npy", folder / "img_emb/img_emb_2.npy")
    refuse(made, "2-of-3 has different numbers of files .*with --part 2/3 again")
    for kind in ("text_emb", "metadata"):
        first = next((folder / kind).glob("*_0.*"))
        shutil.copy(first, first.with_stem(f"{kind}_2"))
    refuse(made, "2-of-3 has files of other lengths than part.json says")


def test_parts_of_another_model_or_source_are_refused(model, made, tmp_path):
    other = Model(model.encoder, model.tokenizer, model.preprocess, name="other")
    other.__dict__["identity"] = "another"
    for number in (1, 2, 3):
        embed(other, tmp_path / "o" / "emb", f"{number}/3")
        embed(model, tmp_path / "s" / "emb", f"{number}/3", Priced(prefix="m"))
    for name, change in {"o": "model .*, in 1-of-3", "s": "keys .*, in 1-of-3"}.items():
        folder = made.with_name("emb.parts") / "3-of-3"
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / name / "emb.parts" / "3-of-3", folder)
        refuse(made, f"3-of-3 was made with other settings .*{change}.*--part 3/3 again")
    shutil.rmtree(folder)
    before = contents(made.with_name("emb.parts"))
    for changed, message in {
        "model": (lambda: embed(other, made, "3/3"), "model .*now 'another'"),
        "source": (lambda: embed(model, made, "3/3", Priced(prefix="m")), "keys"),
        "columns": (lambda: embed(model, made, "3/3", columns=()), "columns .*now None"),
        "batch": (lambda: embed(model, made, "3/3", batch_size=7), "batch size 6, now 7"),
    }.values():
        with pytest.raises(InputError, match=f"1-of-3 was made with other settings .*{message}"):
            changed()
    assert contents(made.with_name("emb.parts")) == before


def test_a_part_under_another_name_is_refused(made):
    folder = made.with_name("emb.parts")
    (folder / "2-of-3").rename(folder / "x")
    (folder / "3-of-3").rename(folder / "2-of-3")
    (folder / "x").rename(folder / "3-of-3")
    refuse(made, "2-of-3 holds part 3/3; give it its name back")


def test_parts_of_two_divisions_are_refused(model, made, unbroken):
    with pytest.raises(InputError, match="holds parts of 3, and part 1/2 is of 2; go on with"):
        embed(model, made, "1/2")
    (made.with_name("emb.parts") / ".1-of-2.unfinished").mkdir()
    refuse(made, r"different divisions \(.1-of-2.unfinished and .-of-3\); remove those of one")
    with pytest.raises(InputError, match="different divisions"):
        embed(model, made)


def test_damaged_samples_are_counted_over_all_parts(model, made, unbroken):
    refuse(made, r"5 of the 50 samples are damaged \(.*\), more than --max-bad 0.09", max_bad=0.09)
    merge(made, max_bad=0.1)
    assert contents(made) == unbroken


def test_a_part_stops_only_at_the_share_of_the_whole(model, tmp_path):
    """The part has 2 damaged samples of 18, the whole may have 3."""
    assert embed(model, tmp_path / "emb", "2/3", max_bad=0.06).count == 16
    with pytest.raises(InputError, match="2 of its 50 samples are damaged so far"):
        embed(model, tmp_path / "emb2", "2/3", max_bad=0.03)
    assert [path.name for path in tmp_path.iterdir()] == ["emb.parts"]


def test_one_process_goes_on_with_parts_that_were_begun(model, unbroken, tmp_path):
    out = tmp_path / "emb"
    embed(model, out, "2/3")
    source = Priced()
    embed(model, out, source=source)
    assert not any(18 <= at < 36 for at in source.read)
    assert contents(out) == unbroken
    assert [path.name for path in tmp_path.iterdir()] == ["emb"]


def test_an_unfinished_run_of_one_process_is_not_lost(model, unbroken, tmp_path):
    def stop(done, total):
        if done >= 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(model, tmp_path / "emb", progress=stop)
    with pytest.raises(InputError, match=r"\.emb\.unfinished holds an unfinished run of one"):
        embed(model, tmp_path / "emb", "1/2")
    embed(model, tmp_path / "emb")
    assert contents(tmp_path / "emb") == unbroken


def test_a_folder_that_exists_and_one_without_parts_are_refused(model, made, tmp_path):
    with pytest.raises(InputError, match="nothing.parts holds no parts; make them with"):
        merge(tmp_path / "nothing")
    merge(made, max_bad=0.5)
    for again in (lambda: merge(made), lambda: embed(model, made, "1/3")):
        with pytest.raises(InputError, match="emb exists; name another --out"):
            again()


def test_a_full_disk_while_parts_are_joined_keeps_them(made, unbroken, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writer._Npy, "append", full)
        refuse(made, "no space left to write .*emb")
    assert [path.name for path in made.parent.iterdir()] == ["emb.parts"]
    merge(made, max_bad=0.5)
    assert contents(made) == unbroken


def small_and_embed(out: Path) -> tuple[int, int]:
    """On a rank: embed in small files; return the count, and how many samples this rank read."""
    writer.PART_ROWS = 12
    source = Priced()
    manifest = embed(toy_model(), out, source=source)
    return manifest.count, len(source.read)


def embed_and_end(out: Path) -> None:
    """On a rank: the second ends while the first waits for it."""
    if int(os.environ["RANK"]) == 1:

        def end(*_):
            os._exit(3)

        Part.span = end  # type: ignore[method-assign]
    small_and_embed(out)


def test_ranks_share_the_parts_and_the_first_joins_them(two, unbroken, tmp_path):
    found = two.run(small_and_embed, tmp_path / "emb")
    assert [count for count, _ in found] == [45, 45]
    assert all(20 < read < 40 for _, read in found)
    assert contents(tmp_path / "emb") == unbroken
    assert [path.name for path in tmp_path.iterdir()] == ["emb"]


def test_ranks_go_on_with_the_parts_of_another_number_of_ranks(two, model, unbroken, tmp_path):
    for number in (1, 3):
        embed(model, tmp_path / "emb", f"{number}/3")
    found = two.run(small_and_embed, tmp_path / "emb")
    assert [read for _, read in found] == [0, 18]
    assert contents(tmp_path / "emb") == unbroken


def test_a_rank_that_ends_is_told_in_a_line_and_nothing_is_lost(two, model, unbroken, tmp_path):
    with pytest.raises(
        RankError, match="InputError: rank 0 waited for the other ranks.*run the same"
    ):
        two.run(embed_and_end, tmp_path / "emb")
    embed(model, tmp_path / "emb")
    assert contents(tmp_path / "emb") == unbroken


def test_python_embeds_parts_too(model, unbroken, tmp_path):
    settings = {"batch_size": BATCH, "max_bad": 0.5, "columns": COLUMNS}
    for number in (1, 2):
        diptych.embed(model, Priced(), tmp_path / "emb", part=f"{number}/2", **settings)
    merge(tmp_path / "emb", max_bad=0.5)
    assert contents(tmp_path / "emb") == unbroken
