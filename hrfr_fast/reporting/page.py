"""What every report is made of: one self-contained HTML page for screen, phone and paper, light and dark."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from hrfr_fast.runtime.files import write_bytes

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin-top: 2rem; border-top: 1px solid var(--line); padding-top: 1rem; break-after: avoid; }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; break-after: avoid; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.scroll td, .scroll th { overflow-wrap: normal; }
td.few { white-space: nowrap; } td.wide { min-width: 13rem; }
td:first-child { position: sticky; left: 0; background: Canvas; white-space: normal; min-width: 6.5rem; }
.scroll td:first-child { overflow-wrap: anywhere; } td.few small { white-space: normal; }
small { opacity: .75; }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
figure { margin: 1rem 0; break-inside: avoid; }
figcaption { font-size: .9rem; opacity: .8; }
code { background: var(--soft); padding: 0 .2rem; overflow-wrap: anywhere; }
.note { border-left: 4px solid #e69f00; padding-left: .8rem; }
.lead { font-size: 1.15rem; }
@media print { .scroll { overflow: visible; } body { max-width: none; font-size: 11px; } h2 { margin-top: 1.2rem; } }
"""


def write_page(path: Path, title: str, body: Iterable[str]) -> Path:
    """Write one HTML file that needs no other; ``body`` is HTML."""
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} — hrfr-fast</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page.encode(errors="backslashreplace"))  # paths may hold bytes that are no text
    return path


def figure(path: Path, alt: str, caption: str) -> str:
    """The picture inside the page, with its caption; nothing where there is no such file."""
    if not path.exists():
        return ""
    data = base64.b64encode(_webp(path)).decode()
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/webp;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _webp(path: Path) -> bytes:
    """A picture as WebP: a drawing without loss is a third of its PNG, a sheet of photographs at quality 90 a sixth."""
    from PIL import Image

    sizes = []
    with Image.open(path) as picture:
        opaque = picture.convert("RGB")
    for how in ({"lossless": True}, {"quality": 90}):
        file = io.BytesIO()
        opaque.save(file, "WEBP", **how)
        sizes.append(file.getvalue())
    return min(sizes, key=len)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, wide: Iterable[int] = ()) -> str:
    """A table that scrolls by itself where the screen is narrow.

    ``wide``: columns of running text. Every line of a cell but its first is set small.
    """
    broad = set(wide)
    top = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = [
        "".join(f'<td class="{"wide" if i in broad else "few"}">{_cell(cell)}</td>' for i, cell in enumerate(row))
        for row in rows
    ]
    return f'<div class="scroll"><table><tr>{top}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _cell(text: str) -> str:
    first, *more = text.split("\n")
    return escape(first) + "".join(f"<br><small>{escape(line)}</small>" for line in more)


def facts(values: dict[str, object]) -> str:
    """Names and values, one a row."""
    rows = [f"<tr><th>{escape(k)}</th><td><code>{escape(str(v))}</code></td></tr>" for k, v in values.items()]
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def note(text: str) -> str:
    """A paragraph the reader must not miss."""
    return f'<p class="note">{escape(text)}</p>'
