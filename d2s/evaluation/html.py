"""The few pieces of HTML that a report is made of. Everything that comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #5c6875; --line: #dfe4ea; --blue: #2563c9; --green: #12924f; --red: #d33a2c;
  --back: #f3f5f8; --card: #fff; --pale: #e8ecf1; --axis: #8a94a0; --grid: #d5dbe2; --mapping: #7f9cc6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ee; --soft: #9aa6b2; --line: #303a45; --blue: #6ea3f2; --green: #3ecf8e; --red: #ff7b6d;
    --back: #11161c; --card: #1a2129; --pale: #2a343f; --axis: #76828f; --grid: #34404c; --mapping: #5f7fae; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); line-height: 1.5; -webkit-text-size-adjust: 100%;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 20px 14px 60px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 10px 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 12px; }
h3 { font-size: .95rem; margin: 14px 0 6px; color: var(--soft); font-weight: 600; }
p { margin: 0 0 10px; }
ul { margin: 0 0 10px; padding-left: 1.2em; }
.soft { color: var(--soft); }
.small { font-size: .87rem; }
.lead { font-size: 1.04rem; max-width: 56em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(46%, 215px), 1fr)); gap: 12px; margin: 18px 0; }
.tile, section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 1.32rem; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
section { padding: 16px; margin: 0 0 16px; min-width: 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 0 16px; align-items: stretch; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; }
.wide svg { max-width: 780px; margin: 0 auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 8px; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; font-size: .85rem; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; min-width: 6.5em; }
.text { text-align: left; min-width: 16em; }
tr:last-child td { border-bottom: 0; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
.bars td { white-space: nowrap; }
.bar { display: block; height: 9px; border-radius: 5px; background: var(--pale); min-width: 60px; }
.bar i { display: block; height: 100%; border-radius: 5px; background: var(--blue); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 235px), 1fr)); gap: 14px; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 18px; }
.case { min-width: 0; }
.case ul { margin: 6px 0 0; font-size: .9rem; }
.both { display: grid; grid-template-columns: 3fr 2fr; gap: 10px; align-items: start; }
img, .missing { display: block; width: 100%; height: auto; border-radius: 8px; background: var(--pale); }
.missing { padding: 24px 12px; font-size: .85rem; color: var(--soft); overflow-wrap: anywhere; }
figcaption { font-size: .85rem; padding: 5px 2px 0; overflow-wrap: anywhere; }
figcaption b { font-weight: 650; }
.dot { display: inline-block; width: .72em; height: .72em; border-radius: 50%; margin: 0 .35em 0 .1em; }
.cell { display: inline-block; width: 1.1em; height: 1.1em; margin: 0 .35em 0 .1em; vertical-align: -.2em; border: 1px solid var(--line); }
.weak { border: 2px dotted var(--red); }
.legend span { white-space: nowrap; margin-right: 14px; display: inline-block; }
.bad { color: var(--red); }
summary { cursor: pointer; font-weight: 600; }
details .scroll { margin-top: 10px; max-height: 70vh; overflow-y: auto; }
.view3d { position: relative; }
.view3d canvas { display: block; width: 100%; height: min(62vh, 560px, 88vw); border-radius: 8px; background: var(--back); cursor: grab;
  touch-action: pan-y; }
.view3d canvas:active { cursor: grabbing; }
.tip { position: absolute; max-width: 90%; padding: 3px 8px; border-radius: 6px; background: var(--ink); color: var(--card);
  font-size: .82rem; pointer-events: none; overflow-wrap: anywhere; }
.keys { display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center; margin: 10px 0 6px; }
.keys label { white-space: nowrap; cursor: pointer; }
.keys .legend { flex-basis: 100%; }
.keys button { font: inherit; color: inherit; background: var(--back); border: 1px solid var(--line); border-radius: 7px;
  padding: 4px 10px; cursor: pointer; }
.narrow svg { max-width: 480px; margin: 0 auto; }
.touch { display: none; }
@media (hover: none) { .touch { display: inline; } .mouse { display: none; } }
@media print { body { background: #fff; } section, .tile { break-inside: avoid; } }
"""


def page(title: str, body: str) -> str:
    """A whole document that needs nothing from the network."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """Large values with a label below each."""
    cards = (f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for label, value in values)
    return f'<div class="tiles">{"".join(cards)}</div>'


def section(title: str, content: str, css: str = "") -> str:
    """A card with a heading."""
    return f'<section class="{css}"><h2>{escape(title)}</h2>\n{content}\n</section>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: Sequence[int] = ()) -> str:
    """A table that scrolls sideways where the screen is narrow."""
    lines = [_row(header, text_columns, "th"), *(_row(row, text_columns, "td") for row in rows)]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _row(cells: Sequence[str], text_columns: Sequence[int], tag: str) -> str:
    columns = (f"<{tag}{' class=text' if i in text_columns else ''}>{escape(cell)}</{tag}>" for i, cell in enumerate(cells))
    return f"<tr>{''.join(columns)}</tr>"


def bars(rows: Iterable[tuple[str, float]]) -> str:
    """A table of shares in [0, 1], each with a bar."""
    lines = (
        f'<tr><td>{escape(name)}</td><td style="width:100%"><span class="bar"><i style="width:{100 * value:.1f}%"></i></span></td>'
        f"<td>{100 * value:.1f} %</td></tr>"
        for name, value in rows
    )
    return f'<table class="bars">{"".join(lines)}</table>'


def picture(uri: str, alt: str, caption: str) -> str:
    """A picture with a caption (already HTML)."""
    return f'<figure><img src="{uri}" alt="{escape(alt, quote=True)}" loading="lazy"><figcaption>{caption}</figcaption></figure>'


def no_picture(why: str, caption: str) -> str:
    """A caption (already HTML) under a note instead of a picture."""
    return f'<figure><div class="missing">{escape(why)}</div><figcaption>{caption}</figcaption></figure>'


def paragraphs(sentences: Iterable[str], css: str = "") -> str:
    """Sentences as one paragraph."""
    return f'<p class="{css}">{escape(" ".join(sentences))}</p>'


def bullets(sentences: Iterable[str]) -> str:
    """Sentences as a list."""
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"
