"""What one request to the server may cost."""

from dataclasses import dataclass, fields

from diptych.data.decode import MAX_PIXELS
from diptych.errors import InputError

TERMS = 16
"""The most texts, images or rows of each kind in one query."""

TEXT = 2_000
"""The most characters of a text."""

NAMES = 1_000
"""The most classes of one request."""

QUERIES = 32
"""The most queries of one request."""

MAPPED = 100_000
"""The most rows of one reply of the map."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server, each above 0.

    - `body`: bytes of a request; more are refused with 413.
    - `pixels`: pixels of an uploaded image, by its header; more are refused with 422.
    - `k`: hits on one page; `depth`: how far paging goes. Beyond: 422.
    - `concurrent`: requests in progress; one more is refused with 503 and Retry-After.
    - `seconds`: for a request's body to arrive (408), and then for its reply (504).
    - `head`: seconds for the head of a request, after which the connection is closed.
    - `decoders`: images decoded at the same time.

    Raises InputError for a limit of 0 or less, and for more pixels than training decodes.
    """

    body: int = 10_000_000
    pixels: int = 50_000_000
    k: int = 200
    depth: int = 2_000
    concurrent: int = 32
    seconds: float = 30.0
    head: float = 10.0
    decoders: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise InputError(f"the limit {field.name} is {value:g}; give a number above 0")
        if self.pixels > MAX_PIXELS:
            raise InputError(
                f"the limit pixels is {self.pixels:,}; no image above {MAX_PIXELS:,} is decoded"
            )


class Refused(Exception):
    """A request that is answered with an error: its HTTP `status` and one line for the client."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = message
