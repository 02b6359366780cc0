"""What an evaluation leaves: a table for the terminal, results.json, and report.html with audio and alignments.

The report is one file without scripts or styles from elsewhere; it links to audio and pictures in its own folder.
"""

import html
import json
import math
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from smalle_hf.file_replacement import replace_file

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bad: #d33; --accent: #2a6fdb; }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 90rem; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .5rem; }
.settings { color: GrayText; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .7rem; }
.card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.card small { color: GrayText; }
details.all td { padding: .1rem 1.2rem .1rem 0; font-variant-numeric: tabular-nums; }
.sort { display: none; margin-bottom: .6rem; }
table.sentences { border-collapse: collapse; width: 100%; }
.sentences th { position: sticky; top: 0; background: Canvas; text-align: left;
  border-bottom: 2px solid var(--line); padding: .4rem .5rem .4rem 0;
  vertical-align: bottom; z-index: 1; }
.sentences th button { all: unset; cursor: pointer; font-weight: 600; }
.sentences th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.sentences td { border-bottom: 1px solid var(--line); padding: .5rem .7rem .5rem 0; vertical-align: top;
  font-variant-numeric: tabular-nums; }
.sentences td.text { min-width: 18rem; overflow-wrap: anywhere; }
.sentences td.players { min-width: 14rem; }
.sentences td.number { white-space: nowrap; } .sentences td.picture { min-width: 11rem; padding-right: 0; }
.heard { color: GrayText; margin-top: .25rem; } .heard::before { content: "heard: "; font-style: italic; }
.fault { color: var(--bad); }
audio { width: 100%; height: 2.2rem; display: block; }
.label { color: GrayText; font-size: .85em; }
img { width: 100%; height: auto; display: block; border-radius: .25rem; }
@media (max-width: 60rem) {
  .sort { display: flex; gap: .5rem; align-items: center; }
  .sentences thead { display: none; }
  .sentences, .sentences tbody, .sentences tr, .sentences td { display: block; width: 100%; }
  .sentences tr { border: 1px solid var(--line); border-radius: .5rem; padding: .3rem .8rem; margin-bottom: .8rem; }
  .sentences td { border: 0; padding: .25rem 0; display: flex; gap: .6rem; }
  .sentences td::before { content: attr(data-name); flex: 0 0 6.5rem; color: GrayText; }
  .sentences td > div { flex: 1; min-width: 0; }
  .sentences td.text { display: block; min-width: 0; } .sentences td.text::before { content: none; }
  .sentences td.empty { display: none; }
}
"""

SCRIPT = """
const table = document.querySelector("table.sentences"), body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells], choice = document.querySelector(".sort select");
function sortBy(column, descending) {
  const numeric = heads[column].dataset.kind === "number";
  const value = row => { const v = row.cells[column].dataset.value; return numeric ? (v === "" ? NaN : +v) : v; };
  const rows = [...body.rows].sort((a, b) => {
    const x = value(a), y = value(b);
    if (numeric && (isNaN(x) || isNaN(y))) return isNaN(x) - isNaN(y);
    return (numeric ? x - y : x.localeCompare(y)) * (descending ? -1 : 1);
  });
  body.append(...rows);
  heads.forEach((head, i) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  choice.value = column + (descending ? "d" : "a");
}
heads.forEach((head, i) => head.querySelector("button")?.addEventListener("click", () => {
  const sorted = head.getAttribute("aria-sort");
  sortBy(i, sorted ? sorted === "ascending" : head.dataset.kind === "number");
}));
choice.addEventListener("change", () => sortBy(parseInt(choice.value), choice.value.endsWith("d")));
document.addEventListener("play", event => document.querySelectorAll("audio").forEach(
  audio => { if (audio !== event.target) audio.pause(); }), true);
"""

CARDS = [
    ("Word error rate, corpus", "wer_corpus", "percent"),
    ("Word error rate, mean", "wer_mean", "percent"),
    ("Character error rate, corpus", "cer_corpus", "percent"),
    ("Sentences with a skip", "skip_rate", "percent"),
    ("Sentences with a repeat", "repeat_rate", "percent"),
    ("Skip, by alignment", "alignment_skip_rate", "percent"),
    ("Repeat, by alignment", "alignment_repeat_rate", "percent"),
    ("Never ended", "num_never_ended", "count"),
    ("Without audio", "num_without_audio", "count"),
    ("Speaker similarity", "speaker_similarity_mean", "number"),
    ("Predicted MOS", "mos_mean", "number"),
    ("Perplexity", "perplexity", "number"),
    ("Real-time factor", "real_time_factor", "number"),
]
"""Title, key in the summary, and kind of the numbers that the report and the terminal show first."""

COLUMNS = [
    ("WER", "wer", "percent"),
    ("CER", "cer", "percent"),
    ("Original WER", "reference_wer", "percent"),
    ("Similarity", "speaker_similarity", "number"),
    ("MOS", "mos", "number"),
    ("Back, tokens", "alignment_backward_tokens", "number"),
    ("Seconds", "seconds", "number"),
]
"""Title, key in a sentence's scores, and kind of the columns with numbers."""


def format_summary(summary: dict[str, Any]) -> str:
    """Table for the terminal: the main numbers, beside them those of the original recordings."""
    rows = [("", "speech", "original")]
    for title, key, kind in CARDS:
        if key in summary:
            original = _shown(summary[f"reference_{key}"], kind) if f"reference_{key}" in summary else ""
            rows.append((title, _shown(summary[key], kind), original))
    codebooks = summary.get("perplexity_per_codebook", [])
    rows += [(f"Perplexity, codebook {index}", _shown(value, "number"), "") for index, value in enumerate(codebooks)]
    rows.append(("Sentences", str(summary["num_sentences"]), ""))
    width = max(len(title) for title, _, _ in rows)
    return "\n".join(f"{title:<{width}}  {speech:>9}  {original:>9}".rstrip() for title, speech, original in rows)


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Writes results.json and report.html.

    Args:
        folder (`Path`): Where to write; the files that the sentences name lie below it.
        results (`dict`): `settings`, `summary` and `sentences`. Numbers that are not finite become null in the JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "results.json", json.dumps(_finite(results), indent=1, ensure_ascii=False) + "\n")
    _write(folder / "report.html", render_report(results))


