"""The style sheet of report.html. Meaning is carried by words, shapes and hatches; colour only helps."""

CSS = """
:root{--bg:#fff;--panel:#f5f6f8;--ink:#1a1f26;--soft:#59636f;--line:#d5dae0;--accent:#1f5fae;
--pass:#176b45;--fail:#b3261e;--warn:#8a5300;--ok:#3f8f6b;--bad:#c0352b;--maybe:#b06a00;--out:#27303b;--lab:#fff4d6;
--labink:#5c4300}
@media screen and (prefers-color-scheme:dark){:root{--bg:#14181d;--panel:#1d232a;--ink:#e7ebf0;--soft:#a3aeba;
--line:#36404b;--accent:#7db4ff;--pass:#6fd3a0;--fail:#ff8f85;--warn:#f2b863;--ok:#58b38a;--bad:#f0736a;
--maybe:#e3a548;
--out:#dfe5ec;--lab:#3a2f10;--labink:#ffdf94}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
.band{background:var(--lab);color:var(--labink);padding:.6rem 1.25rem;font-weight:600;
border-bottom:3px double currentColor;text-align:center}
.band.aws{background:var(--panel);color:var(--ink)}
main{max-width:1080px;margin:0 auto;padding:1.25rem}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0 .25rem}
h2{font-size:1.2rem;margin:2.6rem 0 .6rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}
p{margin:.5rem 0;max-width:75ch}
a{color:var(--accent)}
.meta{color:var(--soft);font-size:.9rem;margin:.2rem 0 1rem}
.verdict{display:inline-block;font-weight:700;white-space:nowrap;letter-spacing:.03em}
.pass{color:var(--pass)}.fail,.aborted{color:var(--fail)}.inconclusive,.invalid{color:var(--warn)}
.hero{border:2px solid currentColor;border-radius:10px;padding:1rem 1.25rem;margin:1rem 0;background:var(--panel)}
.hero .verdict{font-size:1.9rem;line-height:1.2}
.hero p,.hero li{color:var(--ink)}
.hero ul{margin:.6rem 0 0;padding:0;list-style:none}
.hero li{margin:.35rem 0;padding-left:1.6em;text-indent:-1.6em}
.hero li .verdict{font-size:.85rem;text-indent:0;min-width:0}
.loud{border:1px solid var(--warn);border-left-width:6px;padding:.45rem .8rem;margin:.5rem 0;border-radius:4px;
max-width:none}
.loud b{color:var(--warn)}
nav{font-size:.9rem;margin:1rem 0}
nav a{margin-right:1.1em;white-space:nowrap;display:inline-block}
table{border-collapse:collapse;width:100%;margin:.9rem 0 1.2rem;font-size:.92rem}
caption{text-align:left;font-weight:600;padding:.2rem 0 .35rem}
th,td{text-align:left;vertical-align:top;padding:.38rem .6rem .38rem 0;border-bottom:1px solid var(--line);
font-variant-numeric:tabular-nums}
thead th,thead td{overflow-wrap:normal;color:var(--soft);font-weight:600;font-size:.84rem;
border-bottom:2px solid var(--line)}
th{overflow-wrap:break-word}tbody th{font-weight:600}
td[data-label="by"],td[data-label="began at"],td[data-label="took"]{overflow-wrap:break-word}
td.picture{min-width:190px;width:250px}
td.picture svg{max-width:250px}
figure{margin:1rem 0 1.3rem}
figcaption{font-weight:600;margin-bottom:.35rem}
figure svg{display:block;width:100%;height:auto}
.canvas{border:1px solid var(--line);border-radius:8px;padding:6px;background:var(--bg)}
.narrow{display:none}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;font-size:.85rem;color:var(--soft);list-style:none;padding:0;
margin:.4rem 0}
.key svg{width:26px;height:14px;display:inline-block;vertical-align:-2px;margin-right:.35rem}
ol.moments{columns:2;column-gap:2.5rem;font-size:.92rem;padding-left:2rem;margin:.4rem 0 1rem}
ol.moments li{break-inside:avoid;margin:.1rem 0}
.defs{position:absolute;width:0;height:0}
svg text{fill:var(--ink);font:11px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
svg .small{fill:var(--soft)}svg .tiny{fill:var(--soft);font-size:10px}svg .label{font-weight:600;paint-order:stroke;
stroke:var(--bg);stroke-width:3px;stroke-linejoin:round}
.ok{fill:var(--ok)}.failed{fill:var(--bad)}.unknown{fill:url(#hatch-unknown);stroke:var(--maybe);stroke-width:.6}
.certain{fill:var(--out)}.unsure{fill:url(#hatch-unsure);stroke:var(--out);stroke-width:.8}
.backwards{fill:none;stroke:var(--out);stroke-width:1.2;stroke-dasharray:4 2}.arrow{fill:none;stroke:var(--out);
stroke-width:1.5}
.trough{fill:var(--panel);stroke:var(--line)}.limit{stroke:var(--accent);stroke-width:2}.target{stroke:var(--ink);
stroke-width:1.2;stroke-dasharray:10 3 2 3}
.grid{stroke:var(--line);stroke-width:.7}.rule{stroke:var(--soft);stroke-width:1}.guide{stroke:var(--out);
stroke-width:1;stroke-dasharray:3 3}
.phase0{fill:var(--panel);stroke:var(--line)}.phase1{fill:var(--line);stroke:var(--line)}
.stepdone{fill:var(--ok)}.step{fill:var(--panel);stroke:var(--out);stroke-width:1.2}.stepfailed{fill:url(#hatch-unknown);
stroke:var(--bad);stroke-width:1.4}
.flag{fill:var(--bg);stroke:var(--out);stroke-width:1.2}.faultflag{fill:var(--out)}
svg .flagtext{font-size:10px;font-weight:700}svg .faulttext{fill:var(--bg)}
.p50{fill:none;stroke:var(--accent);stroke-width:1.6}.p95{fill:none;stroke:var(--maybe);stroke-width:1.4;
stroke-dasharray:4 2}
footer{color:var(--soft);font-size:.85rem;margin:3rem 0 1rem;border-top:1px solid var(--line);padding-top:.8rem}
@media screen and (max-width:700px){
.wide{display:none}.narrow{display:block}main{padding:.8rem}h1{font-size:1.35rem}.hero{padding:.8rem}
ol.moments{columns:1}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table,tbody,tr,th,td,caption{display:block;width:auto}
tbody tr{border-bottom:2px solid var(--line);padding:.4rem 0}
th,td{border:0;padding:.12rem 0}
td[data-label]:not([data-label=""])::before{content:attr(data-label) ": ";color:var(--soft);font-size:.85rem}
td.picture{width:auto}td.picture::before{display:none}td:empty{display:none}}
@page{size:A4;margin:12mm 13mm}
@media print{html{font-size:11px}body{font-size:9pt;line-height:1.35}
main{max-width:none;padding:0}.band{padding:.25rem}
nav{display:none}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
h1{font-size:1.5rem;margin-top:.4rem}h2{break-after:avoid;margin:1.3rem 0 .4rem;padding-bottom:.2rem}
p{max-width:none;margin:.25rem 0}.meta{margin-bottom:.5rem}
.hero{padding:.6rem 1rem;margin:.6rem 0}.hero ul{margin-top:.3rem}.hero li{margin:.15rem 0}
figure,.hero,tr,.loud,table.short{break-inside:avoid}caption,figcaption{break-after:avoid}
figure{margin:.5rem 0}.canvas svg{max-height:66mm;width:auto;max-width:100%!important;margin:auto}.key{margin:.2rem 0}
thead{display:table-header-group}
table{font-size:7.8pt;line-height:1.3;margin:.4rem 0 .8rem}th,td{padding:.18rem .6rem .18rem 0}
caption{padding:.1rem 0 .15rem}td.picture{width:170px;min-width:150px}
ol.moments{font-size:8.2pt;margin:.2rem 0 .5rem}
footer{break-before:avoid;margin:.8rem 0 0;padding-top:.4rem}}
"""

DEFS = (
    '<svg class="defs" aria-hidden="true" focusable="false"><defs>'
    '<pattern id="hatch-unsure" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line x1="0" y1="0" x2="0" y2="5" style="stroke:var(--out);stroke-width:2"/></pattern>'
    '<pattern id="hatch-unknown" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(-45)">'
    '<line x1="0" y1="0" x2="0" y2="4" style="stroke:var(--maybe);stroke-width:2"/></pattern>'
    "</defs></svg>"
)
