"""`results.md`, `results.json` and the pictures, from figures alone: no sentence here claims what no number says."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from math import isfinite
from pathlib import Path

from msgspec import structs

from offline_train.comparison import HEADLINE, NOT_TOLD_APART, ORACLE, Row, compare, headline, rows
from offline_train.deployed import LIVE_NAME, NAME
from offline_train.evaluation import Result
from offline_train.figures import saved, tidy
from offline_train.metrics import CUTOFFS, METRICS
from offline_train.report_document import document_of
from offline_train.report_parts import Part, keep, keep_rows
from offline_train.study import ablation_report, over_time, text_report

#: columns of the tables; at 1 the three metrics are one figure
COLUMNS = tuple(f"{m}@{k}" for m in METRICS for k in CUTOFFS if not (k == 1 and m != "recall"))
#: what is fitted once and must be above every baseline, as deployed: (data set, task, ranking)
DEPLOYED = (
    ("HetRec", "video", "as-of"),
    ("HetRec", "comment", "as-of"),
    ("Simulated platform", "video", "as-of"),
    ("Simulated platform", "comment", "as-of"),
    ("Rotten Tomatoes", "video", "as-of"),
    ("Rotten Tomatoes", "comment", "full"),
)
#: what the model is required to be above: (data set, task, baselines)
BAR = (
    ("HetRec", "video", ("random", "popularity (all time)")),
    ("HetRec", "comment", ("random", "most liked")),
    ("Rotten Tomatoes", "video", ("random", "popularity (all time)")),
)
_TASKS = {"video": "Videos", "comment": "Comments"}
_LABELS = {"recall": "R", "ndcg": "NDCG", "mrr": "MRR"}
_PROTOCOLS = {
    "full": "Every candidate competes, whenever it came to be.",
    "as-of": "What existed before the event competes, less what the user had seen.",
    "full, unseen": "Every item competes but those that the user had before.",
    "sampled": "The target among 100. Known to mislead; here only to compare with the paper's protocol.",
}
_PACKAGES = ("lsvcr", "torch", "onnxruntime", "numpy", "scipy", "scikit-learn")


@dataclass
class Study:
    """One data set's results: one `Result` per model, protocol, task and seed. `facts` become sentences.

    `ablation` are variants of the model with live signals, the whole one among them; `span` is when the test begins
    and ends, Unix ms, where there is such a time. `texts` are the SR on other text vectors, and less parts of stage 1;
    `texts_how` says how they were made. `cold` are targets that came after training, by the student and its teacher.
    `how` says how the models were trained, where it was not as usual.
    """

    data: str
    slug: str
    results: list[Result]
    facts: list[str] = field(default_factory=list)
    ablation: list[Result] = field(default_factory=list)
    span: tuple[int, int] | None = None
    texts: list[Result] = field(default_factory=list)
    texts_how: str = ""
    cold: list[Result] = field(default_factory=list)
    how: list[str] | None = None

    def of(self, task: str, protocol: str) -> dict[str, list[Result]]:
        """Results by model, in the order of the tables: the deployed model last but for the oracle."""
        found: dict[str, list[Result]] = {}
        for result in self.results:
            if (result.task, result.protocol) == (task, protocol):
                found.setdefault(result.model, []).append(result)
        return dict(sorted(found.items(), key=lambda item: (item[0].startswith(NAME), item[0] == ORACLE)))

    def protocols(self, task: str) -> list[str]:
        """The protocols of a task, in the order of appearance."""
        return list(dict.fromkeys(result.protocol for result in self.results if result.task == task))

    def rows(self) -> list[Row]:
        """The rows of `results.json`."""
        found = rows(self.data, self.results)
        known = {(row.task, row.protocol, row.model) for row in found}
        found += [r for r in rows(self.data, self.ablation) if (r.task, r.protocol, r.model) not in known]
        found += rows(self.data, [*self.texts, *text_report.named(self.cold)])
        for models in self.over_time().values():
            for results in models.values():
                found += over_time.rows(self.data, results, *self.span)  # type: ignore[misc]
        return found

    def over_time(self) -> dict[str, dict[str, list[Result]]]:
        """By task, the models whose figures over time are shown: ours, and the two baselines that are best overall."""
        if self.span is None:
            return {}
        shown = {}
        for task in _TASKS:
            for protocol in [p for p in ("as-of", "full") if p in self.protocols(task)][:1]:
                found = {name: results for name, results in self.of(task, protocol).items() if results[0].values}
                best = sorted((n for n in found if is_baseline(n)), key=lambda n: -headline(found[n]))[:2]
                names = [n for n in (NAME, LIVE_NAME) if n in found] + best
                shown[f"{_TASKS[task]}, {protocol}"] = {name: found[name] for name in names}
        return shown


def is_baseline(model: str) -> bool:
    """Whether a row is something to be compared with: neither ours nor the truth itself."""
    return not model.startswith(NAME) and model != ORACLE


def write_report(studies: Sequence[Study], out: Path, *, how: Sequence[str]) -> Path:
    """Write `out/results.md`, `out/results.json` and what is in `out/results`; returns the document.

    Data sets that are not among `studies` keep what was written of them before. `how` says how the models were
    trained, but for studies that say so themselves.
    """
    pictures = out / "results"
    pictures.mkdir(parents=True, exist_ok=True)
    parts = keep([_part(study, pictures, how) for study in studies], pictures)
    document = document_of(parts, out)
    # Of no target there is no mean.
    found = [row for study in studies for row in study.rows() if isfinite(row.mean)]
    keep_rows(found, [study.data for study in studies], parts, out / "results.json")
    return document


def write_texts(studies: Sequence[Study], parts: Sequence[Part], out: Path) -> Path:
    """Write the comparison of texts of some studies anew, and leave the rest of `parts`, which `written` gave."""
    pictures = out / "results"
    of = {part.data: part for part in parts}
    new = [structs.replace(of[study.data], texts=_texts(study, pictures)) for study in studies]
    parts = keep(new, pictures)
    found = [row for study in studies for row in study.rows() if isfinite(row.mean)]
    keep_rows(found, [study.data for study in studies], parts, out / "results.json", text_report.is_row)
    return document_of(parts, out)


def _part(study: Study, pictures: Path, how: Sequence[str]) -> Part:
    picture = draw(study, pictures / f"{study.slug}.png")
    section = [f"\n## {study.data}\n", "\n".join(f"- {fact}" for fact in study.facts)]
    section.append(f"\n![NDCG@10 of every model on {study.data}](results/{picture.name})\n")
    section += [_section(study, task, protocol) for task in _TASKS for protocol in study.protocols(task)]
    section += [ablation_report.section(study.data, study.slug, study.ablation, pictures), _time(study, pictures)]
    return Part(
        study.slug,
        study.data,
        _overview(study),
        _deployed(study),
        _bar(study),
        "\n".join(section),
        [*(how if study.how is None else study.how), _versions()],
        _texts(study, pictures),
    )


def _texts(study: Study, pictures: Path) -> str:
    compared = text_report.section(study.data, study.slug, study.texts, study.texts_how, pictures)
    return "\n".join(filter(None, (compared, text_report.cold_section(study.data, study.cold))))


def draw(study: Study, path: Path) -> Path:
    """One panel of horizontal bars (NDCG@10, whiskers one standard deviation over seeds) per task and protocol."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = [(task, protocol) for task in _TASKS for protocol in study.protocols(task)]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.6), squeeze=False, layout="constrained")
    for axis, (task, protocol) in zip(axes[0], panels, strict=True):
        found = [row for row in study.rows() if (row.task, row.protocol, row.metric) == (task, protocol, HEADLINE)]
        found.sort(key=lambda row: row.mean)
        found = [row for row in found if not ablation_report.is_variant(row.model)]
        colours = ["#c8553d" if row.model.startswith(NAME) else "#8d99ae" for row in found]
        means = [row.mean for row in found]
        spread = [row.std if row.seeds > 1 else float("nan") for row in found]
        axis.barh([row.model for row in found], means, xerr=spread, color=colours, capsize=2)
        for place, mean in enumerate(means):
            axis.annotate(
                f" {mean:.3f}", (mean, place), va="center", fontsize=8, xytext=(6, 0), textcoords="offset points"
            )
        axis.set_title(f"{_TASKS[task]}, {protocol}", fontsize=10)
        axis.set_xlabel("NDCG@10")
        axis.set_xlim(0, max(means, default=0) * 1.22 or 1)
        tidy(axis)
    figure.suptitle(f"{study.data}, {study.results[0].split} split")
    return saved(figure, path)


