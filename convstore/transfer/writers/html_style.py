"""The style of a page of HTML, in a light and a dark form, and the policy that allows it and nothing else."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --text: #1d2129; --faint: #616b7a; --line: #dfe3e8; --box: #f6f7f9;
  --user: #eaf1fd; --link: #0b57b0; --good: #1a7f37; --bad: #b3261e; --code: #f0f2f5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16181d; --text: #e4e7ec; --faint: #9aa4b2; --line: #343a45; --box: #1e2128;
    --user: #1d2b45; --link: #8ab8f8; --good: #5fc779; --bad: #ff8a80; --code: #262a33;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 50rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--text);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
a { color: var(--link); }
h1 { font-size: 1.5rem; line-height: 1.3; margin: .5rem 0; }
summary { cursor: pointer; }
.conversation > summary { font-size: 1.25rem; font-weight: 600; padding: .5rem 0; }
.conversation { border-bottom: 1px solid var(--line); padding-bottom: 1rem; }
.facts, .message > header { color: var(--faint); font-size: .85rem; }
.facts { margin: 0 0 1.5rem; }
.message { margin: 0 0 1rem; padding: .75rem 1rem; border: 1px solid var(--line); border-radius: .6rem; }
.message > header { display: flex; flex-wrap: wrap; gap: 0 .75rem; }
.message > header b { color: var(--text); }
.message > header .number { margin-left: auto; color: inherit; text-decoration: none; }
.user { background: var(--user); }
.system, .developer, .tool, .function { background: var(--box); }
.body > :first-child { margin-top: .5rem; }
.body > :last-child { margin-bottom: 0; }
.body h1, .body h2, .body h3, .body h4, .body h5, .body h6 { font-size: 1.05rem; margin: 1.2rem 0 .4rem; }
.body h1 { font-size: 1.3rem; }
.body h2 { font-size: 1.15rem; }
p, ul, ol, pre, table, blockquote { margin: .6rem 0; }
li > ul, li > ol { margin: 0; }
ul, ol { padding-left: 1.6rem; }
blockquote { margin-left: 0; padding-left: .8rem; border-left: 3px solid var(--line); color: var(--faint); }
code, pre { font: .875rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
code { background: var(--code); padding: .1em .3em; border-radius: .25rem; }
pre { background: var(--code); padding: .75rem; border-radius: .4rem; overflow-x: auto; overflow-wrap: normal; }
pre code { padding: 0; background: none; }
pre.text { white-space: pre-wrap; overflow-wrap: anywhere; }
table { display: block; width: fit-content; max-width: 100%; overflow-x: auto; border-collapse: collapse; }
th, td { padding: .3rem .6rem; border: 1px solid var(--line); text-align: left; overflow-wrap: normal; }
th { background: var(--box); }
.right { text-align: right; }
.center { text-align: center; }
hr { border: 0; border-top: 1px solid var(--line); }
img { display: block; max-width: 100%; max-height: 30rem; border-radius: .4rem; margin: .6rem 0;
  background: var(--box); }
.label { display: inline-block; padding: .1rem .5rem; border: 1px dashed var(--faint); border-radius: .4rem; }
.label, .empty { color: var(--faint); font-size: .9rem; }
.good { color: var(--good); }
.bad, .interrupted, .failed { color: var(--bad); }
.more { margin: .5rem 0; font-size: .9rem; }
.more > summary { color: var(--faint); }
.branch { margin: 0 0 1rem 1.5rem; padding-left: .8rem; border-left: 3px solid var(--line); }
.branch > summary { color: var(--faint); font-size: .9rem; }
.branch > .message:first-of-type { margin-top: .6rem; }
@media print { body { max-width: none; } .message { break-inside: avoid-page; } }
"""

_STYLE_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; img-src data:; base-uri 'none'; form-action 'none'"
"""The page's Content-Security-Policy: no script, no connection, no style but its own, no image from elsewhere."""
