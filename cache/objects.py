"""A cache in an object store: s3://bucket/..., gs://bucket/..., az://container/..., memory://... (this process alone).

A store keeps whole objects: nothing is renamed or appended to. Every object is put on a condition: that there is none
of its name yet, or that it still is what was just read. So a put whose answer was lost is done again without harm, and
a writer that was replaced by another does not write over what it has not seen.

Who may open a store is found where the store's own tools look: boto3's chain for S3 (environment, ~/.aws, roles), the
environment, application default credentials and metadata servers for the others. It is never part of a location, and
the words of a store, which may repeat it, never part of a message.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from mma.cache.errors import CacheError
from mma.cache.journal import JOURNAL, SPARE
from mma.cache.killpoint import step
from mma.cache.place import UNITS, Place
from mma.cache.root import ROOT

if TYPE_CHECKING:
    from obstore.store import ObjectStore

STORES = ("s3", "gs", "az", "memory")
TRIES = 4  # of a request that a store did not answer, each with the store's own retries
PAUSE = 1.0  # seconds before the second try, then twice as long each time
ROUNDS = 4  # of a put whose object was changed meanwhile
BACKOFF = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}
RETRIES = {"max_retries": 6, "retry_timeout": timedelta(minutes=1), "backoff": BACKOFF}
OPTIONS = {"timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=5)}
UNDONE = "receipts/"  # what units leave that the journal does not have

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class StoredObject:
    """An object as it was read."""

    data: bytes
    version: dict[str, str]  # what the store knows this state of it by


class Objects(Place):
    """A folder of an object store."""

    readers = 64
    appends = False

    def __init__(self, url: str) -> None:
        self.location = url
        scheme, _, rest = url.partition("://")
        self._bucket, _, folder = rest.partition("/")
        self._scheme, self._folder = scheme, f"{folder}/" if folder else ""
        self._store = _open_store(scheme, self._bucket)

    def read(self, name: str) -> bytes | None:
        """As of every place."""
        seen = self.look(name)
        return seen.data if seen else None

    async def fetch(self, name: str) -> bytes | None:
        """As of every place; a try that fails is made again as `read` does."""
        import obstore

        try:
            found = await obstore.get_async(self._store, self._folder + name)
            return bytes(await found.bytes_async())
        except Exception:  # whatever it is, `read` meets it again and says it
            return await super().fetch(name)

    def look(self, name: str) -> StoredObject | None:
        """An object with its version; None where there is none. CacheError where it cannot be read."""
        import obstore

        def get() -> StoredObject:
            found = obstore.get(self._store, self._folder + name)
            return StoredObject(bytes(found.bytes()), _version(found.meta))

        try:
            return self._try(get)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CacheError(f"{self.location}: {name} cannot be read ({error.strerror})") from error

    def sizes(self, below: str = "") -> dict[str, int]:
        """As of every place."""
        import obstore

        prefix = self._folder + below

        def listed() -> dict[str, int]:
            found: dict[str, int] = {}
            for batch in obstore.list(self._store, prefix or None, chunk_size=1000):
                found |= {str(of["path"]).removeprefix(self._folder): int(of["size"]) for of in batch}
            return found

        try:
            return dict(sorted(self._try(listed).items()))
        except OSError as error:
            raise CacheError(f"{self.location} cannot be listed ({error.strerror})") from error

    def exists(self) -> bool:
        """Whether there is a cache, or more of one than a run leaves that was killed as it laid the cache out."""
        if self.read(ROOT) is not None or self.read(SPARE) is not None:
            return True
        return (self.read(JOURNAL) or b"").count(b"\n") > 1 or bool(self.sizes(UNDONE))

    def write(self, files: Mapping[str, bytes]) -> None:
        """As of every place. An object that is there is replaced only as it was seen."""
        with ThreadPoolExecutor(min(self.readers, max(1, len(files)))) as pool:
            list(pool.map(self._put, files, files.values()))

    def keep(self, name: str, data: bytes) -> bytes:
        """As of every place: of two processes at once, one writes."""
        if self.create(name, data):
            return data
        return self.read(name) or b""

    def append(self, name: str, data: bytes) -> None:
        """As of every place: the whole object is put anew."""
        seen = self.look(name)
        if seen and seen.data.endswith(data):
            return
        wanted = (seen.data if seen else b"") + data
        if not (self.replace(name, wanted, seen) if seen else self.create(name, wanted)) and not self.holds(
            name, wanted
        ):
            raise self._changed(name)

    def delete(self, names: Collection[str]) -> None:
        """As of every place."""
        import obstore

        keys = [self._folder + name for name in names]
        for start in range(0, len(keys), 1000):
            with suppress(FileNotFoundError):  # S3 does not mind, other stores do
                self._try(partial(obstore.delete, self._store, keys[start : start + 1000]))

    def sweep(self, known: Collection[str]) -> None:
        """As of every place."""
        known = set(known)
        self.delete([name for folder in UNITS for name in self.sizes(folder) if name not in known])

    def lay_out(self, files: Mapping[str, bytes]) -> None:
        """As of every place: the root is put last, and there is no cache before."""
        with step("create.draft"):
            self.write({name: data for name, data in files.items() if name != ROOT})
        with step("create.rename"):
            self.write({ROOT: files[ROOT]})

    def create(self, name: str, data: bytes) -> StoredObject | None:
        """Put an object where there is none, and return it as it is then; None where there is one."""
        return self._conditional(name, data, "create")

    def replace(self, name: str, data: bytes, seen: StoredObject) -> StoredObject | None:
        """Put an object in place of what was seen of it, and return it as it is then; None where it is other by now."""
        return self._conditional(name, data, seen.version)

    def _put(self, name: str, data: bytes) -> None:
        seen: StoredObject | None = None
        for _ in range(ROUNDS):
            if self.replace(name, data, seen) if seen else self.create(name, data):
                return
            seen = self.look(name)
            if seen and seen.data == data:  # it was put before, by this very call or a run that was killed
                return
        raise self._changed(name)

    def _conditional(self, name: str, data: bytes, mode: Any) -> StoredObject | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotModifiedError, PreconditionError

        def put() -> StoredObject:
            done = obstore.put(self._store, self._folder + name, data, mode=mode, use_multipart=False)
            return StoredObject(data, _version(done))

        try:
            return self._try(put)
        except (AlreadyExistsError, PreconditionError, NotModifiedError):
            return None
        except FileNotFoundError:
            return None  # replaced on a condition, and removed by another meanwhile

    def _try(self, request: Callable[[], _Result]) -> _Result:
        """What a request gives. FileNotFoundError and a condition that does not hold are passed on; CacheError for what
        will not get better; OSError where the store does not answer, however often it is asked.
        """
        from obstore.exceptions import AlreadyExistsError, BaseError, NotModifiedError, PreconditionError

        pause = PAUSE
        for left in range(TRIES - 1, -1, -1):
            try:
                return request()
            except (AlreadyExistsError, PreconditionError, NotModifiedError):
                raise
            except FileNotFoundError as error:
                if told := self._final(error):
                    raise CacheError(told) from None
                raise
            except (BaseError, OSError) as error:
                if told := self._final(error):
                    raise CacheError(told) from None
                if not left:
                    raise OSError(errno.EIO, f"the store does not answer: {_reason(error)}", self.location) from None
            time.sleep(pause)
            pause *= 2
        raise AssertionError

    def _final(self, error: Exception) -> str | None:
        """What a person has to mend before the store does as it is asked, or None. Nothing of its own words is told."""
        from obstore.exceptions import NotSupportedError, PermissionDeniedError, UnauthenticatedError

        said, where = str(error), f"{self._scheme}://{self._bucket}"
        if re.search("NoSuchBucket|ContainerNotFound|bucket does not exist", said):
            return f"{self.location}: there is no bucket {where}: make it, or check the address and the region"
        if "169.254." in said or "metadata.google" in said:
            return _no_credentials(self._scheme, where)
        denied = re.search(r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|\b40[13] [A-Z]|ExpiredToken", said)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or denied:
            return f"{self.location}: {where} refuses these credentials: check them, and what they may do there"
        if isinstance(error, NotSupportedError) or re.search(r"NotImplemented|\b501 [A-Z]", said):
            return unconditional(self.location)
        if re.search(r"\b301 |PermanentRedirect|AuthorizationHeaderMalformed", said):
            return f"{self.location}: {where} is in another region: name it in AWS_REGION"
        return None

    def _changed(self, name: str) -> CacheError:
        return CacheError(f"{self.location}: {name} is being changed by another process: this one stops writing")


def unconditional(location: str) -> str:
    """What is said of a store that puts objects over others although it was asked not to."""
    return (
        f"{location}: this store has no conditional put (If-None-Match, If-Match), so that two writers would mix: "
        "write the cache to a disk, and copy it there"
    )


def _version(of: Any) -> dict[str, str]:
    return {name: of[name] for name in ("e_tag", "version") if of.get(name) is not None}


def _reason(error: Exception) -> str:
    """Why a store did not answer, in words of our own."""
    said = str(error)
    if status := re.search(r"status code: (\d{3})", said):
        return f"status {status[1]}"
    return "time ran out" if "kind: Timeout" in said or "operation timed out" in said else "no connection"


@lru_cache
def _open_store(scheme: str, bucket: str) -> ObjectStore:
    """A store by its bucket, one for this process. CacheError where its package, its credentials or its account are not
    there.
    """
    try:
        from obstore import store as stores
        from obstore.exceptions import BaseError
    except ImportError as error:
        raise CacheError(f"{scheme}:// needs obstore: pip install 'mma[remote]'") from error
    if scheme == "memory":
        return stores.MemoryStore()
    options: Any = {**OPTIONS}
    retries: Any = RETRIES
    try:
        if scheme == "s3":
            found = _s3(f"s3://{bucket}")
            options["allow_http"] = found.get("endpoint", "").startswith("http://")
            return stores.S3Store(bucket, client_options=options, retry_config=retries, **found)
        url = f"{scheme}://{bucket}"
        return stores.from_url(url, client_options=options, retry_config=retries)
    except (BaseError, OSError, ValueError) as error:
        if isinstance(error, CacheError):
            raise
        account = "Account must be specified" in str(error)
        what = "give the account in AZURE_STORAGE_ACCOUNT_NAME" if account else "check what its own tools are set to"
        raise CacheError(f"{scheme}://{bucket} cannot be opened: {what}") from None


def _s3(where: str) -> dict[str, Any]:
    """Endpoint, region and credentials of S3 as AWS's own tools find them. CacheError where there are none."""
    try:
        from botocore.configprovider import ConfiguredEndpointProvider
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise CacheError("s3:// needs boto3: pip install 'mma[remote]'") from error

    try:
        session = Session()
        found: dict[str, Any] = {"region": session.get_config_variable("region") or "us-east-1"}
        endpoint = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3").provide()
        if endpoint and not session.get_config_variable("ignore_configured_endpoint_urls"):
            found["endpoint"] = endpoint
        if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes"):
            return {**found, "skip_signature": True}
        if session.get_credentials() is None:
            raise CacheError(_no_credentials("s3", where))
        return {**found, "credential_provider": Boto3CredentialProvider(session)}
    except BotoCoreError as error:
        raise CacheError(f"{where}: AWS's settings cannot be used ({type(error).__name__}): check ~/.aws") from None


def _no_credentials(scheme: str, where: str) -> str:
    ways = {
        "s3": "`aws configure`, AWS_PROFILE, or AWS_ACCESS_KEY_ID (for public data, AWS_SKIP_SIGNATURE=true)",
        "gs": "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS",
        "az": "`az login` with AZURE_USE_AZURE_CLI=true, or AZURE_STORAGE_ACCOUNT_KEY",
    }
    return f"{where}: no credentials were found: {ways.get(scheme, 'set them up')}"
