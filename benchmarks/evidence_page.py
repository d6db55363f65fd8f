"""The numbers of evidence.py as tables, claims and a plot: docs/evidence.md, docs/evidence.svg and README.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

# key: title, factor, decimal places
Columns = dict[str, tuple[str, float, int]]
QUALITY: Columns = {
    "error": ("error %", 100, 2), "top5_error": ("top-5 error %", 100, 2), "nll": ("NLL", 1, 3),
    "ece": ("ECE %", 100, 2),
    "scaled_nll": ("NLL, scaled", 1, 3), "scaled_ece": ("ECE, scaled %", 100, 2), "recall_error": ("1 - R@1 %", 100, 2),
}  # fmt: skip
ROBUSTNESS: Columns = {
    "ood_auroc": ("AUROC %", 100, 1), "ood_fpr95": ("FPR95 %", 100, 1),
    "corruption_error": ("corrupted, error %", 100, 1),
    "fgsm2_error": ("FGSM 2/255, error %", 100, 1), "fgsm8_error": ("FGSM 8/255, error %", 100, 1),
}  # fmt: skip
SETTINGS = {"plain": "1e-4", "tuned": "4e-3"}  # weight decay of the studies in the README
HIGHER = ("ood_auroc",)  # is better; lower for all others


@dataclass(frozen=True)
class Claim:
    """What a paper says of a method: its metric is better than the baseline's."""

    paper: str
    text: str
    method: str
    metric: str
    baseline: str = "cross-entropy"


CLAIMS = (
    Claim("CS-KD", "lower error", "CS-KD", "error"),
    Claim("CS-KD", "better calibrated", "CS-KD", "ece"),
    Claim("CS-KD", "better features (Recall@1)", "CS-KD", "recall_error"),
    Claim("SD-Dropout", "lower error", "SD-Dropout 0.1", "error"),
    Claim("SD-Dropout", "better calibrated", "SD-Dropout 0.1", "ece"),
    Claim("SD-Dropout", "better at finding other data (AUROC)", "SD-Dropout 0.1", "ood_auroc"),
    Claim("SD-Dropout", "more robust (FGSM 2/255)", "SD-Dropout 0.1", "fgsm2_error"),
    Claim("SD-Dropout", "adds to other methods", "CS-KD + SD-Dropout 0.1", "error", baseline="CS-KD"),
)


def write(content: dict[str, Any], root: Path) -> None:
    """Fills the markers of the two pages, and draws the plot."""
    studies = content["studies"]
    between(root / "docs" / "evidence.md", "evidence", page(studies))
    between(root / "README.md", "evidence", overview(studies))
    draw(studies, root / "docs" / "evidence.svg")


def page(studies: dict[str, Any]) -> str:
    """The results, study by study."""
    parts = []
    for study in studies.values():
        results, seeds, environment = study["results"], study["seeds"], study["environment"]
        versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
        parts += [
            f"### {study['title']}",
            f"Test typefaces, mean ± std of {seeds} seeds; * differs from cross-entropy, corrected p < 0.05. Made by "
            f"`make evidence` with {versions}, on {environment['machine']}.",
            table(results, QUALITY),
            "Other letters (out-of-distribution), corruptions and attacks; the time of a step is over cross-entropy's.",
            table(results, ROBUSTNESS, step=True),
            "Differences in error from cross-entropy, in points, with 95 % intervals over seeds and over typefaces.",
            differences(results),
            claims(results),
        ]
    return "\n\n".join(parts)