def render_report(results: dict[str, Any]) -> str:
    """The report as HTML."""
    summary, sentences = results["summary"], results["sentences"]
    columns = [column for column in COLUMNS if any(column[1] in row for row in sentences)]
    has_pictures = any("alignment_file" in row for row in sentences)
    titles = [
        ("Sentence", "text"),
        ("Speech", ""),
        ("Faults", "number"),
        *((title, "number") for title, _, _ in columns),
    ]
    titles += [("Alignment", "")] if has_pictures else []
    settings = ", ".join(f"{name.replace('_', ' ')}: {_setting(value)}" for name, value in results["settings"].items())
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Speech evaluation</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f'<h1>Speech evaluation</h1>\n<div class="settings">{html.escape(settings)}</div>',
            f'<div class="cards">\n{_cards(summary)}\n</div>',
            f'<details class="all"><summary>All numbers</summary>{_all_numbers(summary)}</details>',
            f"<h2>{len(sentences)} sentences</h2>",
            f'<label class="sort">Sort by <select>{_sort_choices(titles)}</select></label>',
            f'<table class="sentences">\n<thead><tr>{_head(titles)}</tr></thead>\n<tbody>',
            *(_sentence(row, columns, has_pictures) for row in sentences),
            f"</tbody>\n</table>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        ]
    )


def _cards(summary: dict[str, Any]) -> str:
    cards = []
    for title, key, kind in CARDS:
        if key in summary:
            original = summary.get(f"reference_{key}")
            note = f"<br>original: {_shown(original, kind)}" if original is not None else ""
            cards.append(f'<div class="card"><b>{_shown(summary[key], kind)}</b><small>{title}{note}</small></div>')
    return "\n".join(cards)


