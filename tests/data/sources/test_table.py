"""Tables: CSV, TSV, JSON lines and Parquet give the same samples; damage is counted, wrong columns
are named."""

import csv
import gzip
import io
import json
import pickle
import zipfile
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.questions import answered
from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.data.sources import rows as rows_module
from diptych.data.views import SentenceView
from diptych.errors import InputError

ROWS = [
    {"file": "a.png", "caption": 'a, quoted "cat"\nin two lines', "kind": "cat"},
    {"file": "b.png", "caption": "a dog", "kind": "dog"},
    {"file": "a.png", "caption": "another cat", "kind": "cat"},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / name)
    return tmp_path


def write(path, rows):
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
            )
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    return path


def test_an_empty_cell_of_real_values_is_nan(folder):
    heights = ["0.5", "", "20", "30", "", "50"]
    rows = [{"caption": f"house {at}", "height": each} for at, each in enumerate(heights)]
    source = open_source(str(write(folder / "rows.csv", rows)))
    assert source.schema()["labels.height"].kind == "float"
    assert np.nanmean(source.labels("height")) == 25.125


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_rows_of_one_image_are_one_sample(folder, suffix):
    source = open_source(f"{write(folder / f't{suffix}', ROWS)}:label=kind")
    assert list(source.keys()) == ["a.png", "b.png"]
    assert source[0].captions() == ['a, quoted "cat"\nin two lines', "another cat"]
    assert source[1].images["main"].decode().getpixel((0, 0)) == (0, 0, 255)
    assert source.schema()["labels.kind"].classes == ("cat", "dog")
    assert source.labels("kind").tolist() == [0, 1]
    assert [sample.labels["kind"] for sample in source] == [0, 1]
    again = pickle.loads(pickle.dumps(source))
    assert again[0] == source[0]


def test_images_may_be_bytes_in_parquet(folder):
    data = (folder / "a.png").read_bytes()
    for value in (data, {"bytes": data, "path": "ignored.png"}, {"bytes": None, "path": "a.png"}):
        path = write(
            folder / "t.parquet",
            [{"image": value, "text": f"text {n}", "label": n % 2} for n in range(5)],
        )
        source = open_source(str(path))
        assert source[0].images["main"].decode().getpixel((0, 0)) == (255, 0, 0)
        assert len(source) == (1 if isinstance(value, dict) and value["path"] == "a.png" else 5)
        assert source[len(source) - 1].captions()[-1] == "text 4"


def test_rows_of_several_images_are_samples_of_their_own(folder):
    (folder / "pairs.csv").write_text(
        "left,right,question,answer\na.png,b.png,both are red,true\na.png,b.png,one is red,true\n"
        "b.png,,one is red,false\n"
    )
    source = open_source(f"{folder}/pairs.csv:image=left+right")
    assert [list(source[at].images) for at in range(3)] == [["main", "page2"]] * 2 + [["main"]]
    assert (
        source[1].images["page2"].decode().tobytes() == source[2].images["main"].decode().tobytes()
    )
    assert source[1].captions("question") == ["one is red"]
    assert source.schema()["images.page2"].optional
    with pytest.raises(InputError, match="unknown column .*'middle'"):
        open_source(f"{folder}/pairs.csv:image=left+middle")


def test_class_names_of_hugging_face_metadata_are_read(folder):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        "image": {"_type": "Image"},
    }
    table = pyarrow.Table.from_pylist([{"image": {"bytes": b"x", "path": None}, "label": 1}])
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    parquet.write_table(table, folder / "t.parquet")
    assert open_source(str(folder / "t.parquet:image=image")).schema()["labels.label"].classes == (
        "cat",
        "dog",
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8"), max_size=20), st.integers(0, 3)),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([".csv", ".tsv", ".jsonl"]),
)
def test_random_tables_round_trip(tmp_path_factory, rows, suffix):
    path = tmp_path_factory.mktemp("t") / f"t{suffix}"
    records = [{"image": f"{image}.png", "caption": text.replace("\0", "")} for text, image in rows]
    source = open_source(str(write(path, records)))
    assert source.damage == {}
    expected = {}
    for record in records:
        texts = expected.setdefault(record["image"], [])
        text = record["caption"].strip()
        if text and text not in texts:
            texts.append(text)
    assert {sample.key: sample.captions() for sample in source} == expected


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), *[st.sampled_from(["yes", "no", "why?", "a, b", 'so "so"'])] * 2
        ),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from([("question", "answer"), ("answer", "question"), ("caption", "de")]),
    st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]),
)
def test_rows_with_texts_of_two_roles_come_back_exactly(tmp_path_factory, rows, roles, suffix):
    path = tmp_path_factory.mktemp("t") / f"t{suffix}"
    records = [{"image": f"{image}.png", "one": a, "two": b} for image, a, b in rows]
    source = open_source(f"{write(path, records)}:text={roles[0]}=one;{roles[1]}=two")
    expected = {}
    for record in records:
        expected.setdefault(record["image"], []).append((record["one"], record["two"]))
    for sample in source:
        rows = list(zip(*map(sample.captions, roles), strict=True))
        assert rows == expected.pop(sample.key)
        if "question" in roles:
            pairs = [(question.text, *said) for question, said in answered(sample)]
            assert pairs == (rows if roles[0] == "question" else [row[::-1] for row in rows])
    assert not expected


