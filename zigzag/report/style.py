"""The page's style: light and dark, wide and narrow."""

STYLE = """
:root { color-scheme: light dark; --font: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  --paper: #f6f7f9; --panel: #ffffff; --ink: #15191f; --muted: #5c6672; --line: #dfe3e8;
  --good: #0a7d4b; --bad: #c0342b;
  --zigzag: #0f766e; --eager: #d97706; --compiled: #9333ea; --commuted: #2563eb; --floor: #6b7280;
  --triton: #be185d; --cuda: #4d7c0f; --hopper: #0e7490;
  --second: #0f766e; --third: #d97706; --fourth: #be185d; --fifth: #2563eb; }
@media (prefers-color-scheme: dark) { :root { --paper: #0e1116; --panel: #171b22; --ink: #e8ebef; --muted: #98a2ae;
  --line: #2b323c; --good: #3ecf8e; --bad: #ff7a70; --zigzag: #2dd4bf; --eager: #fbb140; --compiled: #c084fc;
  --commuted: #7aa8ff; --floor: #9aa3af; --triton: #f472b6; --cuda: #a3e635; --hopper: #67e8f9;
  --second: #2dd4bf; --third: #fbb140; --fourth: #f472b6; --fifth: #7aa8ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--font); }
main { max-width: 1080px; margin: 0 auto; padding: 48px 24px 80px; }
h1 { font-size: 34px; line-height: 1.15; margin: 0 0 8px; letter-spacing: -0.02em; }
h2 { font-size: 21px; margin: 56px 0 6px; letter-spacing: -0.01em; scroll-margin-top: 12px; }
p { margin: 6px 0 14px; max-width: 76ch; } .quiet { color: var(--muted); } .wide { max-width: none; }
a { color: inherit; text-decoration-color: var(--muted); text-underline-offset: 3px; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 20px 0 0; font-size: 14px; }
code { font: 0.88em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 12px; padding: 20px;
  overflow-x: auto; }
.panel svg { display: block; width: 100%; height: auto; } .narrow { display: none; }
.panel > * + * { margin-top: 20px; } .scroll { overflow-x: auto; }
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 16px; margin-top: 28px; }
.pictures figure { margin: 0; } .pictures img { display: block; width: 100%; border-radius: 12px; }
figcaption { color: var(--muted); font-size: 14px; margin-top: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: right; color: var(--muted); font-weight: 500; padding: 6px 10px; vertical-align: bottom;
  border-bottom: 1px solid var(--line); }
td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr:last-child td { border-bottom: 0; } th.text, td.text { text-align: left; } td.text { white-space: normal; }
summary { cursor: pointer; } details[open] { max-width: 420px; color: var(--muted); }
td.ours { font-weight: 650; } .good { color: var(--good); } .bad { color: var(--bad); font-weight: 650; }
.banner { border-left: 4px solid var(--bad); padding: 10px 16px; background: var(--panel); margin: 20px 0; }
@media (max-width: 720px) {
  main { padding: 28px 16px 48px; } h1 { font-size: 28px; } .panel { padding: 14px; }
  .broad { display: none; } .narrow { display: block; }
  .pictures { gap: 8px; } figcaption { font-size: 12px; line-height: 1.35; }
  table { font-size: 13px; } td, th { padding: 6px; } td.text { min-width: 84px; }
  tr > .text:first-child { position: sticky; left: 0; background: var(--panel); } }
"""
