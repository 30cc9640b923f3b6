import contextlib
import io
import re
import threading

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from tests.viewer.helpers import Parts

from diptych.data.check import check
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.viewer.app import Site
from diptych.viewer.checked import of_source
from diptych.viewer.subject import Subject

HERE = "http://127.0.0.1"


@contextlib.contextmanager
def client(subject):
    site = Site(subject)
    app = site.app(site.service, hosts=("127.0.0.1",))
    with TestClient(app, base_url=HERE) as found, site.reading():
        yield found, site


@pytest.fixture(scope="module")
def served(table):
    with client(of_source(str(table[0]), val=str(table[1]))) as (found, site):
        for _ in range(600):
            if not site.waiting:
                break
            threading.Event().wait(0.05)
        yield found


def test_all_links_and_pictures_of_the_overview_lead_somewhere(served, table):
    reply = served.get("/")
    assert reply.status_code == 200
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    found = Parts(reply.text)
    assert not {"script", "style"} & set(found.tags)
    assert " style=" not in reply.text
    for link in set(found.links):
        if link.startswith("#"):
            assert link[1:] in found.ids
        else:
            assert served.get(link).status_code == 200, link
    damaged = set(check(open_source(str(table[0]))).damaged)
    lost = set()
    for source in set(found.sources):
        picture = served.get(source)
        if picture.status_code == 404:
            assert "cannot be read" in picture.text
            assert picture.headers["content-type"] == "image/svg+xml"
            lost.add(source)
        else:
            Image.open(io.BytesIO(picture.content)).load()
    assert {each.partition("?")[0] for each in lost} == {
        f"/picture/0/{open_source(str(table[0])).keys().index(key)}/0" for key in damaged
    }
    assert served.get("/style.css").headers["content-type"].startswith("text/css")
    assert served.get("/icon.svg").status_code == 200


def test_samples_by_page_and_class(served):
    everything = served.get("/samples").text
    assert everything.count('<article class="sample"') == 25
    options = re.findall(r'<option value="(\d+:label)"[^>]*>([^<]*)', everything)
    classes = {name: value for value, name in options}
    assert len(classes) == 3
    cats = served.get("/samples", params={"of": classes["cat"]}).text
    assert cats.count('<article class="sample"') == 11
    assert f'value="{classes["cat"]}" selected' in cats


def test_a_long_source_has_pages():
    with client(of_source("glyphs:split=val:design=noto", quick=True)) as (found, _):
        first = Parts(found.get("/samples").text)
        last = Parts(found.get("/samples?page=4").text)
        assert len([each for each in first.ids if each.startswith("s0-")]) == 48
        assert len([each for each in last.ids if each.startswith("s0-")]) == 177 - 3 * 48
        assert "/samples?page=2" in first.links
        assert "/samples?page=3" in last.links
        assert found.get("/samples?page=5").status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/sample/0/25", 404),
        ("/sample/2/0", 404),
        ("/sample/0/-1", 422),
        ("/sample/0/x", 422),
        ("/sample/0/99999999999999999999", 422),
        ("/picture/0/0/7", 404),
        ("/picture/0/0/0?size=0", 422),
        ("/samples?page=0", 422),
        ("/samples?of=9:nothing", 404),
        ("/samples?of=x:label", 404),
        ("/samples?of=99:label", 200),
        ("/../../etc/passwd", 404),
        ("/docs", 404),
    ],
)
def test_what_is_not_there(served, path, status):
    reply = served.get(path)
    assert reply.status_code == status
    assert "Traceback" not in reply.text


def test_a_page_of_another_site_is_refused(served):
    assert served.get("/", headers={"host": "evil.example"}).status_code == 400
    assert served.get("/", headers={"origin": "http://evil.example"}).status_code == 403
    assert served.post("/").status_code in (404, 405)


def test_the_overview_is_there_before_all_samples_are_read(table):
    source = open_source(str(table[0]))
    begun = threading.Event()
    go_on = threading.Event()

    def slow(progress):
        progress(3, 25)
        begun.set()
        go_on.wait(10)
        progress(25, 25)
        raise InputError("a <b>reason</b>")

    subject = Subject(title="pets", lead="", sources=[source], slow=slow)
    with client(subject) as (found, site):
        assert begun.wait(10)
        html = found.get("/").text
        assert "3 of 25 samples so far" in html
        assert 'http-equiv="refresh"' in html
        go_on.set()
        while site.waiting:
            threading.Event().wait(0.01)
        html = found.get("/").text
        assert "a &lt;b&gt;reason&lt;/b&gt;" in html
        assert "refresh" not in html


def test_the_end_of_the_server_stops_the_reading(table):
    left = threading.Event()

    def slow(progress):
        try:
            while True:
                progress(1, 2)
                threading.Event().wait(0.01)
        finally:
            left.set()

    with client(Subject(title="a", lead="", sources=[open_source(str(table[0]))], slow=slow)):
        pass
    assert left.wait(5)
