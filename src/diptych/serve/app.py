"""The ASGI application of a server."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from diptych import __version__
from diptych.errors import shortened
from diptych.serve.guard import Guard, problem
from diptych.serve.limits import Refused
from diptych.serve.routes import api
from diptych.serve.service import Service

PAGE = Path(__file__).parent / "page"
"""The files of the page."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""The names of this machine for itself."""


def create_app(service: Service, *, hosts: Collection[str] | None = LOOPBACK) -> FastAPI:
    """Return the application: the API under /api/v1, its description in OpenAPI, and the page.

    `hosts` are the names under which it may be addressed; None allows all. Any ASGI server can run
    it. CORS stays off: pages of other sites are refused.
    """
    app = guarded_app(
        service,
        hosts,
        title="diptych serve",
        description="Search in folders of embeddings.",
        openapi_url="/api/v1/openapi.json",
    )
    app.include_router(api(service))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/page", _Files(directory=PAGE), "page")
    return app


def guarded_app(
    service: Service,
    hosts: Collection[str] | None,
    *,
    title: str,
    description: str,
    openapi_url: str | None,
) -> FastAPI:
    """Return an application without routes behind the `Guard`, which answers errors in one line and
    closes the service at its end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title=title,
        description=description,
        version=__version__,
        openapi_url=openapi_url,
        docs_url=None,  # their scripts come from another site
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(Guard, service=service, hosts=hosts)
    return app


class _Files(StaticFiles):
    """Static files, which browsers ask for again after an update."""

    def file_response(self, *args, **settings):
        response = super().file_response(*args, **settings)
        response.headers["cache-control"] = "no-cache"
        return response


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return problem(error.status, error.message)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Name the first field that is wrong; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    said = first["msg"].removeprefix("Value error, ")
    return problem(422, f"{shortened(place, 80)}: {shortened(said, 120)}")


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = 422 if error.status_code == 400 else error.status_code
    return problem(status, str(error.detail))
