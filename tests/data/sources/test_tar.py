"""Tar shards: round trips, real damage counted by reason, and what must never be read."""

import io
import json
import pickle
import tarfile
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.sample import BadSample
from diptych.data.sources import open_source, tarindex
from diptych.data.sources.records import class_names
from diptych.data.sources.tar import _WithoutArrays, expand
from diptych.errors import InputError


def image(format="PNG", colour=(10, 200, 30), size=(6, 5), **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format, **options)
    return buffer.getvalue()


def write(path, members, **options):
    """Members are (name, bytes) or TarInfo objects."""
    with tarfile.open(path, "w", **options) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def samples(count, start=0):
    for number in range(start, start + count):
        yield f"{number:04d}.png", image(colour=(number % 256, 0, 0))
        yield (
            f"{number:04d}.json",
            json.dumps({"captions": [f"caption {number}", "b"], "label": number % 3}).encode(),
        )


def header_of(path, name) -> int:
    with tarfile.open(path) as tar:
        return tar.getmember(name).offset


def damaged(source) -> Counter:
    return Counter(source.damage.values())


def test_samples_come_in_file_order_with_texts_labels_and_pixels(tmp_path):
    source = open_source(str(write(tmp_path / "a.tar", samples(5))))
    assert list(source.keys()) == ["0000", "0001", "0002", "0003", "0004"]
    assert source[3].captions() == ["caption 3", "b"]
    assert source[3].labels == {"label": 0}
    assert source[3].images["main"].decode().getpixel((0, 0)) == (3, 0, 0)
    assert source[-1].key == "0004"
    with pytest.raises(IndexError):
        source[5]
    assert source.labels("label").tolist() == [0, 1, 2, 0, 1]
    assert damaged(source) == {}


def test_each_kind_of_member_lands_in_its_field(tmp_path):
    mask = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    buffer, array = io.BytesIO(), io.BytesIO()
    mask.save(buffer, "PNG")
    np.save(array, np.arange(6.0).reshape(2, 3))
    record = {
        "caption": "a cat",
        "question": "what?",
        "score": 0.5,
        "boxes": [{"name": "cat", "box": [1, 2, 3, 4]}],
        "path": None,
        "size": [2, 2],
    }
    members = [
        ("d/k.jpg", image("JPEG")),
        ("d/k.reference.png", image()),
        ("d/k.seg.png", buffer.getvalue()),
        ("d/k.json", json.dumps(record).encode()),
        ("d/k.txt", b"a cat"),
        ("d/k.cls", b" 7\n"),
        ("d/k.feature.npy", array.getvalue()),
        ("d/k.mp3", b"ignored"),
        ("d/._k.jpg", b"hidden"),
        ("__meta__.json", b"hidden"),
    ]
    source = open_source(str(write(tmp_path / "a.tar", members)))
    (sample,) = source
    assert sample.key == "d/k"
    assert set(sample.images) == {"main", "reference"}
    assert [(text.role, text.text) for text in sample.texts] == [
        ("caption", "a cat"),
        ("question", "what?"),
    ]
    assert sample.labels == {"score": 0.5, "class": 7}
    assert sample.boxes[0].xyxy == (1, 2, 4, 6)
    assert np.asarray(sample.masks["seg"].decode()).tolist() == [[0, 1], [2, 1]]
    assert sample.arrays["feature"].shape == (2, 3)
    assert {name: field.kind for name, field in source.schema().items()} == {
        "images.main": "image",
        "images.reference": "image",
        "texts.caption": "text",
        "texts.question": "text",
        "labels.score": "float",
        "labels.class": "int",
        "masks.seg": "mask",
        "arrays.size": "array",
        "arrays.feature": "array",
        "boxes": "box",
    }


