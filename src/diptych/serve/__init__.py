"""The server behind `diptych serve`: folders of embeddings, searched over HTTP, and the page that
searches them in a browser.

    limits      what one request may cost
    batched     requests that arrive together are computed in one batch
    encoder     the loaded model, shared by all requests
    pictures    small versions of the images of a source
    collection  one folder of embeddings with its encoder and its source
    service     the collections, the threads and the counters of one server
    schema      requests and replies
    routes      the API under /api/v1, and the page
    guard       what every request passes: host, token, size, time, concurrency
    app         all of these together, as an ASGI application
    run         the socket and uvicorn

The package needs the extra `serve`; `need` says so where it is missing.
"""

from importlib.util import find_spec

from diptych.errors import InputError

_NEEDED = ("fastapi", "uvicorn", "python_multipart")


def need() -> None:
    """Raise InputError if FastAPI, uvicorn or python-multipart is missing."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"serving needs {' and '.join(missing)}; install it with: pip install 'diptych[serve]'"
        )
