"""HTML pages of the reports: one self-contained file for screen, phone and paper, light and dark, from a template."""

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrfr_fast.runtime.files import write_bytes
from hrfr_fast.runtime.names import printable

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Table:
    """A table for the macro ``table``; it scrolls by itself where the screen is narrow.

    Every line of a cell but its first is set small. ``wide``: numbers of the columns that hold running text.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    wide: Collection[int] = ()


@dataclass(frozen=True)
class EmbeddedImage:
    """An image for the macro ``figure``; ``source`` is a data URI, so that the page needs no other file."""

    source: str
    alt: str
    caption: str


def write_page(path: Path, template: Path, **values: object) -> Path:
    """Write ``template`` filled with ``values`` to ``path``; text in them is escaped, marks of writing direction and
    control characters too: a name would reorder what stands behind it.

    The template may extend ``page.html.j2`` (which needs ``title``) and import ``parts.html.j2``.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, TEMPLATES]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    page = environment.get_template(template.name).render(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page.encode(errors="backslashreplace"))  # paths may hold bytes that are no text
    return path


def _shown(value: object) -> object:
    return printable(value) if type(value) is str else value  # what a macro made of texts is Markup, and stays


def embedded(path: Path, alt: str, caption: str) -> EmbeddedImage | None:
    """The image file ``path`` as part of a page; None where there is no such file."""
    if not path.exists():
        return None
    return EmbeddedImage(f"data:image/webp;base64,{base64.b64encode(_webp(path)).decode()}", alt, caption)


def _webp(path: Path) -> bytes:
    """An image as WebP: a drawing without loss is a third of its PNG, a sheet of photographs at quality 90 a sixth."""
    from PIL import Image

    encoded = []
    with Image.open(path) as image:
        opaque = image.convert("RGB")
    for options in ({"lossless": True}, {"quality": 90}):
        file = io.BytesIO()
        opaque.save(file, "WEBP", **options)
        encoded.append(file.getvalue())
    return min(encoded, key=len)