def test_answers_of_one_image_may_be_equal(folder):
    (folder / "qa.csv").write_text(
        "image,answer,question\na.png,yes,is it red?\na.png,yes,is it plain?\na.png,no,is it red?\n"
        "b.png,yes,is it blue?\n"
    )
    source = open_source(str(folder / "qa.csv"))
    assert [[(each.text, said) for each, said in answered(sample)] for sample in source] == [
        [("is it red?", ["yes"]), ("is it plain?", ["yes"]), ("is it red?", ["no"])],
        [("is it blue?", ["yes"])],
    ]
    assert [text.role for text in source[0].texts] == ["question", "answer"] * 3


def test_answers_of_several_people_in_a_row_keep_their_numbers(folder):
    said = ["two", "two", "2", "two"]
    rows = [
        {"image": "a.png", "answer": said, "question": "how many?"},
        {"image": "a.png", "answer": ["red"], "question": "which?"},
    ]
    source = open_source(str(write(folder / "t.jsonl", rows)))
    assert [(each.text, own) for each, own in answered(source[0])] == [
        ("how many?", said),
        ("which?", ["red"]),
    ]


DREAMLIP = (
    "image,raw,shortIB,longIB,shortSV,longSV,shortLLA,longLLA\n"
    'a.png,"red, mostly",a red square,"A square. It is red.</s>",red,"The square is 3.5 cm wide.\n\nIt is red.",'
    'a square,"Red all over. No border"\n'
    "b.png,blue,a blue square,A square.,,,,\n"
    "a.png,too,few\n"
)
ROLES = "text=raw;synthetic=shortIB+shortSV+shortLLA;long=longIB+longSV+longLLA"


def test_columns_get_roles_and_sentences_are_drawn_of_them(folder):
    (folder / "cc3m.csv").write_text(DREAMLIP)
    source = open_source(f"{folder / 'cc3m.csv'}:{ROLES}")
    assert list(source.damage.values()) == ["columns"]
    assert source[0].captions() == ["red, mostly"]
    assert source[0].captions("synthetic") == ["a red square", "red", "a square"]
    assert [len(sample.captions("long")) for sample in source] == [3, 1]
    assert set(source.schema()) == {"images.main", "texts.caption", "texts.synthetic", "texts.long"}
    assert source[0].images["main"].decode().size == (4, 4)
    tokenizer = WordTokenizer()
    view = SentenceView(tokenizer=tokenizer, roles=("synthetic", "long"), count=9)
    view(source[0], np.random.default_rng(0), None)
    assert tokenizer.seen == [
        "a red square",
        "red",
        "a square",
        "A square",
        "It is red",
        "The square is 3.5 cm wide",
        "It is red",
        "Red all over",
        "No border",
    ]


class WordTokenizer:
    """Remembers what it was given."""

    def encode(self, texts):
        self.seen = texts
        return []


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_role_alone_leaves_the_captions_where_they_are(folder, suffix):
    rows = [{"file": "a.png", "caption": "short", "more": "long", "title": "t"}]
    source = open_source(f"{write(folder / f't{suffix}', rows)}:text=long=more")
    assert [(text.role, text.text) for text in source[0].texts] == [
        ("caption", "short"),
        ("long", "long"),
        ("title", "t"),
    ]
    source = open_source(f"{folder / f't{suffix}'}:text=title+more")
    assert source[0].captions() == ["long", "t"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raw;long=longIB+longSW", "'longSW'; did you mean 'longSV'"),
        ("raw;long=longIB+raw", "names the field 'raw' twice"),
        ("raw;long=", "does not read; write FIELD"),
        ("raw;", "does not read"),
        ("=raw", "does not read"),
        ("a=b=raw", "does not read"),
    ],
)
def test_roles_that_do_not_fit_are_told(folder, text, message):
    (folder / "cc3m.csv").write_text(DREAMLIP)
    with pytest.raises(InputError, match=message):
        open_source(f"{folder / 'cc3m.csv'}:text={text}")


