"""Which place a location is: a folder, an object store (s3://, gs://, az://, memory://), or another URL to read.

A URL with a name and password, a query or a fragment is refused: what may open a store is never kept, shown or
logged. Credentials come from where the store's own tools look for them, see objects.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from mma.cache.disk import Disk
from mma.cache.errors import CacheError
from mma.cache.objects import STORES, Objects
from mma.cache.place import Place
from mma.cache.web import Web

Location = str | Path  # a folder, or a URL


def as_location(typed: Location) -> Location:
    """What a person typed: a URL as text, anything else as a path, file:// too.

    A Path that was made of a URL, and has lost a slash, is a URL again. CacheError for one with a password or a query.
    """
    url = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(.*)", str(typed))  # one letter would be a drive
    if not url:
        return Path(typed)
    if url[1] == "file":
        return Path(f"/{unquote(url[2]).lstrip('/')}")
    at = f"{url[1]}://{url[2].rstrip('/')}"
    if at.endswith("://"):
        raise CacheError(f"{at} names no bucket")
    _check_url(at)
    return at


def is_url(location: Location) -> bool:
    """Whether a location is a URL, and no folder of a disk. CacheError as for `as_location`."""
    return isinstance(as_location(location), str)


def place_of(location: Location) -> Place:
    """The place that a location is, whether something is there or not.

    CacheError for a URL that has a password or a query, of a kind that nobody knows, or of a store whose package is not
    installed, or that has no credentials.
    """
    at = as_location(location)
    if isinstance(at, Path):
        return Disk(at)
    return Objects(at) if in_object_store(at) else Web(at)


def open_place(location: Location) -> Place:
    """The place of a cache that is to be read; CacheError where nothing is there."""
    place = place_of(location)
    if isinstance(place, Disk) and not place.exists():
        raise CacheError(f"there is no cache at {location}: make one with `mma embed`, or check the path")
    return place


def in_object_store(location: Location) -> bool:
    """Whether a location is in an object store. CacheError as for `as_location`."""
    at = as_location(location)
    return isinstance(at, str) and at.partition("://")[0] in STORES


def cache_bytes(location: Location) -> int | None:
    """Bytes of all files of a cache; None where they cannot be listed. CacheError as for `place_of`."""
    place = place_of(location)
    try:
        return sum(place.sizes().values())
    except CacheError:
        return None


def cache_exists(location: Location) -> bool:
    """Whether something is at a location, a cache or what is left of one. CacheError as for `place_of`."""
    return place_of(location).exists()


def _check_url(url: str) -> None:
    """CacheError for a URL that carries more than where something is. The message does not repeat that."""
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    named = f"{scheme}://{host.rpartition('@')[2]}{'/' if path else ''}{re.split('[?#]', path)[0]}"
    if "@" in host:
        raise CacheError(
            f"{named} is given with a name or password: leave it out, and put it where the store's own tools look"
        )
    if re.search("[?#]", rest):
        raise CacheError(f"{named} is given with a query or fragment: give the address of the cache alone")
