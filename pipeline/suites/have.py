"""What is there of a data set: its cache, its images, or what must be fetched? Opens no image, and fetches nothing."""

from __future__ import annotations

from dataclasses import dataclass

from mma.cache import CacheError, Header, Location, cache_exists, open_cache
from mma.pipeline.datasets import DATA, entries, known
from mma.pipeline.datasets.published import find_place, lacking
from mma.pipeline.embedding.checks import cache_path
from mma.pipeline.embedding.settings import USUAL_MODEL, EmbedSettings
from mma.pipeline.errors import UsageError
from mma.pipeline.progress import size
from mma.pipeline.regular_files import expanded


@dataclass(frozen=True)
class Have:
    """What is there, and what is to be done until there is a cache."""

    path: Location  # of the cache
    complete: bool = False  # whether there is a cache with all images
    texts: tuple[str, ...] = ()  # prompt sets that a complete cache lacks
    images: str = ""  # where they are, in words
    fetch: int | None = 0  # bytes to fetch; None where they are not known
    pictures: int | None = None  # images to embed; None where they are not known
    refused: str = ""  # why there can be no cache


def look(settings: EmbedSettings) -> Have:
    """What is there of the data set that the settings name."""
    path = cache_path(settings)
    if cache_exists(path):
        try:
            cache = open_cache(path, partial=True)
            if cache.complete:
                _check_cache(path, cache.header, settings)
                texts = tuple(name for name in settings.prompts.split(",") if name not in cache.prompts)
                return Have(path, complete=True, texts=texts, images="not needed", pictures=0)
        except (CacheError, UsageError) as error:
            return Have(path, images="not needed", refused=str(error))
    name, root = settings.dataset or "", settings.root or DATA
    if name not in entries():
        there = name in known() or name.startswith("hf:") or expanded(name).exists()
        return Have(path, images="there") if there else Have(path, images="none", refused=f"there is no {name}")
    entry = entries()[name]
    place, count = find_place(entry, root), entry.files or sum(entry.counts.values())
    if place is not None and not lacking(place):
        return Have(path, images="there", pictures=count)
    wanted = [archive for archive in entry.archives if not (root / archive.gives).exists()]
    if not wanted or not settings.download:
        where = f"{name} is not in {root}" if place is None else f"{place.base} lacks {', '.join(lacking(place))}"
        return Have(path, images="none", refused=f"{where}: `mma datasets check {name} --root {root}` says what to do")
    fetch = sum(archive.bytes or 0 for archive in wanted) if all(archive.bytes for archive in wanted) else None
    return Have(path, images=f"fetch {size(fetch)}" if fetch else "fetch", fetch=fetch, pictures=count)


def _check_cache(path: Location, header: Header, settings: EmbedSettings) -> None:
    """Refuse a cache that is not what a suite asks for. An imported one does not know its model, and is taken."""
    wanted = (settings.model or USUAL_MODEL, settings.pretrained)
    made_by = (header.source.get("model"), header.source.get("pretrained"))
    if made_by[0] and made_by != wanted:
        raise UsageError(
            f"{path} is of {' '.join(map(str, made_by))}, not of {' '.join(wanted)}: use another `caches=FOLDER`"
        )
    for split in settings.view_splits:
        if header.views.get(split, settings.views) < settings.views:
            raise UsageError(
                f"{path} has {header.views[split]} of {settings.views} views of a {split} image: "
                "use another `caches=FOLDER`"
            )
