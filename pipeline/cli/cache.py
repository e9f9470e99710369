"""`mma cache ...`: look at caches, check and mend them, and exchange them with other programs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mma.pipeline.cli.console import AsJson, stderr, stdout
from mma.pipeline.cli.groups import Command, CommandGroup

if TYPE_CHECKING:
    from mma.cache import Location

cache_app = typer.Typer(
    name="cache",
    cls=CommandGroup,
    help="Look at caches, check and mend them, exchange them with other programs.",
    no_args_is_help=True,
)


@cache_app.command(cls=Command, name="info")
def cache_info(
    path: Annotated[str, typer.Argument(help="A cache, finished or not.")],
    similar: Annotated[bool, typer.Option("--similar", help="Instead, which classes are most alike.")] = False,
    json: AsJson = False,
) -> None:
    """What is in a cache, by which model, how complete, how large."""
    from mma.pipeline.caches.info import cache_info_json, show_cache_info
    from mma.pipeline.caches.similar import show_similar, similar_plain
    from mma.pipeline.json_text import to_json

    if similar and json:
        print(to_json(similar_plain(path), indent=2))
    elif similar:
        show_similar(path, stdout())
    elif json:
        print(cache_info_json(path))
    else:
        show_cache_info(path, stdout())


@cache_app.command(cls=Command, name="verify")
def cache_verify(path: Annotated[str, typer.Argument(help="A cache: a path, or any fsspec URL.")]) -> None:
    """Read every file against its checksum, the journal and the schema. Exit code 1 where anything is wrong."""
    from mma.pipeline.caches.check import verify_cache

    if not verify_cache(path, stdout(), stderr()):
        raise typer.Exit(1)


@cache_app.command(cls=Command, name="merge")
def cache_merge(path: Annotated[str, typer.Argument(help="A cache whose shards have all ended.")]) -> None:
    """Make a cache of finished shards complete. The last `mma embed --shard` does this by itself."""
    from mma.cache import as_location, merge_shards

    merge_shards(as_location(path))
    stderr().print(Text.assemble(f"{path} is complete. Next: ", (f"mma fit --cache {shlex.quote(path)}", "bold")))


@cache_app.command(cls=Command, name="repair")
def cache_repair(
    path: Annotated[str, typer.Argument(help="A cache: a path, or s3://.")],
    copy: Annotated[str | None, typer.Option("--from", help="Another copy of the same cache, to take from.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Where the images are now. Default: as embedded.")] = None,
    root: Annotated[Path | None, typer.Option(help="As for embed. Default: as embedded.")] = None,
    model: Annotated[str | None, typer.Option(help="As for embed. Default: as embedded.")] = None,
    pretrained: Annotated[str | None, typer.Option(help="As for embed. Default: as embedded.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    workers: Annotated[int | None, typer.Option(help="Threads that decode. Default: one per core.")] = None,
) -> None:
    """Bring a damaged cache back to the bytes it had; computes again only what is damaged."""
    from mma.cache import as_location
    from mma.pipeline.caches.repair import repair_cache

    given = {
        "dataset": dataset,
        "root": root,
        "model": model,
        "pretrained": pretrained,
        "device": device,
        "workers": workers,
    }
    mended = repair_cache(as_location(path), given, as_location(copy) if copy else None, stderr())
    for fault in mended.faults:
        stdout().print(str(fault))
    done = f"{len(mended.restored)} files restored, {len(mended.to_compute)} units computed again"
    stdout().print(f"{path}: {done}" if mended.faults or mended.to_compute else f"{path}: nothing is wrong")


@cache_app.command(cls=Command, name="diff")
def cache_diff(
    a: Annotated[str, typer.Argument(help="A cache.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    json: AsJson = False,
) -> None:
    """How two caches differ: fingerprint, classes, rows, embeddings. Exit code 1 where they do."""
    from mma.pipeline.caches.check import show_diff

    if not show_diff(a, b, stdout(), as_json=json):
        raise typer.Exit(1)


@cache_app.command(cls=Command, name="export")
def cache_export(
    path: Annotated[str, typer.Argument(help="A finished cache.")],
    out: Annotated[Path, typer.Option(help="NAME.npz, NAME.safetensors, or NAME.parquet (a folder).")],
) -> None:
    """Write a cache as a file for other programs. Imported again, it is the same cache."""
    from mma.cache import export_cache

    with _disk(out):
        stderr().print(f"{export_cache(path, out)} is written")


@cache_app.command(cls=Command, name="import")
def cache_import(
    out: Annotated[str, typer.Option(help="The cache to write: a path, or s3://.")],
    npz: Annotated[Path | None, typer.Option(help="image_<split>, label_<split>, text, classnames.")] = None,
    safetensors: Annotated[Path | None, typer.Option(help="A file that `mma cache export` wrote.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="A folder that `mma cache export` wrote.")] = None,
    tip_adapter: Annotated[Path | None, typer.Option(help="A folder of keys_*.pt, values_*.pt, test_*.pt.")] = None,
    clip_benchmark: Annotated[Path | None, typer.Option(help="A folder of features_*.pt, targets_*.pt.")] = None,
    clip_retrieval: Annotated[Path | None, typer.Option(help="A folder of img_emb/ and metadata/.")] = None,
    classnames: Annotated[
        Path | None, typer.Option(help="A file of class names, one per line, in label order.")
    ] = None,
    shots: Annotated[int | None, typer.Option(help="How many shots of a Tip-Adapter folder's support.")] = None,
    logit_scale: Annotated[float, typer.Option(help="exp(logit_scale) of the model.")] = 100.0,
    prompts: Annotated[str, typer.Option(help="Name of the prompt set.")] = "default",
) -> None:
    """Make a cache from embeddings computed elsewhere: name one source."""
    from mma.cache import CacheError, as_location, import_export, import_found, import_npz, write_bundle

    sources = {
        "--npz": npz,
        "--safetensors": safetensors,
        "--parquet": parquet,
        "--tip-adapter": tip_adapter,
        "--clip-benchmark": clip_benchmark,
        "--clip-retrieval": clip_retrieval,
    }
    _one_of(sources)
    place = as_location(out)
    with _disk(place):
        if npz is not None:
            import_npz(npz, place, logit_scale=logit_scale, prompts=prompts)
        elif (exported := safetensors or parquet) is not None:
            bundle = import_export(exported)
            if bundle is None:
                raise CacheError(f"{exported} was not exported by mma")
            write_bundle(bundle, place)
        else:
            from mma.pipeline.caches import convert as readers

            names = readers.read_classnames(classnames)
            if tip_adapter is not None:
                found, files = readers.tip_adapter(tip_adapter, shots, names)
            elif clip_benchmark is not None:
                found, files = readers.clip_benchmark(clip_benchmark, names)
            else:
                assert clip_retrieval is not None
                found, files = readers.clip_retrieval(clip_retrieval, names)
            import_found(found, files, place, logit_scale=logit_scale, prompts=prompts)
    _say_imported(out)


@contextmanager
def _disk(out: Location) -> Iterator[None]:
    """A disk that is full or fails, in one line."""
    from mma.pipeline.errors import WorkError

    try:
        yield
    except OSError as error:
        raise WorkError(
            f"{out} could not be written ({error.strerror or error}): remove what is there of it"
        ) from error


def _one_of(sources: dict[str, Path | None]) -> None:
    from mma.pipeline.errors import UsageError

    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        what = f"{' and '.join(given)} are given" if given else "no source is given"
        raise UsageError(f"{what}: name one of {', '.join(sources)}")


def _say_imported(out: str) -> None:
    from mma.cache import open_cache

    cache = open_cache(out)
    place = shlex.quote(out)
    following, why = f"mma fit --cache {place}", ""
    if not cache.prompts:
        following = f"mma embed --text-only --cache {place} --model NAME --pretrained TAG"
        why = ", which adds texts"
    stderr().print(Text.assemble(f"{out} is written. Next: ", (following, "bold"), why))