def test_a_image_may_lie_in_a_zip(folder):
    with zipfile.ZipFile(folder / "p.zip", "w") as archive:
        archive.write(folder / "a.png", "in/a.png")
    source = open_source(
        str(write(folder / "t.csv", [{"image": "p.zip/in/a.png", "caption": "x"}]))
    )
    assert source[0].images["main"].decode().getpixel((0, 0)) == (255, 0, 0)
    source = open_source(str(write(folder / "t.jsonl", [{"image": 5, "caption": "x"}])))
    with pytest.raises(BadSample, match="a int is no image"):
        source[0]


def test_damaged_rows_are_counted_by_reason(folder):
    path = folder / "t.csv"
    path.write_bytes(b"image,caption\na.png,fine\nb.png,caf\xe9\nb.png\nb.png,fine too\n")
    source = open_source(str(path))
    assert Counter(source.damage.values()) == {"utf8": 1, "columns": 1}
    assert [sample.captions() for sample in source] == [["fine"], ["fine too"]]
    lines = folder / "t.jsonl"
    lines.write_bytes(b'{"image": "a.png", "text": "x"}\n{"image": \n[1]\n\xff\xfe\n')
    assert Counter(open_source(str(lines)).damage.values()) == {"json": 2, "utf8": 1}


def test_a_image_that_is_not_there_is_missing(folder):
    source = open_source(str(write(folder / "t.csv", [{"image": "gone.png", "caption": "x"}])))
    with pytest.raises(BadSample) as caught:
        source[0].images["main"].decode()
    assert caught.value.reason == "missing"


def test_keys_come_from_the_key_column_and_stay_unique(folder):
    rows = [
        {"key": "k", "image": "a.png", "text": "x"},
        {"key": "k", "image": "b.png", "text": "y"},
    ]
    assert list(open_source(str(write(folder / "t.jsonl", rows))).keys()) == ["k#1", "k#2"]


def test_relative_paths_start_at_the_table_or_at_the_root_option(folder, monkeypatch):
    (folder / "tables").mkdir()
    path = write(folder / "tables" / "t.csv", [{"image": "a.png", "caption": "x"}])
    assert open_source(f"{path}:root={folder}")[0].images["main"].decode().size == (4, 4)
    up = write(folder / "tables" / "u.csv", [{"image": "../a.png", "caption": "x"}])
    monkeypatch.chdir(folder / "tables")
    assert open_source(str(up.name))[0].images["main"].decode().size == (4, 4)


def test_a_split_takes_its_rows_and_keeps_the_numbers_of_classes(folder):
    # the form of GIST's metadata.csv: numbered rows, the split and the class's number and name in
    # columns of their own
    path = folder / "metadata.csv"
    path.write_text(
        ",Unnamed: 0,ID,filename,split,label,species\n"
        "0,0,1,001.Wren/a.png,test,0,House Wren\n"
        "1,1,2,002.Gull/b.png,train,1,Ivory Gull\n"
        "2,2,3,002.Gull/c.png,val,1,Ivory Gull\n"
        "3,3,4,003.Tern/d.png,train,2,Black Tern\n"
    )
    source = open_source(f"{path}:label=species:split=train")
    assert list(source.keys()) == ["002.Gull/b.png", "003.Tern/d.png"]
    assert source.schema()["labels.species"].classes == ("Black Tern", "House Wren", "Ivory Gull")
    assert source.labels("species").tolist() == [2, 0]
    assert (source[1].labels["species"], source[1].captions("split")) == (0, [])
    assert len(open_source(f"{path}:label=species:split=val+train")) == 3
    assert len(open_source(f"{path}:label=species")) == 4
    with pytest.raises(
        InputError, match="unknown split of .*metadata.csv 'trian'; did you mean 'train'"
    ):
        open_source(f"{path}:label=species:split=trian")
    plain = write(folder / "t.csv", [{"image": "a.png", "caption": "x"}])
    with pytest.raises(InputError, match="unknown column of .*t.csv 'split'"):
        open_source(f"{plain}:split=train")


