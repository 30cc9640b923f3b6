"""Pickled lists in the true forms of CC3M, CC12M and YFCC15M; nothing in them is ever run."""

import contextlib
import io
import os
import pickle
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.sample import BadSample
from diptych.data.sources import open_source, pickled
from diptych.errors import InputError

YFCC = [
    (12345678, "Sunset", "over the bay, after the rain"),
    (12345679, "", "no title"),
    (42, "IMG_0042", ""),
    (12345680, "", ""),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def jpeg(colour="red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path: Path, entries, protocol: int = 4) -> Path:
    """As NumPy saves a list of dicts, or as pickle saves a list."""
    if path.suffix == ".npy":
        array = np.empty(len(entries), object)
        array[:] = entries
        np.save(path, array)
    else:
        path.write_bytes(pickle.dumps(entries, protocol=protocol))
    return path


@pytest.fixture
def yfcc(tmp_path) -> Path:
    """The archives of YFCC100M with two of the images, and the list beside them."""
    for archive, member, colour in (("12/345", "678", "red"), ("00/000", "042", "blue")):
        path = tmp_path / "images" / f"{archive}.zip"
        path.parent.mkdir(parents=True)
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"{member}.jpg", jpeg(colour))
    return write(tmp_path / "yfcc15m.pkl", YFCC)


def test_cc3m_names_its_images_by_image_id(tmp_path):
    (tmp_path / "1510438788").write_bytes(jpeg())
    entries = [{"image_id": 1510438788, "captions": ["large field with pink tulips", "a field"]},
               {"image_id": 7, "captions": ["its image is gone"]}]  # fmt: skip
    source = open_source(str(write(tmp_path / "cc3m.npy", entries)))
    assert list(source.keys()) == ["1510438788", "7"]
    assert source[0].captions() == ["large field with pink tulips", "a field"]
    assert source[0].images["main"].decode().size == (8, 6)
    assert set(source.schema()) == {"images.main", "texts.caption"}
    with pytest.raises(BadSample) as caught:
        source[1].images["main"].decode()
    assert caught.value.reason == "missing"


def test_cc12m_names_its_images_by_image_name_below_the_root(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.jpg").write_bytes(jpeg())
    entries = [
        {
            "image_name": "0.jpg",
            "image_id": 0,
            "captions": ["Ivory Slipper Chairs - a Pair For Sale"],
        }
    ]
    source = open_source(f"{write(tmp_path / 'cc12m.npy', entries)}:root={tmp_path / 'images'}")
    assert source[0].images["main"].decode().size == (8, 6)
    assert source[0].captions() == ["Ivory Slipper Chairs - a Pair For Sale"]
    assert set(source.schema()) == {"images.main", "texts.caption"}


def test_yfcc_reads_images_from_its_archives_and_both_texts(yfcc):
    source = open_source(str(yfcc))
    assert source.keys()[0] == "images/12/345.zip/678.jpg"
    assert source.keys()[2] == "images/00/000.zip/042.jpg"
    assert [sample.captions() for sample in source] == [
        list(filter(None, entry[1:])) for entry in YFCC
    ]
    assert source[0].images["main"].decode().getpixel((0, 0))[0] > 200
    assert source[2].images["main"].decode().getpixel((0, 0))[2] > 200
    for index in (1, 3):  # in an archive without it
        with pytest.raises(BadSample) as caught:
            source[index].images["main"].decode()
        assert caught.value.reason == "missing"


def test_title_and_description_may_have_roles_of_their_own(yfcc):
    source = open_source(f"{yfcc}:text=title=title;web=description")
    assert [(text.role, text.text) for text in source[0].texts] == [
        ("title", YFCC[0][1]),
        ("web", YFCC[0][2]),
    ]
    assert set(source.schema()) == {"images.main", "texts.title", "texts.web"}
    with pytest.raises(InputError, match="'titel'; did you mean 'title'"):
        open_source(f"{yfcc}:text=titel")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_reads(tmp_path, protocol):
    assert open_source(str(write(tmp_path / "y.pickle", YFCC, protocol)))[0].captions() == [
        *YFCC[0][1:]
    ]


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(texts, max_size=3), min_size=1, max_size=6), st.sampled_from([".npy", ".pkl"])
)
def test_random_lists_round_trip(tmp_path_factory, captions, suffix):
    entries = [
        {"image_name": f"{at}.jpg", "captions": list(said)} for at, said in enumerate(captions)
    ]
    source = open_source(str(write(tmp_path_factory.mktemp("p") / f"cc{suffix}", entries)))
    expected = [list(dict.fromkeys(filter(None, map(str.strip, said)))) for said in captions]
    assert [sample.captions() for sample in source] == expected