def _all_numbers(summary: dict[str, Any]) -> str:
    cells = (f"<tr><td>{html.escape(key)}</td><td>{_plain(value)}</td></tr>" for key, value in sorted(summary.items()))
    return f"<table>{''.join(cells)}</table>"


def _head(titles: list[tuple[str, str]]) -> str:
    return "".join(
        f'<th scope="col" data-kind="{kind}"><button type="button">{title}</button></th>'
        if kind
        else f'<th scope="col">{title}</th>'
        for title, kind in titles
    )


def _sort_choices(titles: list[tuple[str, str]]) -> str:
    choices = [
        f'<option value="{column}{order}">{title}, {word}</option>'
        for column, (title, kind) in enumerate(titles)
        if kind
        for order, word in (("d", "descending"), ("a", "ascending"))
    ]
    return '<option value="" selected disabled>as listed</option>' + "".join(choices)


def _sentence(row: dict[str, Any], columns: list[tuple[str, str, str]], has_pictures: bool) -> str:
    faults = _faults(row)
    heard = f'<div class="heard">{html.escape(row["heard"]) or "nothing"}</div>' if "heard" in row else ""
    wrong = "".join(f'<div class="fault">{fault}</div>' for fault in faults)
    text = f'<span class="label">{html.escape(row["id"])}</span><br>{html.escape(row["text"])}{heard}{wrong}'
    cells = [
        _cell("Sentence", row["id"], text, "text"),
        _cell("Speech", "", _players(row), "players"),
        _cell("Faults", len(faults), str(len(faults)), "number"),
    ]
    for title, key, kind in columns:
        value = row.get(key)
        shown = "" if value is None else _shown(value, kind)
        cells.append(_cell(title, "" if value is None or not math.isfinite(value) else value, shown, "number"))
    if has_pictures:
        cells.append(_cell("Alignment", "", _picture(row), "picture"))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(name: str, value: Any, content: str, kind: str = "") -> str:
    css = " ".join(filter(None, [kind, "" if content else "empty"]))
    attribute = f' class="{css}"' if css else ""
    return f'<td{attribute} data-name="{name}" data-value="{html.escape(str(value))}"><div>{content}</div></td>'


def _faults(row: dict[str, Any]) -> list[str]:
    """What is wrong with a sentence, as escaped HTML."""
    faults = [f"skipped: {html.escape(run)}" for run in row.get("skipped", [])]
    faults += [f"repeated: {html.escape(run)}" for run in row.get("repeated", [])]
    for name in ("skipped", "repeated"):
        for run in _word_runs(row.get(f"alignment_{name}", []), row.get("words", [])):
            faults.append(f"alignment {name}: {html.escape(run)}")
    if row["ended"] is False:
        faults.append("never ended")
    if "audio_file" not in row:
        faults.append("no audio")
    return faults


def _word_runs(numbers: list[int], words: list[str]) -> list[str]:
    """Words with consecutive numbers, joined."""
    groups = groupby(enumerate(numbers), key=lambda item: item[1] - item[0])
    return [" ".join(words[number] for _, number in group) for _, group in groups]


def _players(row: dict[str, Any]) -> str:
    players = ""
    for name, label in (("audio", "speech"), ("reference", "original")):
        if path := row.get(f"{name}_file"):
            players += f'<span class="label">{label}</span>'
            players += f'<audio controls preload="none" src="{quote(path)}" aria-label="{label}"></audio>'
    return players


def _picture(row: dict[str, Any]) -> str:
    path = row.get("alignment_file")
    if not path:
        return ""
    link = quote(path)
    return f'<a href="{link}"><img loading="lazy" src="{link}" alt="alignment of {html.escape(row["id"])}"></a>'


def _shown(value: float, kind: str) -> str:
    if not math.isfinite(value):
        return "-"
    if kind == "percent":
        return f"{100 * value:.1f} %"
    return str(value) if kind == "count" else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _setting(value: Any) -> str:
    return ", ".join(f"{name} {entry}" for name, entry in value.items()) if isinstance(value, dict) else str(value)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


__all__ = ["format_summary", "render_report", "write_results"]
