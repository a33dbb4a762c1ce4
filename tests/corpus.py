"""Broken and odd input, made anew for each run of the tests: pictures, captions, facts about samples, and tars."""

import io
import os
import struct
import tarfile
import zlib

import numpy as np
from making import CLASSES, Members, drawing, pair, tar
from PIL import Image

END = bytes(1024)
"""Of a tar."""
IMAGE = drawing(CLASSES[0], 0)


def encoded(image: Image.Image, kind: str, **how) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def noise(width_px: int, height_px: int, seed: int) -> Image.Image:
    """No two are alike, nor are they when turned or cut."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height_px // 4 + 1, width_px // 4 + 1, 3), np.uint8)
    return Image.fromarray(pixels).resize((width_px, height_px))


def animated(kind: str, seed: int) -> bytes:
    frames = [noise(20, 16, seed + n) for n in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def turned() -> bytes:
    """A JPEG that asks to be shown on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(32, 16, 30), "JPEG", exif=exif)


def palette() -> bytes:
    """With transparency, in the palette and of a single colour."""
    image = noise(20, 20, 31).convert("P", palette=Image.Palette.ADAPTIVE)
    return encoded(image, "PNG", transparency=bytes(range(256)))


def png(width_px: int, height_px: int, mode: tuple[int, int] = (8, 0), rows: bytes = b"") -> bytes:
    """A PNG that says so; `mode` is its bit depth and colour type, `rows` its uncompressed data."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, *mode, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    checked = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(checked)


def rgb16() -> bytes:
    pixels = np.random.default_rng(32).integers(0, 1 << 16, (12, 12, 3), np.uint16)
    return png(12, 12, (16, 2), b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels))


def grey(mode: str, kind: str) -> bytes:
    return encoded(Image.fromarray(np.full((8, 8), 30_000, "<u2")).convert(mode), kind)


def odd_pictures() -> dict[str, bytes]:
    """By file name: each can be used, as PIL opens it whatever its suffix says."""
    return {
        "png-called.jpg": encoded(noise(20, 20, 1), "PNG"),
        "gif-called.png": encoded(noise(20, 20, 2), "GIF"),
        "tiff-called.webp": encoded(noise(20, 20, 3), "TIFF"),
        "animated.webp": animated("WEBP", 4),
        "animated-png.png": animated("PNG", 8),
        "animated-gif.jpg": animated("GIF", 12),
        "cmyk.jpg": encoded(noise(20, 20, 16).convert("CMYK"), "JPEG"),
        "grey.jpeg": encoded(noise(20, 20, 17).convert("L"), "JPEG"),
        "alpha.png": encoded(noise(20, 20, 18).convert("LA"), "PNG"),
        "rgb16.png": rgb16(),
        "palette.png": palette(),
        "bilevel.PNG": encoded(noise(20, 20, 19).convert("1"), "PNG"),
        "progressive.jpg": encoded(noise(40, 40, 20), "JPEG", progressive=True),
        "turned.jpg": turned(),
        "dot.jpg": encoded(noise(1, 1, 21), "JPEG"),
        "wide.png": encoded(noise(3000, 10, 22), "PNG"),
        "high.webp": encoded(noise(2, 600, 23), "WEBP"),
    }


def unusable_pictures() -> dict[str, tuple[bytes, str]]:
    """By file name, with what the reason begins with."""
    whole, no_picture = encoded(noise(64, 64, 40), "JPEG"), "the image does not decode: "
    most = Image.MAX_IMAGE_PIXELS or 0
    return {
        "text-called.png": (b"not an image", no_picture),
        "empty.png": (b"", no_picture),
        "cut.jpg": (whole[: len(whole) * 2 // 3], no_picture),
        "head.jpg": (whole[:20], no_picture),
        "grey16.png": (grey("I;16", "PNG"), "grey of more than 8 bits"),
        "grey32.png": (grey("F", "TIFF"), "grey of more than 8 bits"),
        "bomb.png": (png(60_000, 60_000), "too large: Image size (3600000000 pixels) exceeds limit"),
        "warned.png": (png(10_000, most // 10_000 + 1), "too large: Image size (89480000 pixels) exceeds limit"),
        "line.png": (png(1, 60_000, rows=bytes(2 * 60_000)), "too narrow: 1 x 60,000 px"),
    }


CAPTIONS = {
    "emoji": "👩‍🚀 the astronaut 🇫🇷".encode(),
    "nul": b"a \0 b",
    "lines": b"one\r\ntwo\nthree\r",
    "empty": b"",
    "long": "wörter und 語 ".encode() * 6_000,
    "marked": "\ufeffa byte order mark".encode(),
    "quotes": b"\"quoted\", 'so'; drop table samples; -- \\ \t | a,b",
    "formula": b"=1+1",
    "control": bytes(range(1, 32)) + b"\x7f",
    "noncharacter": "\uffff\U0010ffff\u202e\u2028".encode(),
    "html": b"</script><script>alert(1)</script>&amp;",
}
NOT_UTF8 = {
    "surrogate": b"\xed\xa0\x80",
    "latin": b"caf\xe9",
    "utf16": "caf\xe9".encode("utf-16"),
    "long-nul": b"\xc0\x80",
}
FACTS = {
    "list": (b"[1, 2]", None, None),
    "text": (b'"x"', None, None),
    "null": (b"null", None, None),
    "nan": (b'{"source": NaN, "licence": -Infinity}', None, None),
    "nul": (b'{"source": "a\\u0000b", "licence": "\\ud83d"}', "a\0b", "?"),
    "types": (b'{"source": {"a": [1]}, "license": 7}', "{'a': [1]}", "7"),
    "marked": (b"\xef\xbb\xbf{}", None, None),
    "twice": (b'{"source": "x", "source": "y"}', "y", None),
}
"""A sample's .json, and the source (None: the data set) and licence to be read from it."""
NO_JSON = {"deep": b"[" * 100_000, "digits": b"1" * 5_000, "two": b"{}{}", "empty": b"", "raw-nul": b'{"a": "\0"}'}
KEYS = [
    "a key", "100%25", "x/y/z", "v1.2/k", "schlüssel-鍵", "it's \"it\"", "k" * 300, "d" * 200 + "/" + "k" * 200, "a,b;c",
    "a\nb", "a+b&c=d#e?f", "[a]*{b}",
]  # fmt: skip
"""Good keys, each of one sample."""