def test_numbers_and_texts_of_numpys_own_types_are_read(tmp_path):
    entries = [
        {
            "image_id": np.int64(5),
            "captions": [np.str_("é")],
            "score": np.float32(0.5),
            "ok": np.bool_(True),
        }
    ]
    sample = open_source(str(write(tmp_path / "cc3m.npy", entries)))[0]
    assert (sample.key, sample.captions(), sample.labels) == ("5", ["é"], {"score": 0.5, "ok": 1})


def test_other_lists_of_dicts_are_tables_too(tmp_path):
    entries = [
        {"file": "a.jpg", "text": "x", "kind": "cat"},
        {"file": "b.jpg", "text": None, "kind": "dog"},
    ]
    source = open_source(f"{write(tmp_path / 'mine.pkl', entries)}:label=kind")
    assert list(source.keys()) == ["a.jpg", "b.jpg"]
    assert source.labels("kind").tolist() == [0, 1]
    assert source[1].captions() == []


class Harm:
    """Unpickled, it would run a command."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("suffix", [".npy", ".pkl"])
@pytest.mark.parametrize(
    ("harm", "name"),
    [
        (lambda mark: Harm(os.system, f"touch {mark}"), f"{os.name}.system"),
        (lambda mark: Harm(eval, f"open({str(mark)!r}, 'w')"), "builtins.eval"),
        (lambda mark: Harm(io.open, str(mark), "w"), "io.open"),
        (lambda mark: Harm(np.save, str(mark), 1), "numpy.save"),
        (lambda mark: Harm(getattr, "os", "system"), "builtins.getattr"),
        (lambda mark: Path(mark), "pathlib"),
    ],
)
def test_what_would_run_code_is_refused_and_not_run(tmp_path, suffix, harm, name):
    mark = tmp_path / "harmed"
    entries = [
        {"image_name": "a.jpg", "captions": ["x"]},
        {"image_name": "b.jpg", "captions": [harm(mark)]},
    ]
    path = write(tmp_path / f"cc{suffix}", entries)
    with pytest.raises(InputError, match="a pickle can run code") as caught:
        open_source(str(path))
    assert str(path) in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    assert not list(Path(tmp_path).rglob("*.jsonl"))


@pytest.mark.parametrize(
    "name", [b"numpy\nndarray", b"numpy\ndtype", b"numpy.core.multiarray\nscalar"]
)
def test_the_stand_ins_cannot_be_changed_for_the_next_file(tmp_path, name):
    state = pickle.dumps(
        (None, {"state": 1, "args": 1, "__setstate__": 1, "__defaults__": (1,)}), 0
    )[:-1]
    (tmp_path / "bad.pkl").write_bytes(b"c" + name + b"\n" + state + b"b.")
    with pytest.raises(InputError):
        open_source(str(tmp_path / "bad.pkl"))
    good = write(tmp_path / "good.npy", [{"image_id": np.int64(5), "captions": ["x"]}])
    assert open_source(str(good))[0].key == "5"


@pytest.mark.parametrize(
    "step",
    [b"\x82\x01", b"P1\n", b"Q", b"\x96" + (1 << 34).to_bytes(8, "little"), b"r\xff\xff\xff\xff"],
)
def test_steps_that_plain_data_do_not_take_are_refused_within_little_memory(tmp_path, step):
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x05K\x01" + step + b".")
    tracemalloc.start()
    with pytest.raises(InputError, match=r"cut short, or no pickle|holds a int"):
        open_source(str(tmp_path / "bad.pkl"))
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()


def test_entries_of_another_form_are_counted(tmp_path):
    entries = [
        (1, "fine", "too"),
        (2, "a cell is lacking"),
        (3, "a number", 5),
        (10**8, "too", "large"),
        ("4", "no", "number"),
        "a string",
        {"image_name": "a.jpg", "captions": ["x", None]},
        {"image_name": "a.jpg", "captions": [b"bytes"]},
        {"image_name": "a.jpg", "captions": ["\ud800"]},
        {"image_name": "a.jpg", "captions": ["x"], "more": {1, 2}},
        {"image_name": "a.jpg", "captions": ["x"], "more": np.arange(3)},
    ]
    path = write(tmp_path / "y.pkl", entries[:-2])
    source = open_source(str(path))
    assert Counter(source.damage.values()) == {"columns": 7}  # half a surrogate pair is replaced
    assert next(iter(source.damage)) == f"{path}:2"
    assert len(source) == 2
    for odd in entries[-2:]:
        with pytest.raises(InputError, match=r"wants to import|none of its 1 entries"):
            open_source(str(write(tmp_path / "z.pkl", [odd])))


def test_a_path_that_is_no_text_is_a_damaged_sample(tmp_path):
    source = open_source(str(write(tmp_path / "cc12m.npy", [{"image_name": 3, "captions": ["x"]}])))
    with pytest.raises(BadSample, match="is no image"):
        source[0]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("y.pkl", b"", "cut short, or no pickle"),
        ("y.pkl", pickle.dumps(YFCC)[:-9], "cut short, or no pickle"),
        ("y.pkl", b"not a pickle at all", "cut short, or no pickle"),
        ("y.pkl", pickle.dumps([]), "holds nothing"),
        ("y.pkl", pickle.dumps({"a": 1}), "holds a dict"),
        ("y.pkl", pickle.dumps([1, 2, 3]), r"none of its 3 entries is .* \(the first: a int, not"),
        ("cc.npy", np.arange(6, dtype=np.float32), "an array of float32"),
        ("cc.npy", np.array(YFCC, object), r"shape \(4, 3\)"),
        ("cc.npy", b"\x93NUMPY\x01\x00\xff\xff{", "cut short, or no pickle"),
    ],
    ids=str,
)
def test_what_is_no_such_list_says_so(tmp_path, name, data, message):
    path = tmp_path / name
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        np.save(path, data)
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_escape_as_another_exception(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("p")
    name = data.draw(st.sampled_from(["a.npy", "a.pkl"]))
    entries = [{"image_id": np.int64(at), "captions": [f"text {at}"]} for at in range(3)]
    whole = bytearray(
        write(folder / name, entries, protocol=data.draw(st.integers(3, 5))).read_bytes()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (folder / f"b{name}").write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(InputError, BadSample):
        source = open_source(str(folder / f"b{name}"))
        for index in range(len(source)):
            source[index]


def test_a_list_is_unpickled_once_and_again_when_it_changes(yfcc, monkeypatch):
    first = open_source(str(yfcc))
    with monkeypatch.context() as patch:
        patch.setattr(pickled, "_read", lambda path: pytest.fail("read again"))
        assert open_source(str(yfcc))[0] == first[0]
    write(yfcc, YFCC[2:])
    assert len(open_source(str(yfcc))) == 2


def test_without_a_cache_it_says_where(yfcc, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set XDG_CACHE_HOME elsewhere"):
        open_source(str(yfcc))


def test_a_worker_gets_numbers_not_rows(tmp_path):
    entries = [{"image_name": f"{at}.jpg", "captions": ["a long text " * 50]} for at in range(2000)]
    source = open_source(str(write(tmp_path / "cc12m.npy", entries)))
    data = pickle.dumps(source)
    assert len(data) < 2000 * 60
    assert pickle.loads(data)[7] == source[7]


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_source(str(tmp_path / "cc3m.npy"))
