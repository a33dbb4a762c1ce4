"""Icons of an iconify set (https://iconify.design/docs/types/iconify-json.html) as pixels, captions and classes. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import resvg_py

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="black"'
    ' viewBox="{left:g} {top:g} {side:g} {side:g}">{body}</svg>'
)


@dataclass(frozen=True)
class Icon:
    """An icon of a set: `name` is kebab-case, `licence` an SPDX identifier."""

    set: str
    name: str
    svg: str
    licence: str

    @property
    def caption(self) -> str:
        return self.name.replace("-", " ")

    @property
    def order(self) -> str:
        """Sorting by this interleaves the sets."""
        return sha256(f"{self.set}:{self.name}".encode()).hexdigest()


def read_set(document: dict[str, Any], most: int | None = None) -> list[Icon]:
    """A set's icons, without skin tones; at most so many, the first by the hash of their names.

    Aliases (an icon under another name, turned or mirrored) and icons that the set hides (renamed or withdrawn) stay out.
    """
    names = [name for name, icon in document["icons"].items() if not icon.get("hidden")]
    names = sorted(without_skin_tones(names), key=lambda name: sha256(name.encode()).hexdigest())[:most]
    licence = document["info"]["license"]["spdx"]
    return [Icon(document["prefix"], name, to_svg(document, name), licence) for name in names]


def without_skin_tones(names: Iterable[str]) -> list[str]:
    """The names that are no skin tone's variant of another.

    A variant says "skin-tone", or ends in a tone where the set has the same name with each of the five tones.
    """
    known = set(names)
    toned = {name.removesuffix("-light") for name in known if name.endswith("-light")}
    toned = {base for base in toned if all(f"{base}-{tone}" in known for tone in TONES)}
    variants = {f"{base}-{tone}" for base in toned for tone in TONES}
    return sorted(name for name in known - variants if "skin-tone" not in name)


def common_names(sets: Iterable[Iterable[Icon]]) -> list[str]:
    """The names that stand in every set, sorted: the classes of the test sets."""
    return sorted(set.intersection(*({icon.name for icon in icons} for icons in sets)))


def to_svg(document: dict[str, Any], name: str) -> str:
    """An icon as an SVG document, centred on a square, black where its set leaves the colour open."""
    icon = document["icons"][name]
    left, top, width, height = (
        icon.get(key, document.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)
    return SVG.format(left=left - (side - width) / 2, top=top - (side - height) / 2, side=side, body=icon["body"])


def draw(svg: str, size_px: int) -> bytes | str:
    """A PNG of size_px x size_px on white; or, as text, why the drawing failed."""
    try:
        return bytes(
            resvg_py.svg_to_bytes(
                svg_string=svg, width=size_px, height=size_px, background="white", skip_system_fonts=True
            )
        )
    except ValueError as error:
        return str(error).splitlines()[0]