def test_the_caption_field_can_be_chosen(tmp_path):
    members = [("k.png", image()), ("k.json", b'{"name": "gala", "caption": "an apple"}')]
    path = write(tmp_path / "a.tar", members)
    assert open_source(str(path))[0].captions() == ["an apple"]
    assert open_source(f"{path}:text=name")[0].captions() == ["gala"]
    both = open_source(f"{path}:text=long=name")[0]
    assert (both.captions(), both.captions("long")) == (["an apple"], ["gala"])
    with pytest.raises(InputError, match="did you mean 'text'"):
        open_source(f"{path}:txt=name")


def test_another_image_can_be_the_one_of_the_sample(tmp_path):
    boxes = [{"name": "page", "box": [0, 0, 2, 2]}, {"name": "line", "box": [1, 1, 2, 2], "image": "line"}]  # fmt: skip
    record = json.dumps({"caption": "a page", "boxes": boxes}).encode()
    members = [
        ("1.png", image(size=(6, 5))),
        ("1.line.png", image(size=(9, 3))),
        ("1.seal.png", image(size=(4, 4))),
        ("1.seg.png", image(size=(6, 5))),
        ("1.json", record),
        ("2.png", image(size=(6, 5))),
        ("2.json", record),
    ]
    path = str(write(tmp_path / "a.tar", members))
    page, line = open_source(path), open_source(f"{path}:image=line")
    sizes = {role: each.decode().size for role, each in line[0].images.items()}
    assert sizes == {"main": (9, 3), "seal": (4, 4)}
    assert [(box.text, box.image) for box in line[0].boxes] == [("line", "main")]
    assert (len(page[0].boxes), set(page[0].masks), set(line[0].masks)) == (2, {"seg"}, set())
    assert not line[1].images  # this sample has none of that role
    assert open_source(f"{path}:image=main")[0].images.keys() == {"main", "line", "seal"}
    with pytest.raises(InputError, match="unknown image of .* 'lime'; did you mean 'line'"):
        open_source(f"{path}:image=lime")
    with pytest.raises(InputError, match="unknown image of .* 'seg'"):
        open_source(f"{path}:image=seg")


def test_class_names_come_from_the_paired_field(tmp_path):
    records = [
        {"label": n % 2, "name": ("cat", "dog")[n % 2], "n": n, "n_name": "same"} for n in range(6)
    ]
    members = [(f"{n}.json", json.dumps(record).encode()) for n, record in enumerate(records)]
    path = str(write(tmp_path / "a.tar", members))
    schema = open_source(path).schema()
    assert schema["labels.label"].classes == ("cat", "dog")
    captioned = open_source(f"{path}:text=name").schema()  # the names are the captions
    assert captioned["labels.label"].classes == ("cat", "dog")


def test_labels_and_class_names_are_read_without_the_array_files(tmp_path):
    members = [
        (f"{number}.{ending}", data)
        for number in range(200)
        for ending, data in (
            ("png", image()),
            ("feature.npy", b"no array"),
            ("json", json.dumps({"label": number % 3, "name": "abc"[number % 3]}).encode()),
        )
    ]
    source = open_source(str(write(tmp_path / "a.tar", members)))
    with pytest.raises(BadSample):
        source[0]
    assert source.labels("label").tolist() == [number % 3 for number in range(200)]
    assert class_names(_WithoutArrays(source)) == {"label": ["a", "b", "c"]}


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=6),
    format=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    folder=st.sampled_from(["", "./", "long/" * 25, "dossier-é/"]),
    seed=st.integers(0, 99),
)
def test_random_tars_round_trip(tmp_path_factory, texts, format, folder, seed):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    members = [
        (f"{folder}{n}.json", json.dumps({"caption": text}).encode())
        for n, text in enumerate(texts)
    ]
    members += [(f"{folder}{n}.png", image(size=(1 + n, 2))) for n in range(len(texts))]
    np.random.default_rng(seed).shuffle(members)  # members of a sample need not be neighbours
    source = open_source(str(write(path, members, format=format)))
    assert damaged(source) == {}
    found = {sample.key.rpartition("/")[2]: sample for sample in source}
    assert set(found) == {str(n) for n in range(len(texts))}
    for n, text in enumerate(texts):
        assert found[str(n)].captions() == ([text.strip()] if text.strip() else [])
        assert found[str(n)].images["main"].decode().size == (1 + n, 2)


