"""Open embeddings by their address: a folder, or a store such as `lancedb:PATH`."""

from pathlib import Path

from diptych.embeddings.index import Index
from diptych.embeddings.lance.store import Store
from diptych.embeddings.lance.table import SCHEME
from diptych.embeddings.searchable import Searchable
from diptych.errors import InputError


def is_store(address: str | Path) -> bool:
    """Whether this is the address of a store and not a folder."""
    return str(address).startswith(SCHEME)


def open_searchable(
    address: str | Path, *, exact: bool = False, several: bool = False
) -> Searchable:
    """Open a folder of embeddings, or a store by its address `lancedb:PATH`. With `several` its rows may
    have several vectors.

    Raises InputError as `Index.open` and `Store.open` do.
    """
    if is_store(address):
        return Store.open(str(address), exact=exact)
    return Index.open(address, exact=exact, several=several)


def refuse_store(address: str | Path, what: str) -> None:
    """Raise InputError for a store, where `what` takes folders alone."""
    if is_store(address):
        raise InputError(
            f"{what} takes a folder that `diptych embed` made, and {address} is a store; name the folder"
        )
