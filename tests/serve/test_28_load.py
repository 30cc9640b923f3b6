"""RELIABILITY 28: any request gets an answer, and many requests take no more memory than few."""

import base64
import gc
import json

import psutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serve.helpers import SOURCE, png, posted, server

from diptych.data.sources import open_source

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(["drawings", "", "a dog", "../..", "\0", "x" * 3_000, "AAAA", 2**80, -1])
)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
texts = st.lists(st.text(max_size=30), max_size=3)
rows = st.lists(st.integers(-2, 40), max_size=3)
query = st.fixed_dictionaries(
    {}, optional={"plus": texts, "minus": texts, "rows": rows, "images": texts, "odd": leaves}
)
things = st.fixed_dictionaries({}, optional={"texts": texts, "rows": rows, "images": texts})
paged = {"k": st.integers(-1, 300), "offset": st.integers(-1, 3_000), "collection": leaves}
bodies = {
    "search": st.fixed_dictionaries(
        {"queries": st.lists(query, max_size=3)}, optional={**paged, "odd": leaves}
    ),
    "similarity": st.fixed_dictionaries({"a": things, "b": things}),
    "classify": st.fixed_dictionaries(
        {"names": texts}, optional={"rows": rows, "templates": texts, "k": st.integers(-1, 2_000)}
    ),
    "session": st.fixed_dictionaries({"token": leaves}),
}
request = st.sampled_from(sorted(bodies)).flatmap(
    lambda name: st.tuples(st.just(name), bodies[name] | anything)
)


@given(request)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_28_any_body_is_answered(served, request):
    name, body = request
    headers = {"content-type": "application/json"}
    reply = served.post(f"/api/v1/{name}", content=json.dumps(body), headers=headers)
    assert reply.status_code in {200, 204, 404, 422}, (request, reply.text)
    if reply.status_code >= 400:
        assert reply.json().keys() == {"status", "error"}


@given(
    st.binary(max_size=200),
    st.sampled_from(["application/json", "multipart/form-data; boundary=x", ""]),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_28_any_bytes_are_answered(served, data, kind):
    for path in ("search", "search/image", "classify"):
        reply = served.post(f"/api/v1/{path}", content=data, headers={"content-type": kind})
        assert reply.status_code == 422, (path, reply.text)


@given(
    st.dictionaries(
        st.sampled_from(["plus", "row", "k", "offset", "collection", "x"]), st.text(max_size=20)
    )
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_28_any_parameters_are_answered(served, parameters):
    reply = served.get("/api/v1/search", params=parameters)
    assert reply.status_code in {200, 404, 422}, (parameters, reply.text)


def test_28_a_thousand_requests_take_no_more_memory_than_two_hundred(emb):
    """Over the loopback interface: new words each time, images, rows and refusals."""
    image = base64.b64encode(png(open_source(SOURCE)[0].images["main"].decode())).decode()

    def asked(number):
        if number % 5 == 1:
            return {"queries": [{"images": [image], "minus": [f"word {number}"]}]}, 200
        if number % 5 == 2:
            return {"queries": [{"rows": [number % 20]}, {"plus": ["a dog"]}], "k": 30}, 200
        if number % 5 == 3:
            return {"queries": [{"plus": ["a" * 2_000], "odd": "b" * 2_000}]}, 422
        return {"queries": [{"plus": [f"picture {number} of a dog"]}]}, 200

    memory = psutil.Process().memory_info
    with server(emb) as running:
        connection = running.connection()
        before = 0
        for number in range(1_000):
            body, status = asked(number)
            if number % 10 == 9:
                connection.request("GET", f"/api/v1/collections/drawings/rows/{number % 29}/image")
                assert len(connection.getresponse().read()) > 100
            else:
                assert posted(connection, "/api/v1/search", body)[0] == status
            if number == 200:
                gc.collect()
                connection.close()  # on a busy machine the server has closed it meanwhile
                before = memory().rss
        gc.collect()
        grown = memory().rss - before
        connection.close()
    assert grown < 12_000_000, f"{grown / 1e6:.1f} MB"