def test_the_damage_that_real_shards_have_is_counted_exactly_by_reason(tmp_path):
    """RELIABILITY 14."""
    exif = Image.Exif()
    exif[0x0112] = 6
    good = image("JPEG", size=(40, 20))
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    gif, webp, grey = io.BytesIO(), io.BytesIO(), io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    frames[0].save(webp, "WEBP", save_all=True, append_images=frames[1:])
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(grey, "PNG")
    cmyk = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(cmyk, "JPEG")
    images = {
        "good": ("jpg", good),
        "rotated": ("jpg", image("JPEG", size=(40, 20), exif=exif)),
        "cmyk": ("jpg", cmyk.getvalue()),
        "grey16": ("png", grey.getvalue()),
        "gif": ("gif", gif.getvalue()),
        "webp": ("webp", webp.getvalue()),
        "zero": ("jpg", b""),
        "html": ("jpg", b"<html>404</html>"),
        "cut": ("jpg", good[:-200]),
        "garbage": ("jpg", b"\x01\x02\x03" * 30),
    }
    members = [(f"{key}.{kind}", data) for key, (kind, data) in images.items()]
    members += [(f"{key}.txt", b"a caption") for key in images]
    members += [
        ("nocaption.jpg", good),
        ("latin.jpg", good),
        ("latin.txt", "café".encode("latin-1")),
    ]
    members += [
        ("badjson.jpg", good),
        ("badjson.json", b'{"caption": '),
        ("wrongsum.jpg", good),
        ("wrongsum.txt", b"x"),
    ]
    members += [("good.jpg", image("JPEG")), ("good.txt", b"again")]
    path = write(tmp_path / "a.tar", members)
    data = bytearray(path.read_bytes())
    data[header_of(path, "wrongsum.jpg") + 150] ^= 1
    path.write_bytes(data)

    source = open_source(str(path))
    assert damaged(source) == {"checksum": 1, "duplicate-key": 1}
    reasons = Counter()
    for index in range(len(source)):
        try:
            sample = source[index]
            sample.images["main"].decode()
            reasons["ok" if sample.captions() else "no-caption"] += 1
        except BadSample as bad:
            reasons[bad.reason] += 1
    assert reasons == {
        "ok": 6,
        "zero-byte": 1,
        "html": 1,
        "truncated": 1,
        "unreadable": 1,
        "no-caption": 1,
        "utf8": 1,
        "json": 1,
    }


@pytest.mark.parametrize(
    "where", ["data", "header", "between members", "between samples", "end mark"]
)
def test_a_cut_tar_keeps_the_samples_before_the_cut_and_counts_it_once(tmp_path, where):
    path = write(tmp_path / "a.tar", samples(10))
    cut = {
        "data": header_of(path, "0007.json") + 520,
        "header": header_of(path, "0007.json") + 100,
        "between members": header_of(path, "0007.json"),
        "between samples": header_of(path, "0007.png"),
        "end mark": header_of(path, "0009.json") + 1024,
    }[where]
    path.write_bytes(path.read_bytes()[:cut])
    source = open_source(str(path))
    assert damaged(source) == {"truncated": 1}
    assert list(source.keys()) == [f"{n:04d}" for n in range(10 if where == "end mark" else 7)]
    assert all(sample.images["main"].decode() and sample.captions() for sample in source)


@pytest.mark.parametrize("at", [150, 128, 257], ids=["checksum", "size", "magic"])
def test_a_bad_header_costs_its_sample_and_reading_goes_on(tmp_path, at):
    path = write(tmp_path / "a.tar", samples(6))
    data = bytearray(path.read_bytes())
    data[header_of(path, "0002.png") + at] ^= 1
    path.write_bytes(data)
    source = open_source(str(path))
    assert damaged(source) == {"checksum": 1}
    whole = [sample.key for sample in source if sample.images and sample.captions()]
    assert whole == ["0000", "0001", "0003", "0004", "0005"]