def table(results: dict[str, Any], columns: Columns, rows: Sequence[str] = (), *, step: bool = False) -> str:
    """Means and standard deviations of the columns; stars mark corrected p < 0.05."""
    head = ["method", *(title for title, _, _ in columns.values()), *(["step"] if step else [])]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name, entries in results.items():
        if not rows or name in rows:
            cost = entries["step"].get("measured") if step and "step" in entries else None
            cells = [_cell(entries[key], factor, places) for key, (_, factor, places) in columns.items()]
            lines.append([name, *cells, *([f"{cost:.2f}" if cost else "–"] if step else [])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def overview(studies: dict[str, Any]) -> str:
    """The README's table: errors, NLL and ECE of both settings, as far as they are there."""
    shown = {key: decay for key, decay in SETTINGS.items() if key in studies}
    titles = [f"{QUALITY[metric][0]}, {decay}" for decay in shown.values() for metric in ("error", "nll", "ece")]
    lines = [["method, weight decay", *titles], ["---"] + ["---:"] * len(titles)]
    for name in README_ROWS:
        entries = [studies[key]["results"][name][metric] for key in shown for metric in ("error", "nll", "ece")]
        formats = [QUALITY[metric][1:] for _ in shown for metric in ("error", "nll", "ece")]
        lines.append([name, *(_cell(entry, *how) for entry, how in zip(entries, formats, strict=True))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(entry: dict[str, Any], factor: float, places: int) -> str:
    star = "*" if entry.get("difference", {}).get("p_holm", 1) < 0.05 else ""
    return f"{factor * entry['mean']:.{places}f} ± {factor * entry['std']:.{places}f}{star}"


def differences(results: dict[str, Any]) -> str:
    """Each method's difference in error from the baseline."""
    lines = [
        "| method | difference | over seeds | over typefaces | p | p, corrected |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, entries in results.items():
        if "difference" in entries["error"]:
            found = entries["error"]["difference"]
            seeds, faces = (f"{100 * low:+.2f} to {100 * high:+.2f}"
                            for low, high in ((found["low"], found["high"]), entries["error"]["families"]))  # fmt: skip
            numbers = f"{100 * found['mean']:+.2f} | {seeds} | {faces} | {found['p']:.2g} | {found['p_holm']:.2g}"
            lines.append(f"| {name} | {numbers} |")
    return "\n".join(lines)


def claims(results: dict[str, Any]) -> str:
    """Each claim's verdict: it holds, its opposite holds, or it is not decided."""
    lines = ["| paper | claim | verdict | difference | p |", "|---|---|---|---:|---:|"]
    for claim in CLAIMS:
        if claim.method not in results or claim.baseline not in results:
            continue
        entry, baseline = results[claim.method][claim.metric], results[claim.baseline][claim.metric]
        if claim.baseline == next(iter(results)):
            mean, p = entry["difference"]["mean"], entry["difference"]["p_holm"]
        else:
            pairs = np.subtract(entry["values"], baseline["values"])
            mean, p = pairs.mean(), stats.ttest_1samp(pairs, 0).pvalue
        better = (mean > 0) == (claim.metric in HIGHER)
        verdict = "not decided" if p >= 0.05 else "**holds**" if better else "**does not hold**"
        unit, places = ({**QUALITY, **ROBUSTNESS}[claim.metric][number] for number in (1, 2))
        against = "" if claim.baseline == "cross-entropy" else f", against {claim.baseline}"
        what = f"{claim.text} ({claim.method}{against})"
        lines.append(f"| {claim.paper} | {what} | {verdict} | {unit * mean:+.{places}f} | {p:.2g} |")
    return "\n".join(lines)


def draw(studies: dict[str, Any], path: Path) -> None:
    """Differences from cross-entropy in error, NLL and ECE with their 95 % intervals, a row for each study."""
    import matplotlib  # here, because the backend has to be chosen before pyplot is imported

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "evidence", "svg.fonttype": "none"}
    from matplotlib import pyplot

    heights = [len(study["results"]) for study in studies.values()]
    figure, grid = pyplot.subplots(
        len(studies), 3, figsize=(10, 0.28 * sum(heights) + 0.9 * len(studies)), squeeze=False,
        height_ratios=heights, layout="constrained",
    )  # fmt: skip
    for row, study in zip(grid, studies.values(), strict=True):
        for axes, key in zip(row, ("error", "nll", "ece"), strict=True):
            title, factor, _ = QUALITY[key]
            names = list(study["results"])[1:]
            found = [study["results"][name][key]["difference"] for name in names]
            means, low, high = (factor * np.array([each[part] for each in found]) for part in ("mean", "low", "high"))
            axes.axvline(0, color="0.6", linewidth=1)
            axes.errorbar(
                means, range(len(names)), xerr=[means - low, high - means], fmt="o", markersize=4, color="#2a6f97"
            )
            axes.set_yticks(range(len(names)), names if key == "error" else [])
            axes.invert_yaxis()
            axes.set_title(f"{study['title']}: {title}" if key == "error" else title, fontsize=9)
            axes.tick_params(labelsize=8)
    figure.supxlabel("difference from cross-entropy and 95 % interval over seeds; left is better", fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def between(path: Path, name: str, text: str) -> None:
    """Replaces what stands between a page's markers."""
    text_before = path.read_text()
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = text_before.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{path} has no markers {begin.strip()} and {end}")
    path.write_text(f"{before}{begin}\n{text}\n\n{end}{after}")


README_ROWS = (
    "cross-entropy", "label smoothing 0.05", "CS-KD", "CS-KD, bank", "SD-Dropout 0.1", "SD-Dropout 1.0",
    "CS-KD + SD-Dropout 0.1",
)  # fmt: skip
