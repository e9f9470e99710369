"""What a row holds, as a hash of its bytes: what an image is known by, whatever it is called and wherever it lies."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.datasets.base import Pixels, Split
from mma.pipeline.errors import WorkError

ROW_FAULTS = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ENXIO, errno.ENODEV),  # a socket, a device that is none
}
UNKNOWN = bytes(32)  # the content hash of a row whose bytes cannot be read

Contents = Callable[[Split], NDArray[np.uint8]]  # a split -> [N, 32] the content hash of every row


def content_hash(data: bytes | Pixels) -> bytes:
    """SHA-256 of a row's bytes as they were read; of pixels, that of their PPM file (P6)."""
    if isinstance(data, np.ndarray):
        height, width, _ = data.shape
        data = f"P6\n{width} {height}\n255\n".encode() + data.tobytes()
    return hashlib.sha256(data).digest()


def row_content(split: Split, row: int) -> bytes:
    """The content hash of a row as it is now; UNKNOWN where it cannot be read. WorkError where the disk fails."""
    try:
        return content_hash(split.read(row))
    except OSError as error:
        if error.errno not in ROW_FAULTS and error.errno != errno.EFBIG:
            raise unreadable(split.paths[row], error) from error
        return UNKNOWN


def read_contents(split: Split) -> NDArray[np.uint8]:
    """[N, 32] of a split, by reading every row of it. Raises as `row_content`."""
    return as_array([row_content(split, row) for row in range(len(split.labels))])


def as_array(hashes: list[bytes]) -> NDArray[np.uint8]:
    """Hashes as [N, 32]."""
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, len(UNKNOWN))


def unreadable(path: str, error: OSError) -> WorkError:
    """A disk, or a network, that fails while a row is read."""
    return WorkError(
        f"{path} could not be read ({error.strerror or error}); what is done is kept: "
        "see to the disk, and run the same command again"
    )