def patched(path, name: str, field: slice, value: bytes) -> None:
    """Overwrite a field of a member's header, and its checksum so that the header is whole."""
    data, at = bytearray(path.read_bytes()), header_of(path, name)
    block = data[at : at + 512]
    block[field] = value
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}".encode() + b"\0 "
    data[at : at + 512] = block
    path.write_bytes(data)


SIZE, TYPE = slice(124, 136), slice(156, 157)


@pytest.mark.parametrize(
    "size", [b"-0000001750\0", b"-0000000001\0", b"\xff" * 12, b"\xff" + bytes(10) + b"\1"]
)
def test_a_size_below_zero_is_a_bad_header(tmp_path, size):
    path = write(tmp_path / "a.tar", samples(4))
    patched(path, "0002.png", SIZE, size)
    source = open_source(str(path))
    assert list(source.keys()) == ["0000", "0001", "0003"]
    assert damaged(source) == {"checksum": 1}


def test_a_size_beyond_the_file_is_a_cut_and_ends_the_tar(tmp_path):
    path = write(tmp_path / "a.tar", samples(4))
    patched(path, "0002.png", SIZE, b"\x80" + b"\xff" * 11)
    source = open_source(str(path))
    assert (list(source.keys()), damaged(source)) == (["0000", "0001"], {"truncated": 1})


@pytest.mark.parametrize("kind", [b"M", b"Z", b"A"])
def test_members_of_an_unknown_type_are_counted(tmp_path, kind):
    path = write(tmp_path / "a.tar", samples(3))
    patched(path, "0001.png", TYPE, kind)
    source = open_source(str(path))
    assert (list(source.keys()), damaged(source)) == (["0000", "0002"], {"member-type": 1})


def test_the_label_of_a_volume_is_passed_over(tmp_path):
    label = tarfile.TarInfo("backup")
    label.type = b"V"
    source = open_source(str(write(tmp_path / "a.tar", [label, *samples(2)])))
    assert (len(source), damaged(source)) == (2, {})