def test_texts_without_images_are_a_source_too(folder):
    source = open_source(str(write(folder / "t.jsonl", [{"key": "k", "captions": ["x", "y"]}])))
    assert (source[0].captions(), dict(source[0].images)) == (["x", "y"], {})


def test_gzipped_lines_are_unpacked_once(folder, monkeypatch):
    path = folder / "t.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"caption": ["x", "y"]}\nno\n{"caption": "z"}\n'))
    source = open_source(str(path))
    assert [sample.captions() for sample in source] == [["x", "y"], ["z"]]
    assert source.damage == {f"{path}:2": "json"}
    monkeypatch.setattr(gzip, "open", lambda path: pytest.fail("unpacked again"))
    assert pickle.loads(pickle.dumps(open_source(str(path))))[1] == source[1]


@pytest.mark.parametrize(
    "data",
    [b"plain", gzip.compress(b"{}\n" * 99, mtime=0)[:-20], b"\x1f\x8b\x08"],
    ids=["plain", "cut", "header"],
)
def test_damaged_gzip_files_are_refused(folder, data):
    (folder / "t.jsonl.gz").write_bytes(data)
    with pytest.raises(InputError, match="t.jsonl.gz: damaged, or not a gzip file"):
        open_source(f"{folder}/t.jsonl.gz")


def test_a_gzip_file_that_unpacks_to_far_more_than_a_text_is_refused(folder, monkeypatch):
    monkeypatch.setattr(rows_module, "_UNPACKED", 1 << 20)
    path = folder / "t.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}\n" * (1 << 22)))
    with pytest.raises(InputError, match="unpacks to more than .* bytes, which texts"):
        open_source(str(path))