def _overview(study: Study) -> list[str]:
    lines = []
    for task in _TASKS:
        for protocol in study.protocols(task):
            found = {name: results for name, results in study.of(task, protocol).items() if results[0].values}
            best = max((n for n in found if is_baseline(n)), key=lambda n: headline(found[n]), default=None)
            for model in (n for n in found if n.startswith(NAME) and best is not None):
                verdict = compare(found[model], found[best or ""])
                lines.append(
                    f"| {study.data} | {task} | {protocol} | {model} | {headline(found[model]):.4f} | {best} | "
                    f"{headline(found[best or '']):.4f} | {verdict.word} it |"
                )
    return lines


def _bar(study: Study) -> list[str]:
    lines = []
    for task, names in ((task, names) for data, task, names in BAR if data == study.data):
        for protocol in study.protocols(task):
            found = study.of(task, protocol)
            for name, model in ((n, m) for n in names for m in (NAME, LIVE_NAME) if n in found and m in found):
                if found[model][0].values:
                    verdict = compare(found[model], found[name])
                    cells = (study.data, task, protocol, model, name, str(verdict), f"{verdict.word} it")
                    lines.append(f"| {' | '.join(cells)} |")
    return lines


def _deployed(study: Study) -> list[str]:
    lines = []
    for task, protocol in ((task, protocol) for data, task, protocol in DEPLOYED if data == study.data):
        found = {name: results for name, results in study.of(task, protocol).items() if results[0].values}
        for model in (m for m in (LIVE_NAME, NAME) if m in found):
            words = {n: compare(found[model], found[n]).word for n in found if is_baseline(n)}
            missed = [f"{n} ({word})" for n, word in words.items() if word != "above"]
            share = f"{headline(found[model]) / headline(found[ORACLE]):.1%}" if ORACLE in found else "–"
            above = f"{len(words) - len(missed)} of {len(words)}"
            cells = (study.data, task, protocol, model, f"{headline(found[model]):.4f}", above)
            lines.append(f"| {' | '.join(cells)} | {', '.join(missed) or 'none'} | {share} |")
    return lines


