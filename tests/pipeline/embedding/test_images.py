"""Sixty-odd broken and hostile files, each with its right pixels or its reason; and the memory that they take."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mma.cache import Status
from mma.pipeline.datasets.folder import FileSplit, image_paths
from mma.pipeline.datasets.image_files import MAX_BYTES
from mma.pipeline.embedding import images
from mma.pipeline.embedding.images import BYTES_PER_PIXEL, BadImage, decode, own_bound
from mma.pipeline.errors import WorkError


@pytest.fixture(autouse=True)
def _own_bound() -> Iterator[None]:
    with own_bound():
        yield


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colours() -> Image.Image:
    """32 x 24: red, green, blue and white quarters."""
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:12, :16, 0] = pixels[:12, 16:, 1] = pixels[12:, :16, 2] = 255
    pixels[12:, 16:] = 255
    return Image.fromarray(pixels)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours of the four quarters, rounded to 0 or 1: top left, top right, bottom left, bottom right."""
    width, height = image.size
    at = [(width // 4, height // 4), (3 * width // 4, height // 4)]
    at += [(x, 3 * height // 4) for x, _ in at]
    return [tuple(round(value / 255) for value in image.getpixel(place)) for place in at]  # type: ignore[union-attr]


RIGHT = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]


def rotated(orientation: int) -> bytes:
    """A JPEG whose EXIF says how to turn it upright; upright, it is `colours`."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = colours() if undo is None else colours().transpose(undo)
    return saved(stored, "JPEG", quality=95, exif=exif)


def see_through(mode: str) -> bytes:
    """A picture whose right half is transparent over a colour that must not show."""
    rgba = np.asarray(colours().convert("RGBA")).copy()
    rgba[:12, 16:] = (255, 0, 255, 0)
    rgba[12:, 16:] = (0, 0, 0, 0)
    image = Image.fromarray(rgba)
    if mode == "P":
        palette = Image.new("P", (32, 24), 4)
        palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255, 255, 0, 255])
        palette.paste(0, (0, 0, 16, 12))
        palette.paste(2, (0, 12, 16, 24))
        return saved(palette, "PNG", transparency=bytes([255, 255, 255, 255, 0]))
    return saved(image, mode)


CLEAR = [(1, 0, 0), (1, 1, 1), (0, 0, 1), (1, 1, 1)]


def grey(kind: str, dtype: str) -> bytes:
    values = np.full((24, 32), 65535, np.uint16)
    values[:12] = 0
    values[12:, :16] = 32896
    return saved(Image.fromarray(values.astype(dtype)), kind)


def sixteen_bit_rgb_png() -> bytes:
    rows = np.asarray(colours()).astype(">u2") * 257
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    return png(32, 24, 16, 2, raw)


def png(width: int, height: int, bits: int, colour: int, raw: bytes, more: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )


def animated(kind: str) -> bytes:
    others = [Image.new("RGB", (32, 24), colour) for colour in ("black", "yellow")]
    return saved(
        colours(),
        kind,
        save_all=True,
        append_images=others,
        duration=50,
        **({"lossless": True} if kind == "WEBP" else {}),
    )


def with_junk_exif() -> bytes:
    return saved(colours(), "JPEG", quality=95, exif=b"Exif\0\0" + b"MM\0*\xff\xff\xff\xff" + os.urandom(64))


READ = {
    "jpeg": lambda: saved(colours(), "JPEG", quality=95),
    "progressive jpeg": lambda: saved(colours(), "JPEG", quality=95, progressive=True),
    "png": lambda: saved(colours(), "PNG"),
    "bmp": lambda: saved(colours(), "BMP"),
    "webp": lambda: saved(colours(), "WEBP", lossless=True),
    "tiff": lambda: saved(colours(), "TIFF"),
    "tiff lzw": lambda: saved(colours(), "TIFF", compression="tiff_lzw"),
    "ppm": lambda: saved(colours(), "PPM"),
    "gif": lambda: saved(colours(), "GIF"),
    "palette png": lambda: saved(colours().quantize(8), "PNG"),
    "cmyk jpeg": lambda: saved(colours().convert("CMYK"), "JPEG", quality=95),
    "cmyk tiff": lambda: saved(colours().convert("CMYK"), "TIFF"),
    "ycbcr tiff": lambda: saved(colours().convert("YCbCr"), "TIFF"),
    "16-bit rgb png": sixteen_bit_rgb_png,
    "animated gif": lambda: animated("GIF"),
    "animated webp": lambda: animated("WEBP"),
    "animated png": lambda: animated("PNG"),
    "several pages": lambda: animated("TIFF"),
    "junk exif": with_junk_exif,
    "bytes behind the image": lambda: saved(colours(), "PNG") + os.urandom(1000),
    "opaque rgba": lambda: saved(colours().convert("RGBA"), "PNG"),
    **{f"exif orientation {n}": (lambda n=n: rotated(n)) for n in range(1, 9)},
}
READ_TRANSPARENT = {
    "transparent png": lambda: see_through("PNG"),
    "transparent webp": lambda: saved(Image.open(io.BytesIO(see_through("PNG"))), "WEBP", lossless=True),
    "transparent tiff": lambda: see_through("TIFF"),
    "transparent palette": lambda: see_through("P"),
}


@pytest.mark.parametrize("name", READ)
def test_every_kind_of_image_gives_its_right_pixels(name: str) -> None:
    image = decode(READ[name]())
    assert image.mode == "RGB"
    assert image.size == (32, 24)
    assert corners(image) == RIGHT


@pytest.mark.parametrize("name", READ_TRANSPARENT)
def test_what_is_transparent_is_white(name: str) -> None:
    assert corners(decode(READ_TRANSPARENT[name]())) == CLEAR


def test_half_transparent_is_half_way_to_white() -> None:
    half = saved(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG")
    assert decode(half).getpixel((0, 0)) == (127, 127, 127)


def test_the_one_transparent_colour_of_an_rgb_png_is_white() -> None:
    raw = b"".join(b"\0" + row.tobytes() for row in np.asarray(colours()))
    clear_green = struct.pack(">I", 6) + b"tRNS" + struct.pack(">HHH", 0, 255, 0)
    clear_green += struct.pack(">I", zlib.crc32(clear_green[4:]))
    assert corners(decode(png(32, 24, 8, 2, raw, clear_green))) == CLEAR


@pytest.mark.parametrize(("kind", "dtype"), [("PNG", "uint16"), ("TIFF", "uint16"), ("TIFF", "int32")])
def test_sixteen_bits_of_grey_become_eight(kind: str, dtype: str) -> None:
    image = decode(grey(kind, dtype))
    values = [image.getpixel(place) for place in ((0, 0), (0, 20), (20, 20))]
    assert values == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def test_sixteen_to_eight_bits_is_rounded_for_every_value() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    eight = np.asarray(decode(saved(Image.fromarray(values), "PNG")))[..., 0]
    assert np.array_equal(eight, np.round(values / 257).astype(np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_in_any_mode_is_grey(mode: str) -> None:
    image = decode(saved(Image.new("L", (4, 4), 255).convert(mode), "PNG"))
    assert image.getpixel((1, 1)) == (255, 255, 255)


def lying_png(width: int, height: int) -> bytes:
    """A few bytes that claim to be a large picture."""
    return png(width, height, 8, 2, b"\0" * 100)


def lying_gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + saved(colours(), "GIF")[10:]


def bomb(side: int) -> bytes:
    """A true picture of side x side, in a few kilobytes."""
    return saved(Image.new("1", (side, side)), "PNG")


BROKEN = {
    "nothing": lambda: b"",
    "one byte": lambda: b"\xff",
    "text": lambda: b"hello",
    "zeros": lambda: bytes(5000),
    "noise": lambda: np.random.default_rng(0).bytes(5000),
    "html": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/mma-was-here) (w) file closefile\n",
    "pdf": lambda: saved(colours(), "PDF"),
    "icon": lambda: saved(colours(), "ICO", sizes=[(16, 16)]),
    "zip": lambda: b"PK\x03\x04" + bytes(100),
    "pickle": lambda: b"\x80\x04cos\nsystem\n(S'touch /tmp/mma-was-here'\ntR.",
    "elf": lambda: b"\x7fELF" + bytes(100),
    "html called jpeg": lambda: b"\xff\xd8\xff\xe0<html>",
    **{
        f"{kind} header only".lower(): (lambda k=kind: saved(colours(), k)[:20])
        for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
    },
    **{
        f"{kind} cut in half".lower(): (lambda k=kind: saved(noise(), k)[: len(saved(noise(), k)) // 2])
        for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
    },
    "png with a wrong checksum": lambda: damaged(saved(noise(), "PNG"), 60),
    "floating-point tiff": lambda: saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
    "no width": lambda: lying_png(0, 10),
    "no pixels in a gif": lambda: lying_gif(0, 0)[:13],
    "larger than its data": lambda: lying_png(4000, 4000),
}
TOO_LARGE = {
    "claims 100,000 x 100,000": lambda: lying_png(100_000, 100_000),
    "claims two thousand million": lambda: lying_png(2_000_000_000, 1),
    "gif claims 65,535 x 65,535": lambda: lying_gif(65_535, 65_535),
    "bomb of 100 million pixels": lambda: bomb(10_000),
    "bomb of 200 million pixels": lambda: bomb(14_200),
}


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def test_there_are_sixty_of_them() -> None:
    assert len(READ) + len(READ_TRANSPARENT) + len(BROKEN) + len(TOO_LARGE) >= 60


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_unreadable_with_a_reason_of_one_line(name: str) -> None:
    with pytest.raises(BadImage) as bad:
        decode(BROKEN[name]())
    assert bad.value.status == Status.UNREADABLE
    assert bad.value.reason
    assert "\n" not in bad.value.reason
    assert not Path("/tmp/mma-was-here").exists()


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_bomb_is_refused_by_its_header(name: str) -> None:
    with pytest.raises(BadImage) as bad:
        decode(TOO_LARGE[name]())
    assert bad.value.status == Status.TOO_LARGE


def test_max_pixels_is_the_bound() -> None:
    small = saved(colours(), "PNG")
    assert decode(small, max_pixels=32 * 24).size == (32, 24)
    with pytest.raises(BadImage, match=r"32 x 24 pixels; at most 767 are decoded \(max_pixels\)"):
        decode(small, max_pixels=32 * 24 - 1)


LONG = {  # width, height: a few kilobytes that would be gigabytes at a model's 224 pixels
    "40 million to one": lambda: saved(Image.new("1", (40_000_000, 1)), "PNG"),
    "one to 33 million": lambda: saved(Image.new("1", (1, 33_000_000)), "PNG"),
    "a jpeg of 65,500 to one": lambda: saved(Image.new("L", (65_500, 1)), "JPEG"),
    "a gif that claims 65,535 to one": lambda: lying_gif(65_535, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_pixels_are_counted_after_scaling_too(name: str) -> None:
    with pytest.raises(BadImage, match=r"when its short side is 224; at most 89,478,485 are made") as bad:
        decode(LONG[name](), side=224)
    assert bad.value.status == Status.TOO_LARGE


def test_an_ordinary_picture_is_read_whatever_the_model_makes_of_it() -> None:
    small = saved(Image.new("RGB", (64, 4)), "PNG")
    assert decode(small, max_pixels=64 * 4, side=336).size == (64, 4)
    with pytest.raises(BadImage, match="when its short side is 336"):
        decode(saved(Image.new("RGB", (65, 4)), "PNG"), max_pixels=65 * 4, side=336)


def test_pillows_own_bound_and_warnings_are_those_of_the_caller_afterwards() -> None:
    before, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with own_bound():
        assert Image.MAX_IMAGE_PIXELS is None
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == (before, filters)


def test_a_lack_of_memory_is_not_called_a_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_upright", full)
    with pytest.raises(MemoryError):
        decode(saved(colours(), "PNG"))


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGE", 100)
    data, busy, most = saved(colours(), "PNG"), 0, 0
    guard = threading.Lock()

    def use() -> None:
        nonlocal busy, most
        for _ in range(20):
            with images.decoded(data):
                with guard:
                    busy, most = busy + 1, max(most, busy + 1)
                threading.Event().wait(0.001)
                with guard:
                    busy -= 1

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


HUNGRY = {
    "rgba png": 'image("RGBA").save(stream, "PNG", compress_level=1)',
    "progressive cmyk jpeg": 'image("CMYK").save(stream, "JPEG", progressive=True)',
    "turned jpeg": 'image("RGB").save(stream, "JPEG", exif=turned)',
    "16-bit png": 'Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(stream, "PNG", compress_level=1)',
    "palette gif": 'image("P").save(stream, "GIF", transparency=0)',
    "tiff": 'image("RGBA").save(stream, "TIFF", compression="tiff_deflate")',
    "webp": 'image("RGBA").save(stream, "WEBP", method=0)',
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", HUNGRY)
def test_decoding_stays_below_the_stated_memory(name: str) -> None:
    side = 3000
    make = f"""
        import io, sys
        import numpy as np
        from PIL import Image
        SIDE = {side}
        turned = Image.Exif(); turned[0x0112] = 6
        image = lambda mode: Image.new(mode, (SIDE, SIDE))
        stream = io.BytesIO()
        {HUNGRY[name]}
        sys.stdout.buffer.write(stream.getvalue())
    """
    measure = """
        import sys
        from mma.pipeline.embedding.images import decode
        from mma.pipeline.datasets.base import Pixels
        def peak():
            return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
        data = sys.stdin.buffer.read()
        before = peak()
        image = decode(data)
        print(peak() - before)
    """
    file = subprocess.run([sys.executable, "-c", textwrap.dedent(make)], capture_output=True, check=True).stdout
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(measure)], input=file, capture_output=True, check=True)
    assert int(ran.stdout) < BYTES_PER_PIXEL * side * side


@pytest.fixture
def files(tmp_path: Path) -> FileSplit:
    """A data set's folder, with something secret beside it."""
    root = tmp_path / "set"
    (root / "cat").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(saved(colours(), "PNG"))
    (root / "cat/good.png").write_bytes(saved(colours(), "PNG"))
    return FileSplit(root, [], np.zeros(0, np.int32))


def read(files: FileSplit, path: str) -> bytes:
    return FileSplit(files.root, [path], np.zeros(1, np.int32)).read(0)


def test_a_link_that_stays_in_the_folder_is_followed(files: FileSplit) -> None:
    (files.root / "cat/link.png").symlink_to("good.png")
    assert corners(decode(read(files, "cat/link.png"))) == RIGHT


@pytest.mark.parametrize("target", ["../../secret.png", "/etc/passwd", "../../nothing.png", "../.."])
def test_a_link_that_leaves_the_folder_is_not_read(target: str, files: FileSplit) -> None:
    (files.root / "cat/link.png").symlink_to(target)
    with pytest.raises(PermissionError, match="leaves the data set's folder"):
        read(files, "cat/link.png")


def test_a_folder_that_is_a_link_out_is_not_read(files: FileSplit, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").write_bytes(b"x")
    (files.root / "dog").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="leaves the data set's folder"):
        read(files, "dog/a.png")


def test_a_data_set_behind_a_link_is_read(files: FileSplit, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(files.root)
    assert read(FileSplit(tmp_path / "alias", [], files.labels), "cat/good.png")


def test_links_in_a_circle_are_missing(files: FileSplit) -> None:
    (files.root / "cat/a.png").symlink_to("b.png")
    (files.root / "cat/b.png").symlink_to("a.png")
    with pytest.raises(OSError, match=r"symbolic links|leaves"):
        read(files, "cat/a.png")


def test_pipes_sockets_and_folders_are_refused_without_waiting(
    files: FileSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(files.root / "cat/pipe.png")
    (files.root / "cat/folder.png").mkdir()
    monkeypatch.chdir(files.root)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("cat/socket.png")
    for name in ("pipe.png", "folder.png", "socket.png"):
        with pytest.raises(PermissionError, match="not a regular file"):
            read(files, f"cat/{name}")


def test_a_name_that_is_not_utf_8_is_read_by_the_name_that_is_shown(files: FileSplit) -> None:
    name = os.fsdecode(b"cat/caf\xe9 \\.png")
    (files.root / name).write_bytes(b"x")
    (shown,) = (path for path in image_paths(files.root, "cat") if "caf" in path)
    assert shown == "cat/caf\\xe9 \\\\.png"
    assert read(files, shown) == b"x"
    with pytest.raises(FileNotFoundError):
        read(files, "cat/\\ud83d.png")  # which no file can be called


def test_a_file_of_gigabytes_is_refused_unread(files: FileSplit) -> None:
    with (files.root / "cat/huge.png").open("wb") as huge:
        huge.truncate(40 * MAX_BYTES)
    with pytest.raises(OSError, match="at most 268,435,456 are read"):
        read(files, "cat/huge.png")


def test_a_file_that_is_gone_is_missing_and_a_folder_that_is_gone_ends_the_run(files: FileSplit) -> None:
    with pytest.raises(FileNotFoundError):
        read(files, "cat/gone.png")
    (files.root / "cat/good.png").unlink()
    (files.root / "cat").rmdir()
    with pytest.raises(WorkError, match=r"the data set's folder .* is gone"):
        read(files, "cat/good.png")
    files.root.rmdir()
    with pytest.raises(WorkError, match=r"the data set's folder .* is gone"):
        read(files, "cat/good.png")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_all_the_hostile_files_together_take_little_memory_and_time(tmp_path: Path) -> None:
    made = {**READ, **READ_TRANSPARENT, **BROKEN, **TOO_LARGE}
    for number, make in enumerate(made.values()):
        (tmp_path / str(number)).write_bytes(make())
    decode_all = """
        import sys, time
        from pathlib import Path
        from mma.pipeline.embedding.images import BadImage, decode, own_bound
        def peak():
            return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
        before, start, bad = peak(), time.process_time(), 0
        with own_bound():
            for file in Path(sys.argv[1]).iterdir():
                try:
                    decode(file.read_bytes())
                except BadImage:
                    bad += 1
        print(peak() - before, time.process_time() - start, bad)
    """
    command = [sys.executable, "-c", textwrap.dedent(decode_all), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    memory, seconds, bad = ran.stdout.split()
    assert int(bad) == len(BROKEN) + len(TOO_LARGE)
    assert int(memory) < BYTES_PER_PIXEL * 4000 * 4000  # the largest that is allowed claims 4,000 x 4,000
    assert float(seconds) < 10
    assert "Traceback" not in ran.stderr