def extended(body: bytes) -> tarfile.TarInfo:
    """An extended header for the member that follows, as `write` takes it."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = b"x", len(body)
    return info


def write_extended(path, body: bytes):
    """A tar of three samples, the second behind an extended header of these records."""
    parts = list(samples(3))
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for at, (name, data) in enumerate(parts):
            if at == 2:
                tar.addfile(extended(body), io.BytesIO(body))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


class Counting(bytes):
    """Bytes that count how many of them are copied by slices."""

    copied = 0

    def __getitem__(self, at):
        found = super().__getitem__(at)
        if isinstance(at, slice):
            Counting.copied += len(found)
            return Counting(found)
        return found


def test_records_of_an_extended_header_are_cut_once(monkeypatch):
    monkeypatch.setattr(Counting, "copied", 0)
    body = Counting(b"6 a=b\n" * 2000 + b"14 path=x.png\n")
    assert tarindex._pax(body, "", -1) == ("x.png", -1)
    assert Counting.copied <= len(body)


@pytest.mark.parametrize(
    "body",
    [
        b"12 size=-99\n",
        b"0 size=9\n",
        b"99 path=x\n",
        b"13 size=" + b"9" * 5000,
        b"17 size=1_000_00\n",
        b"6 a=b\n" * (1 << 18),  # above a MiB
    ],
)
def test_a_bad_extended_header_is_counted(tmp_path, body):
    source = open_source(str(write_extended(tmp_path / "a.tar", body)))
    assert (list(source.keys()), damaged(source)) == (["0000", "0001", "0002"], {"checksum": 1})


@settings(max_examples=60, deadline=None)
@given(
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.floats(0, 1),
)
def test_any_damage_gives_samples_counts_or_an_input_error(tmp_path_factory, flips, keep):
    path = write(tmp_path_factory.mktemp("tar") / "a.tar", samples(4))
    data = bytearray(path.read_bytes())
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    path.write_bytes(data[: int(keep * len(data))])
    try:
        source = open_source(str(path))
    except InputError as error:
        assert "a.tar" in str(error)  # noqa: PT017
        return
    for index in range(len(source)):
        try:
            sample = source[index]
            [image.decode() for image in sample.images.values()]
        except BadSample:
            pass


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../../etc/cron.d/x.txt", b"x"), "outside"),
        (("/etc/passwd.txt", b"x"), "outside"),
        (("a/../../b.jpg", b"x"), "outside"),
        (("..\\b.jpg", b"x"), "outside"),
        (("C:\\b.jpg", b"x"), "outside"),
        ((special("k.jpg", tarfile.SYMTYPE, "/etc/passwd")), "link"),
        ((special("k.jpg", tarfile.LNKTYPE, "0000.png")), "link"),
        ((special("k.jpg", tarfile.CHRTYPE)), "device"),
        ((special("k.jpg", tarfile.FIFOTYPE)), "pipe"),
        (("k.pkl", pickle.dumps(1)), "pickle"),
        (("k.pyd", pickle.dumps(1)), "pickle"),
        (("k.pth", pickle.dumps(1)), "pickle"),
    ],
)
def test_unsafe_members_are_refused_by_name(tmp_path, member, message):
    """RELIABILITY 19."""
    path = write(tmp_path / "a.tar", [*samples(2), member])
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(path))
    name = member.name if isinstance(member, tarfile.TarInfo) else member[0]
    assert str(path) in str(caught.value)
    assert repr(name) in str(caught.value)


def test_a_pickled_array_is_not_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "fired").touch, ()

    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    source = open_source(
        str(write(tmp_path / "a.tar", [("k.png", image()), ("k.npy", buffer.getvalue())]))
    )
    with pytest.raises(BadSample) as caught:
        source[0]
    assert caught.value.reason == "pickled"
    assert not (tmp_path / "fired").exists()


def test_empty_and_uneven_shards_are_fine(tmp_path):
    """RELIABILITY 16."""
    write(tmp_path / "0.tar", [])
    (tmp_path / "1.tar").write_bytes(b"")
    write(tmp_path / "2.tar", samples(1))
    write(tmp_path / "3.tar", samples(7, start=10))
    source = open_source(str(tmp_path / "{0..3}.tar"))
    assert (len(source), damaged(source)) == (8, {})


def test_shards_that_count_alike_get_distinct_keys(tmp_path):
    write(tmp_path / "a-0.tar", samples(2))
    write(tmp_path / "a-1.tar", samples(2))
    assert list(open_source(str(tmp_path / "a-*.tar")).keys()) == [
        "a-0/0000",
        "a-0/0001",
        "a-1/0000",
        "a-1/0001",
    ]


def test_patterns(tmp_path):
    for name in ("s-08.tar", "s-09.tar", "s-10.tar", "t-x.tar"):
        write(tmp_path / name, [])
    assert expand(str(tmp_path / "s-{08..10}.tar")) == [
        str(tmp_path / f"s-{n}.tar") for n in ("08", "09", "10")
    ]
    assert expand(str(tmp_path / "{s-08,t-x}.tar")) == [
        str(tmp_path / f"{n}.tar") for n in ("s-08", "t-x")
    ]
    assert len(expand(str(tmp_path / "s-*.tar"))) == 3
    for pattern, message in [
        ("s-{08..12}.tar", r"s-11.tar: no such file \(and 1 more\)"),
        ("u-*.tar", "no file"),
    ]:
        with pytest.raises(InputError, match=message):
            expand(str(tmp_path / pattern))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>not found</html>" * 40, "not a tar file"),
        (b"\x1f\x8b" + bytes(range(256)) * 4, "gunzip"),
        (b"", "no samples"),
    ],
)
def test_what_is_no_tar_is_an_input_error(tmp_path, data, message):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path / "a.tar"))


def test_appended_tars_are_read_to_the_end(tmp_path):
    one, two = write(tmp_path / "1.tar", samples(2)), write(tmp_path / "2.tar", samples(2, start=5))
    (tmp_path / "both.tar").write_bytes(one.read_bytes() + two.read_bytes())
    assert list(open_source(str(tmp_path / "both.tar")).keys()) == ["0000", "0001", "0005", "0006"]


def test_the_index_is_small_pickles_and_is_cached(tmp_path, monkeypatch):
    from diptych.data.sources import tarindex

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tarindex, "_CACHED_FROM", 1)
    path = write(tmp_path / "a.tar", samples(500))
    source = open_source(str(path))
    assert len(pickle.dumps(source)) < 500 * 90 + 2000
    assert len(list((tmp_path / "cache" / "diptych").iterdir())) == 1
    monkeypatch.setattr(tarindex, "index_shard", lambda path: pytest.fail("indexed again"))
    again = pickle.loads(pickle.dumps(open_source(str(path))))
    assert list(again.keys()) == list(source.keys())
    assert again[499] == source[499]
    assert again.damage == source.damage
    monkeypatch.undo()
    write(path, samples(3))
    assert len(open_source(str(path))) == 3


def test_class_names_of_many_samples_are_cached_until_a_shard_or_role_changes(
    tmp_path, monkeypatch
):
    from diptych.data.sources import tar

    def named(names):
        for number in range(6):
            yield f"{number}.png", image()
            yield f"{number}.seg.png", image()
            yield (
                f"{number}.json",
                json.dumps(
                    {
                        "label": number % 2,
                        "name": names[number % 2],
                        "mask_classes": {"seg": {number % 2: names[number % 2]}},
                    }
                ).encode(),
            )

    def classes(path, roles=""):
        schema = open_source(f"{path}{roles}").schema()
        return schema["labels.label"].classes, schema["masks.seg"].classes

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tar, "_CACHED_FROM", 1)
    monkeypatch.setattr(tar, "_FIRST", 2)
    path = write(tmp_path / "a.tar", named("ab"))
    assert classes(path) == (("a", "b"), ("a", "b"))
    assert len(list((tmp_path / "cache" / "diptych").iterdir())) == 2
    read = []
    with monkeypatch.context() as patch:
        patch.setattr(tar, "class_names", lambda source, roles: read.append(roles) or {})
        assert classes(path) == (("a", "b"), ("a", "b"))
        assert not read
        assert classes(path, ":text=name=kind") == ((), ("a", "b"))
        assert read == [{"kind": "name"}]
    for kept in (tmp_path / "cache" / "diptych").iterdir():
        kept.write_bytes(b"{")
    assert classes(path) == (("a", "b"), ("a", "b"))
    write(path, named("xyz"))
    assert classes(path) == (("x", "y"), ("x", "y"))


def test_the_packs_read_whole(data_pack):
    source = open_source(str(data_pack("flickr8k-1k") / "{train,test}.tar"))
    assert (len(source), damaged(source)) == (1000, {})
    assert all(len(source[at].captions()) == 5 for at in range(0, 1000, 50))
    assert source[999].images["main"].decode().mode == "RGB"
    grocery = open_source(str(data_pack("grocery") / "test.tar"))
    assert grocery.schema()["labels.label"].classes[0] == "Golden Delicious"
    coco = open_source(str(data_pack("coco128") / "train.tar"))
    assert coco.schema()["masks.seg"].optional
    assert coco[0].masks["seg"].decode().mode == "L"
    names, numbers = (
        coco.schema()["masks.class"].classes,
        np.asarray(coco[1].masks["class"].decode()),
    )
    assert {names[number] for number in np.unique(numbers[numbers < 255])} <= {
        "giraffe",
        "grass-merged",
        "sky-other-merged",
        "tree-merged",
    }
    receipt = open_source(str(data_pack("receipts") / "test.tar"))[1]
    assert receipt.boxes[0].text == "AIK HUAT HARDWARE"
    assert receipt.captions("ocr")[0].splitlines()[:2] == ["AIK HUAT HARDWARE", "ENTERPRISE (SETIA"]
    diagram = open_source(str(data_pack("geometry3k-forms") / "test.tar"))[1]
    assert dict(zip(diagram.captions("points"), diagram.arrays["points"].tolist(), strict=True))[
        "B"
    ] == [127, 11]
    assert diagram.arrays["circles"].shape == (1,)


def masked(*planes, **records):
    """Members of one sample a plane, each with the record of its number."""
    for number, plane in enumerate(planes):
        buffer = io.BytesIO()
        Image.fromarray(np.array(plane, np.uint8)).save(buffer, "PNG")
        yield f"{number}.png", image(size=(2, 1))
        yield f"{number}.seg.png", buffer.getvalue()
        yield (
            f"{number}.json",
            json.dumps({name: values[number] for name, values in records.items()}).encode(),
        )


def boxed(*names):
    """Images with a box of label 0 each, and what each says of the names of labels."""
    for number, classes in enumerate(names):
        yield f"{number}.png", image()
        record = {
            "boxes": [{"name": "it", "label": 0, "box": [0, 0, 2, 2]}],
            "box_classes": classes,
        }
        yield f"{number}.json", json.dumps(record).encode()


def test_boxes_have_the_names_on_which_all_samples_agree(tmp_path):
    agreed = boxed({"0": "cat"}, {}, {"2": "dog"})
    source = open_source(str(write(tmp_path / "a.tar", agreed)))
    assert source.schema()["boxes"].classes == ("cat", "1", "dog")
    refused = boxed({"0": "cat"}, {"0": "dog"})
    source = open_source(str(write(tmp_path / "b.tar", refused)))
    assert source.schema()["boxes"].classes == ()
    beyond = boxed({"100000": "cat"}, {})
    source = open_source(str(write(tmp_path / "c.tar", beyond)))
    assert source.schema()["boxes"].classes == ()


@pytest.mark.parametrize("named", [["cat"], {"first": "cat"}])
def test_names_of_boxes_of_another_form_are_damage(named, tmp_path):
    path = write(tmp_path / "a.tar", [*boxed({"0": "cat"}), *later(boxed(named))])
    source = open_source(str(path))
    with pytest.raises(BadSample, match="box_classes"):
        source[1]
    assert source.schema()["boxes"].classes == ("cat",)


def later(members):
    """The same members under other keys."""
    return [(f"9{name}", data) for name, data in members]


def test_segments_name_the_classes_of_a_mask(tmp_path):
    first = [{"index": 1, "name": "sky"}, {"index": 2, "name": "cat"}, {"index": 3, "name": "cat"}]
    second = [{"index": 1, "name": "bus"}]
    members = masked([[1, 3]], [[1, 0]], [[1, 1]], segments=[first, second, [{"index": 1}]])
    source = open_source(str(write(tmp_path / "a.tar", members)))
    assert source.schema()["masks.class"].classes == ("bus", "cat", "sky")
    assert source.schema()["masks.seg"].classes == ()
    assert np.asarray(source[0].masks["class"].decode()).tolist() == [[2, 1]]
    assert np.asarray(source[1].masks["class"].decode()).tolist() == [[0, 255]]
    assert np.asarray(Image.open(io.BytesIO(source[0].masks["class"].read()))).tolist() == [[2, 1]]
    with pytest.raises(BadSample, match="segments"):
        source[2]


def test_numbers_of_a_mask_are_named_by_the_samples_that_have_them(tmp_path):
    named = [{"seg": {"1": "cat"}}, {"seg": {"0": "ground"}}, {"seg": {"1": "cat"}}]
    source = open_source(
        str(write(tmp_path / "a.tar", masked([[1, 1]], [[0, 0]], [[1, 1]], mask_classes=named)))
    )
    assert source.schema()["masks.seg"].classes == ("ground", "cat")
    named[2] = {"seg": {"1": "dog"}}
    source = open_source(
        str(write(tmp_path / "b.tar", masked([[1, 1]], [[0, 0]], [[1, 1]], mask_classes=named)))
    )
    assert source.schema()["masks.seg"].classes == ()


def test_edits_are_read_with_their_images(tmp_path):
    edits = [
        {
            "kind": "swap",
            "caption": "a dog on a cat",
            "boxes": [{"name": "dog", "box": [0, 0, 1, 2]}],
        },
        {"kind": "Swap", "caption": "a cat on a cat", "score": 0.5},
        {"kind": "negate", "caption": "no cat on a dog"},
    ]
    members = [
        ("k.png", image(size=(1, 1))),
        ("k.swap.png", image(size=(2, 2))),
        ("k.swap2.png", image(size=(3, 3))),
        ("k.swap2.reference.png", image(size=(4, 4))),
        ("k.json", json.dumps({"caption": "a cat on a dog", "edits": edits}).encode()),
        ("m.png", image()),
        ("m.json", json.dumps({"edits": [{"caption": "no kind"}]}).encode()),
        ("n.json", json.dumps({"edits": ["words", "of", "a", "list"]}).encode()),
    ]
    source = open_source(str(write(tmp_path / "a.tar", members)))
    sample = source[0]
    assert set(sample.images) == {"main"}
    assert [(edit.key, edit.kind, edit.captions()) for edit in sample.edits] == [
        ("k/swap", "swap", ["a dog on a cat"]),
        ("k/swap2", "Swap", ["a cat on a cat"]),
        ("k/negate", "negate", ["no cat on a dog"]),
    ]
    sizes = [
        {role: image.decode().size for role, image in edit.images.items()} for edit in sample.edits
    ]
    assert sizes == [{"main": (2, 2)}, {"main": (3, 3), "reference": (4, 4)}, {}]
    assert sample.edits[0].boxes[0].xyxy == (0, 0, 1, 2)
    assert sample.edits[1].labels == {"score": 0.5}
    with pytest.raises(BadSample, match=r"^edit: .*no kind; write \{'kind': 'swap', …\}$"):
        source[1]
    assert source[2].captions("edits") == ["words", "of", "a", "list"]
    assert source.schema()["edits"].optional


def test_what_is_written_and_what_is_measured_in_a_image_is_read(tmp_path):
    record = {
        "lines": [{"text": "TOTAL", "box": [1, 2, 3, 4]}, {"text": "5.00", "box": [5, 2, 3, 4]}],
        "words": ["not", "boxes"],
        "points": {"A": [1, 2], "B": [3, 4.5]},
        "circles": {"A": 2.5, "B": None},
        "track": [[0, 1], [2, 3]],
        "other": {"a": "text"},
        "ragged": [[1], [2, 3]],
    }
    source = open_source(
        str(
            write(tmp_path / "a.tar", [("k.png", image()), ("k.json", json.dumps(record).encode())])
        )
    )
    (sample,) = source
    assert [(box.text, box.xyxy) for box in sample.boxes] == [
        ("TOTAL", (1, 2, 4, 6)),
        ("5.00", (5, 2, 8, 6)),
    ]
    assert (sample.captions("ocr"), sample.captions("words")) == (["TOTAL\n5.00"], ["not", "boxes"])
    assert sample.captions("points") == sample.captions("circles") == ["A", "B"]
    assert sample.arrays["points"].tolist() == [[1, 2], [3, 4.5]]
    assert sample.arrays["circles"][0] == 2.5
    assert np.isnan(sample.arrays["circles"][1])
    assert sample.arrays["track"].tolist() == [[0, 1], [2, 3]]
    assert {"arrays.other", "arrays.ragged"}.isdisjoint(source.schema())