def pictured(pictures: dict[str, bytes]) -> Members:
    """A sample for each: its key is the part of the file name before the dot, and so is its caption."""
    return [
        member
        for name, data in pictures.items()
        for member in ((name, data), (f"{name.partition('.')[0]}.txt", name.partition(".")[0].encode()))
    ]


def with_part(key: str, suffix: str, data: bytes) -> Members:
    """A good sample of which one part is this."""
    return [*((name, old) for name, old in pair(key) if not name.endswith(f".{suffix}")), (f"{key}.{suffix}", data)]


def entry(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, size: bytes | None = None, link: str = ""
) -> bytes:
    """A member as its blocks; a given `size` field stands there with a right checksum, true or not."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if size is not None:
        header[124:136], header[148:156] = size, b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % 512)


def records(**given: bytes) -> bytes:
    """The data of a PAX header."""
    lines = (b" " + name.replace("__", ".").encode() + b"=" + value + b"\n" for name, value in given.items())
    return b"".join(b"%d" % (len(line) + len(str(len(line) + 3))) + line for line in lines)


def pax(name: str, data: bytes, **given: bytes) -> bytes:
    """A member with a PAX header before it."""
    return entry("pax", records(**given), tarfile.XHDTYPE) + entry(name, data)


def sparse(name: str, size: int, data: bytes) -> bytes:
    """A member that would be of so many bytes: `data`, and holes."""
    table = f"1\n{size - len(data)}\n{len(data)}\n".encode().ljust(512, b"\0")
    given = {"GNU__sparse__major": b"1", "GNU__sparse__minor": b"0", "GNU__sparse__name": name.encode()}
    return pax(name, table + data, **given, GNU__sparse__realsize=b"%d" % size)


def blocks(members: Members) -> bytes:
    """A tar without its end."""
    return b"".join(entry(name, data) for name, data in members)


GOOD = blocks([*pair("a", 1), *pair("b", 2)])
LAST = blocks(pair("z", 3))


def with_formats(form: int) -> bytes:
    """Names too long for a plain header, in one of tar's ways to say them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in [*pair("ü" * 120 + "/" + "k" * 290, 1), *pair("b", 2)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def odd_tars() -> dict[str, bytes]:
    """Whole ones, in which every sample can be used but those whose image or caption is no file."""
    image, caption, _ = pair("l", 4)
    return {
        "pax names": with_formats(tarfile.PAX_FORMAT),
        "gnu names": with_formats(tarfile.GNU_FORMAT),
        "links": GOOD + entry("l.png", kind=tarfile.LNKTYPE, link="a.png") + entry(*caption) + LAST + END,
        "symbolic links": GOOD + entry(*image) + entry("l.txt", kind=tarfile.SYMTYPE, link="a.txt") + LAST + END,
        "folders": GOOD + entry("d/", kind=tarfile.DIRTYPE) + entry("d.png/", kind=tarfile.DIRTYPE) + LAST + END,
        "devices": GOOD + entry("p.png", kind=tarfile.FIFOTYPE) + entry("c.png", kind=tarfile.CHRTYPE) + LAST + END,
        "holes": GOOD + sparse("l.txt", 300, b"caption") + entry(*image) + LAST + END,
        "interleaved": blocks([m for two in zip(pair("a", 1), pair("b", 2), strict=True) for m in two]) + LAST + END,
        "unsorted": blocks([*reversed(pair("z", 1)), *reversed(pair("a", 2))]) + END,
        "suffix again": blocks([*pair("a", 1), *pair("a", 2)]) + LAST + END,
        "two pictures": blocks([("t.jpeg", IMAGE), ("t.png", drawing(CLASSES[1], 5)), ("t.txt", b"c")]) + LAST + END,
        "nested suffix": blocks([("n.seg.png", IMAGE), *pair("n", 6)]) + LAST + END,
        "capitals": blocks([("C.PNG", IMAGE), ("C.TXT", b"c")]) + LAST + END,
        "hidden": blocks([("d/._a.png", b"x"), ("._b.png", b"x"), ("d/a.png", IMAGE), ("d/a.txt", b"c")]) + LAST + END,
        "no name": blocks([(".png", IMAGE), ("d/.txt", b"c"), ("name", b"x"), ("x.", b"x")]) + LAST + END,
        "remarks": blocks([("__head__", b"x"), ("__head__/a.png", b"x"), ("__a.png", IMAGE), ("__a.txt", b"c")])
        + LAST
        + END,
        "a nul in a name": GOOD
        + pax("n.png", IMAGE, path=b"n\0l.png")
        + pax("n.txt", b"c", path=b"n\0l.txt")
        + LAST
        + END,
        "not utf-8": GOOD + entry(os.fsdecode(b"caf\xe9.png"), IMAGE) + LAST + END,
        "padded": GOOD + LAST + bytes(20 * 512),
        "no padding": GOOD + LAST + END,
        "unknown kind": GOOD + entry("q.png", IMAGE, b"Q") + LAST + END,
    }