def _time(study: Study, pictures: Path) -> str:
    """How the figures move while the weights stand still."""
    panels = study.over_time()
    if not panels or study.span is None:
        return ""
    title = f"{study.data}: after training"
    picture = over_time.draw(title, panels, *study.span, NAME, pictures / f"{study.slug}-time.png")
    return (
        f"### After training ({study.data})\n\nNDCG@10 by tenth of the test period: weights stand still, histories and "
        "live signals go on. The baselines are the two that are best overall.\n\n"
        f"![NDCG@10 over time](results/{picture.name})\n"
    )


def _section(study: Study, task: str, protocol: str) -> str:
    found = study.of(task, protocol)
    counts = next(iter(found.values()))[0].counts
    candidates = next(iter(found.values()))[0].candidates
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if reason != "ranked" and count)
    lines = [
        f"### {_TASKS[task]}, {protocol} ranking\n",
        f"{_PROTOCOLS[protocol]} {counts['ranked']:,} targets ranked"
        + (f", not ranked: {left_out}" if left_out else "")
        + ("" if candidates != candidates else f"; {candidates:,.0f} candidates each on average")
        + ".\n",
        "| | " + " | ".join(_header(column) for column in COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    by_cell = {(row.model, row.metric): row for row in study.rows() if (row.task, row.protocol) == (task, protocol)}
    # Of those in this table: rows on other texts have one of their own.
    shown = [(metric, row.mean) for (model, metric), row in by_cell.items() if model in found]
    best = {column: max((mean for metric, mean in shown if metric == column), default=0.0) for column in COLUMNS}
    notes = []
    for model, results in found.items():
        name = f"**{model}**" if model.startswith(NAME) else model
        if not results[0].values:
            lines.append(f"| {name} | " + " | ".join("–" for _ in COLUMNS) + " |")
            notes.append(f"{model}: {results[0].note}.")
            continue
        cells = (_cell(by_cell[model, column], best[column]) for column in COLUMNS)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{note}\n" for note in notes), _prose(found)]) + "\n"


def _prose(found: dict[str, list[Result]]) -> str:
    """Which baselines the model is above, below and not told apart from."""
    return "\n\n".join(text for model in (NAME, LIVE_NAME) if (text := _standing(model, found)))


def _standing(model: str, found: dict[str, list[Result]]) -> str:
    if model not in found or not found[model][0].values:
        return ""
    words: dict[str, list[str]] = {"below": [], NOT_TOLD_APART: [], "above": []}
    for name, results in found.items():
        if is_baseline(name) and results[0].values:
            verdict = compare(found[model], results)
            words[verdict.word].append(f"{name} {verdict}")
    parts = [f"{word} {', '.join(names)}" for word, names in words.items() if names]
    return f"{model} is " + "; ".join(parts) + ". (Differences in NDCG@10 ± standard error.)" if parts else ""


def _cell(row: Row, best: float) -> str:
    text = f"{row.mean:.4f}" + (f" ± {row.std:.4f}" if row.seeds > 1 else "")
    return f"**{text}**" if row.mean == best else text


def _header(column: str) -> str:
    metric, k = column.split("@")
    return f"{_LABELS[metric]}@{k}"


def _versions() -> str:
    listed = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f"Made with Python {platform.python_version()}, {listed}."