def test_rows_may_list_edits(folder):
    rows = [{"caption": "a red dog", "edits": [{"kind": "colour", "caption": "a blue dog"}]}]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"caption": "a cat"}])))
    source = open_source(f"{folder}/t.jsonl")
    [edit] = source[0].edits
    assert (edit.key, edit.kind, edit.captions()) == ("0/colour", "colour", ["a blue dog"])
    assert not source[1].edits
    assert source.schema()["edits"].optional


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("t.csv", b"", "", "no rows"),
        ("t.csv", b"image,caption\n", "", "no rows"),
        ("t.csv", b"image,caption\na.png,x\n", ":text=captoin", "did you mean 'caption'"),
        ("t.csv", b"a,b\n1,2\n", "", ":image=COLUMN:text=COLUMN"),
        ("t.csv", b"url,caption\nhttp://x/y.jpg,x\n", "", "download"),
        ("t.csv", b"image,caption\nhttps://x/y.jpg,x\n", "", "download"),
        ("t.csv", b"im\xe9ge,caption\na.png,x\n", "", "UTF-8"),
        ("t.csv", b"a,a\n1,2\n", "", "twice"),
        ("t.csv", "image,caption\na.png,x\n".encode("utf-16"), "", "UTF-8|not a table"),
        ("t.jsonl", b"\n\n", "", "no lines"),
        ("t.jsonl", b"not json\n", "", "no JSON objects"),
        ("t.parquet", b"not parquet", "", "not a Parquet file"),
        ("t.csv", b"image,caption\n" + b"a.png\n" * 3, "", "none of its 3 rows"),
    ],
)
def test_tables_that_cannot_serve_say_why(folder, name, data, options, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (folder / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(folder / name) + options)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(folder):
    (folder / "t.csv").write_bytes('\ufeffimage,caption\r\na.png,"x\r\ny"\r\n'.encode())
    assert open_source(str(folder / "t.csv"))[0].captions() == ["x\r\ny"]


def test_the_index_holds_numbers_not_rows(folder):
    buffer = io.StringIO(
        "image,caption\n" + "".join(f"{n}.png,{'long text ' * 50}\n" for n in range(2000))
    )
    (folder / "t.csv").write_text(buffer.getvalue())
    assert len(pickle.dumps(open_source(str(folder / "t.csv")))) < 2000 * 60


def test_the_pack_of_captions_reads(data_pack):
    source = open_source(str(data_pack("flickr8k-1k") / "captions_only.jsonl"))
    assert len(source) == 7091
    assert len(source[5].captions()) == 5


@pytest.mark.parametrize("name", ["tab", "semicolon", "pipe", "comma"])
def test_the_delimiter_is_read_from_the_first_line_or_given(folder, name):
    sign = {"tab": "\t", "semicolon": ";", "pipe": "|", "comma": ","}[name]
    (folder / "t.csv").write_text(f'image{sign}text\na.png{sign}"one, or; two"\nb.png{sign}three\n')
    for spec in (f"{folder / 't.csv'}", f"{folder / 't.csv'}:delimiter={name}"):
        source = open_source(spec)
        assert [sample.captions() for sample in source] == [["one, or; two"], ["three"]]
    (folder / "t.tsv").write_bytes((folder / "t.csv").read_bytes())
    assert len(open_source(f"{folder / 't.tsv'}:delimiter={name}")) == 2


def test_any_sign_may_be_the_delimiter_and_bad_ones_are_refused(folder):
    (folder / "t.csv").write_text("image~text\na.png~one, two\n")
    assert open_source(f"{folder / 't.csv'}:delimiter=~")[0].captions() == ["one, two"]
    with pytest.raises(InputError, match="give comma, tab, semicolon, pipe, or one sign"):
        open_source(f"{folder / 't.csv'}:delimiter=dash")
    (folder / "t.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(InputError, match="leave out :delimiter"):
        open_source(f"{folder / 't.jsonl'}:delimiter=tab")


def test_columns_of_numbers_in_a_csv_are_labels_as_in_parquet(folder):
    rows = [
        {
            "image": "a.png",
            "text": "1984",
            "price": "2.50",
            "stock": "3",
            "sku": "0042",
            "mixed": "7",
        },
        {
            "image": "b.png",
            "text": "2001",
            "price": "-1e2",
            "stock": "",
            "sku": "0043",
            "mixed": "seven",
        },
    ]
    lines = [",".join(row.values()) for row in rows]
    (folder / "t.csv").write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
    source = open_source(str(folder / "t.csv"))
    assert [sample.labels for sample in source] == [{"price": 2.5, "stock": 3}, {"price": -100.0}]
    assert [sample.captions() for sample in source] == [["1984"], ["2001"]]
    schema = source.schema()
    assert (schema["labels.price"].kind, schema["labels.stock"].kind) == ("float", "int")
    assert {"texts.sku", "texts.mixed"} <= schema.keys()
    assert source.labels("stock").tolist() == [3, -1]
    assert open_source(f"{folder / 't.csv'}:text=text;stock=stock")[0].captions("stock") == ["3"]
    assert pickle.loads(pickle.dumps(source))[0].labels == source[0].labels


def listed(folder, rows, options=""):
    path = folder / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return open_source(f"{path}{options}")


@pytest.mark.parametrize(
    ("column", "options"),
    [("labels", ""), ("label", ""), ("tags", ":label=tags"), ("tags", ":text=text;label=tags")],
)
def test_a_label_column_with_lists_of_words_gives_texts_of_role_label(tmp_path, column, options):
    rows = [
        {"text": "a band", column: ["music", "night life", "music", " "]},
        {"text": "a goal", column: "sport"},
        {"text": "no label", column: []},
        {"text": "none at all"},
        {"text": "null", column: None},
    ]
    source = listed(tmp_path, rows, options)
    assert [source[at].captions("label") for at in range(5)] == [
        ["music", "night life"], ["sport"], [], [], [],
    ]  # fmt: skip
    assert [source[at].captions() for at in range(5)] == [[row["text"]] for row in rows]
    assert source.schema()["texts.label"].optional
    assert not source.damage
    assert not any(name.startswith("labels.") for name in source.schema())


@pytest.mark.parametrize("value", [["music", 3], [None, "music"], ["a", ["b"]], [{"b": 1}, "a"]])
def test_a_list_of_labels_in_which_not_all_are_words_is_damage(tmp_path, value):
    rows = [{"text": "a", "labels": ["music"]}, {"text": "b", "labels": value}]
    source = listed(tmp_path, rows)
    assert len(source) == 1
    assert list(source.damage.values()) == ["label"]
    with pytest.raises(InputError, match="none of its 1 rows can be read .*are not all words"):
        listed(tmp_path, rows[1:])


def test_a_label_column_with_lists_of_other_things_gives_no_labels(tmp_path):
    source = listed(tmp_path, [{"text": "a", "labels": [{"name": "cat"}]}, {"text": "b"}])
    assert [source[at].captions("label") for at in range(2)] == [[], []]
    assert not source.damage


def test_a_label_column_with_lists_of_numbers_is_an_array(tmp_path):
    source = listed(
        tmp_path, [{"text": "a", "label": [0, 1, 1]}, {"text": "b", "label": [1, 0, 0]}]
    )
    assert source[0].arrays["label"].tolist() == [0, 1, 1]
    assert not source[0].labels