def size_field(size: int) -> bytes:
    """As GNU tar writes what octal digits cannot say."""
    return (size % (1 << 96) if size < 0 else size | 1 << 95).to_bytes(12, "big")


def broken_tars() -> dict[str, tuple[bytes, str]]:
    """Tars, and what is said of them; sample `a` is whole in each but the first four."""
    more, plain = entry("b.png", b"x"), tar(pair("q"))
    end = "the shard's end is missing"
    behind = "more lies behind the tar's end"
    return {
        "empty": (b"", "empty file"),
        "a header cut": (GOOD[:300], "not a whole tar: "),
        "a page": (b"<html>404</html>" * 100, "not a whole tar: "),
        "compressed": (zlib.compress(GOOD + END), "not a whole tar: "),
        "cut in a header": (GOOD + LAST[:100], end),
        "cut in a member": (GOOD + LAST[: 512 + 100], "unexpected end of data"),
        "cut at a member": (GOOD + LAST[:1024], "unexpected end of data"),
        "without its end": (GOOD + LAST, end),
        "half its end": (GOOD + LAST + END[:512], end),
        "an end within": (GOOD + END[:512] + LAST + END, end),
        "a second tar": (GOOD + END + plain, behind),
        "a second tar after padding": (GOOD + bytes(20 * 512) + plain, behind),
        "garbage": (GOOD + END + b"garbage", behind),
        "far garbage": (GOOD + END + bytes(3 << 20) + b"!", behind),
        "a bad checksum": (GOOD + b"x" + LAST[1:] + END, end),
        "a negative size": (GOOD + entry("n.png", size=size_field(-512)) + more + END, "n.png would have -512 bytes"),
        "a size beyond reason": (GOOD + entry("n.png", size=size_field(1 << 70)) + more + END, "bytes"),
        "a size beyond the tar": (GOOD + entry("n.png", size=size_field(1 << 29)) + more + END, "unexpected end of data"),
        "a negative long size": (GOOD + pax("n.png", b"", size=b"-1024") + more + END, "n.png would have -1,024 bytes"),
        "a long name of -1": (GOOD + entry("n", b"", b"L", size_field(-512)) + more + END, "not a whole tar: "),
        "a header without end": (GOOD + entry("n", records(path=b"q"), b"x") * 3000 + END, "not a whole tar: "),
        "a bomb of holes": (GOOD + sparse("h.png", 99_999_999_999, b"x") + END, "h.png would have 99,999,999,999 bytes"),
        "nonsense holes": (GOOD + pax("h.png", b"x", GNU__sparse__map=b"0,1,x", GNU__sparse__size=b"1") + END, "not a"),
        "named in bytes": (GOOD + entry(os.fsdecode(b"caf\xe9.png"), size=size_field(-1)) + END, "would have -1 bytes"),
    }  # fmt: skip
