"""The look of the report's page."""

from sparse_ops.report.svg import STYLE, variables

_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main,header{max-width:1180px;margin:auto;padding:0 16px}
header{padding-top:28px}
h1{font-size:1.7rem;margin:0 0 4px}
h2{font-size:1.3rem;margin:40px 0 4px}
h3{font-size:1rem;margin:0 0 4px;overflow-wrap:anywhere}
p{margin:0 0 10px}
.note{color:var(--quiet)}
nav a{display:inline-block;margin:0 14px 6px 0;color:var(--s0)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:18px 0}
.tile,figure,.card{background:var(--card);border:1px solid var(--grid);border-radius:10px}
.tile,figure,.card{padding:14px}
.tile b{display:block;font-size:1.5rem;line-height:1.2}
.tile span{color:var(--quiet);font-size:.85rem;overflow-wrap:anywhere}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:16px}
.figures{align-items:start}
figure{margin:0;min-width:0}
figure svg{width:100%;max-width:640px;height:auto;display:block;margin:auto}
figcaption{font-size:.9rem;margin-top:8px;overflow-wrap:anywhere}
details{font-size:.85rem;margin-top:6px}
summary{cursor:pointer;color:var(--s0)}
.wide{overflow-x:auto;margin-top:8px}
.card{margin:12px 0}
.cards td:first-child{min-width:11rem}
table{border-collapse:collapse;font-size:.85rem}
th,td{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--grid)}
th,td{vertical-align:top;overflow-wrap:normal}
th.n,td.n{text-align:right}
td.n{white-space:nowrap}
.good{color:var(--good)}
.bad{color:var(--bad)}
code{font-size:.85em;overflow-wrap:anywhere}
footer{color:var(--quiet);font-size:.85rem;padding:30px 0;overflow-wrap:anywhere}
footer ul{padding-left:18px}
"""
# There a figure is drawn at three quarters, and its words would be too small to read; tables whose
# cells are sentences become a card a row, each cell with the name of its column.
_PHONE = """
figure svg text,figure svg .small{font-size:14px}
.cards,.cards tbody,.cards tr,.cards td{display:block;width:100%}
.cards thead{display:none}
.cards tr{border-bottom:1px solid var(--grid);padding:8px 0}
.cards td,.cards td.n{border:0;padding:1px 0;text-align:left;white-space:normal}
.cards td::before{content:attr(data-name) ": ";color:var(--quiet)}
.cards td:empty{display:none}
.cards td:first-child{font-weight:600}
.cards td:first-child::before{content:""}
"""
_LIGHT = "--page:#f6f8fa;--card:#fff;--good:#1d7a46;--bad:#b3261e;"
_DARK = "--page:#11171d;--card:#1a232c;--good:#74d49d;--bad:#ff8796;"


def page_style() -> str:
    """CSS in light colours, and in dark ones for whoever prefers them."""
    light = f":root{{color-scheme:light dark;{_LIGHT}{variables(False)}}}"
    dark = f"@media(prefers-color-scheme:dark){{:root{{{_DARK}{variables(True)}}}}}"
    return light + dark + _RULES + STYLE + f"@media(max-width:600px){{{_PHONE}}}"
