"""diptych.json and index.json of any content: read, or refused in one line."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.embeddings.ivf import Part, State
from diptych.embeddings.layout import Manifest
from diptych.errors import InputError

ODD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        10**30,
        2.5,
        float("nan"),
        "",
        "..",
        [],
        [1],
        [[]],
        {},
        {"a": 1},
        {"path": 3},
    ]
)


def saved(folder):
    manifest = Manifest(
        model="m",
        identity="i",
        dimension=4,
        count=3,
        texts=None,
        source="s",
        damaged={"cut": ["a"]},
    )
    manifest.write(folder)
    state = State(
        identity="i",
        dimension=4,
        parts=(Part(path=".", count=3, fingerprint="f"),),
        removed=(1,),
        recall=0.9,
        k=2,
        lists=1,
        nprobe=1,
        measured={"images": 1.0},
        held_out=3,
        file="index-0.faiss",
        size=9,
    )
    state.write(folder)
    return manifest, state


def test_what_was_written_is_read_again(tmp_path):
    assert saved(tmp_path) == (Manifest.read(tmp_path), State.read(tmp_path))


def places(value, path=()):
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


@pytest.mark.parametrize(("name", "cls"), [("diptych.json", Manifest), ("index.json", State)])
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_content_is_read_or_refused_in_one_line(tmp_path, name, cls, data):
    saved(tmp_path)
    tree = json.loads((tmp_path / name).read_text())
    *parents, last = data.draw(st.sampled_from(list(places(tree))))
    at = tree
    for key in parents:
        at = at[key]
    if data.draw(st.booleans()):
        del at[last]
    else:
        at[last] = data.draw(ODD)
    (tmp_path / name).write_text(json.dumps(tree))
    message = f"{name}"
    try:
        found = cls.read(tmp_path)
    except InputError as error:
        message = str(error)
    else:
        assert isinstance(found, cls)
    assert name in message
    assert "\n" not in message


@given(content=st.binary(max_size=40))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_refused_in_one_line(tmp_path, content):
    for name, cls in (("diptych.json", Manifest), ("index.json", State)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            cls.read(tmp_path)
