"""How many rows are a unit of work: whole batches in every split, and so few that a crash loses little.

A batch holds `rows_in_batch` rows of a split with V views: the largest divisor of the batch size that the model can see
at once, V pictures each. So every split's batches divide `batch` rows, and a chunk is a multiple of that: a run that is
resumed repeats the batches of the first, whatever the views. The size of a chunk decides no bit of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

MOST_PICTURES = 1024  # in a chunk: about 1 MB
MOST_SECONDS = 30.0  # of work that a crash may lose


def rows_in_batch(batch: int, views: int) -> int:
    """Rows of `views` pictures each that the model sees at once, where it sees at most `batch` pictures."""
    most = max(1, batch // views)
    return next(rows for rows in range(most, 0, -1) if batch % rows == 0)


def rows_in_chunk(batch: int, views: Mapping[str, int], seconds: float = 0.0) -> int:
    """Rows in a chunk, by the `views` of each split and the `seconds` a picture takes: `batch` times a power of two.

    At most MOST_PICTURES pictures and MOST_SECONDS of work, but never less than `batch` rows.
    """
    pictures = min(MOST_PICTURES, MOST_SECONDS / seconds) if seconds else MOST_PICTURES
    batches = int(pictures / (max(views.values()) * batch))
    return batch << max(0, batches.bit_length() - 1)
