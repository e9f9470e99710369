"""The embedding cache: one Zarr group for one data set under one frozen model. Knows numpy and zarr; no torch."""

from mma.cache.bounded import most_bytes, read_npy, read_parquet
from mma.cache.bundle import Bundle, write_bundle
from mma.cache.diff import CacheDiff, diff_caches
from mma.cache.errors import CacheError
from mma.cache.export import export_cache, import_export
from mma.cache.importer import FoundEmbeddings, import_found, import_npz
from mma.cache.journal import FailedRow
from mma.cache.layout import ManifestSplit
from mma.cache.lock import refuse_if_locked
from mma.cache.objects import STORES
from mma.cache.projection import PROJECTION, Projection
from mma.cache.reader import Cache, SplitData, TextData, open_cache
from mma.cache.repair import RepairReport, mend
from mma.cache.replace import discard_replacement, mend_replacement, replacement_place, replacing
from mma.cache.schema import (
    FEATURES,
    SIDES,
    VERSION,
    WITHOUT_FEATURES,
    Chunk,
    Fingerprint,
    Header,
    Shard,
    Status,
    check_name,
    fingerprint_diff,
)
from mma.cache.shard import ShardWriter, merge_shards
from mma.cache.verify import Fault, VerifyReport, verify
from mma.cache.where import Location, as_location, cache_bytes, cache_exists, in_object_store, is_url
from mma.cache.writer import CacheWriter, must_match

__all__ = [
    "FEATURES",
    "PROJECTION",
    "SIDES",
    "STORES",
    "VERSION",
    "WITHOUT_FEATURES",
    "Bundle",
    "Cache",
    "CacheDiff",
    "CacheError",
    "CacheWriter",
    "Chunk",
    "FailedRow",
    "Fault",
    "Fingerprint",
    "FoundEmbeddings",
    "Header",
    "Location",
    "ManifestSplit",
    "Projection",
    "RepairReport",
    "Shard",
    "ShardWriter",
    "SplitData",
    "Status",
    "TextData",
    "VerifyReport",
    "as_location",
    "cache_bytes",
    "cache_exists",
    "check_name",
    "diff_caches",
    "discard_replacement",
    "export_cache",
    "fingerprint_diff",
    "import_export",
    "import_found",
    "import_npz",
    "in_object_store",
    "is_url",
    "mend",
    "mend_replacement",
    "merge_shards",
    "most_bytes",
    "must_match",
    "open_cache",
    "read_npy",
    "read_parquet",
    "refuse_if_locked",
    "replacement_place",
    "replacing",
    "verify",
    "write_bundle",
]
