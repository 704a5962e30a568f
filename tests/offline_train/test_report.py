"""The document says what the figures say, whoever wins."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from offline_train.comparison import Row
from offline_train.deployed import NAME
from offline_train.evaluation import LEAK, Result
from offline_train.metrics import Ranks, summary
from offline_train.report import COLUMNS, Study, write_report
from offline_train.study import text_report

N = 400


def result(model: str, rank: int, task: str = "video", protocol: str = "full", wobble: int = 0) -> Result:
    """A scorer that puts nearly every target at one rank."""
    above = np.full(N, rank - 1)
    above[: 3 + wobble] += 1
    ranks = Ranks(above, np.ones(N, np.int64))
    counts = {"ranked": N, "revealed": 0, "new": 7, "seen": 0, "alone": 2}
    return Result(task, protocol, "temporal", model, summary(ranks), counts, 42.0, ranks=ranks)


def study(model_rank: int) -> Study:
    results = [result("random", 9), result("random", 9, wobble=5), result("popularity (all time)", 4)]
    results += [result(NAME, model_rank), result(NAME, model_rank, wobble=9)]
    results += [result(name, 3, "comment") for name in ("random", "most liked", NAME)]
    results.append(Result("comment", "full", "temporal", "newest first", {}, results[0].counts, 42.0, LEAK))
    return Study("HetRec", "hetrec", results, ["Some fact."])


@pytest.fixture
def winner(tmp_path: Path) -> str:
    return write_report([study(2)], tmp_path, how=["Trained by hand."]).read_text()


def test_a_model_that_wins_is_above_everything(winner: str) -> None:
    assert f"{NAME} is above random" in winner
    assert f"| HetRec | video | full | {NAME} | random |" in winner
    assert "below it" not in winner


def test_a_model_that_loses_is_said_to_lose(tmp_path: Path) -> None:
    text = write_report([study(6)], tmp_path, how=[]).read_text()
    assert re.search(
        r"\| HetRec \| video \| full \| LSVCR \| popularity \(all time\) \| -0\.\d+ ± 0\.\d+ \| below it \|", text
    )
    assert f"{NAME} is below popularity (all time) -0." in text
    assert re.search(
        r"\| HetRec \| video \| full \| LSVCR \| 0\.\d+ \| popularity \(all time\) \| 0\.\d+ \| below it \|", text
    )


def test_an_equal_is_not_told_apart(winner: str) -> None:
    assert re.search(
        r"\| HetRec \| comment \| full \| LSVCR \| most liked \| \+0\.0000 ± 0\.0000 \| not told apart from it", winner
    )


def test_tables_have_every_figure_the_counts_and_the_leak(winner: str) -> None:
    header = next(line for line in winner.splitlines() if line.startswith("| | R@1"))
    assert header.count("|") == len(COLUMNS) + 2
    assert "400 targets ranked, not ranked: 7 new, 2 alone; 42 candidates" in winner
    assert "| newest first | – |" in winner
    assert f"newest first: {LEAK}." in winner
    assert "± 0." in next(line for line in winner.splitlines() if line.startswith(f"| **{NAME}**"))


def test_best_figures_are_bold_and_the_model_stands_last(winner: str) -> None:
    table = winner.split("### Videos, full ranking")[1].split("\n\n")[2].splitlines()
    models = [line.split("|")[1].strip() for line in table[2:]]
    assert models == ["random", "popularity (all time)", f"**{NAME}**"]
    ndcg = 2 + COLUMNS.index("ndcg@10")
    bold = [line.split("|")[ndcg].strip().startswith("**") for line in table[2:]]
    assert bold == [False, False, True]


def test_a_row_of_another_table_takes_no_bold_figure_away(winner: str, tmp_path: Path) -> None:
    one = study(2)
    one.texts = [result("lsvcr", 1)]
    text = write_report([one], tmp_path / "more", how=["Trained by hand."]).read_text()
    line = next(line for line in winner.splitlines() if line.startswith(f"| **{NAME}**"))
    assert "| **0." in line
    assert line in text.splitlines()


def test_the_picture_is_drawn_where_the_document_says(winner: str, tmp_path: Path) -> None:
    name = re.search(r"\((results/[a-z-]+\.png)\)", winner)
    assert name
    assert (tmp_path / name[1]).read_bytes().startswith(b"\x89PNG")


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_report([study(2)], tmp_path / folder, how=[])
    for name in ("results.md", "results/hetrec.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_data_sets_that_are_not_done_again_stay_as_they_were(tmp_path: Path) -> None:
    other = study(2)
    other.data, other.slug, other.facts = "Elsewhere", "elsewhere", ["Another fact."]
    write_report([study(2)], tmp_path, how=["Trained by hand."])
    document = write_report([other], tmp_path, how=["Trained by foot."])
    text = document.read_text()
    assert text.index("## Elsewhere") < text.index("## HetRec")
    assert "- Some fact." in text
    assert "- Another fact." in text
    assert "- HetRec: Trained by hand." in text
    assert "- Elsewhere: Trained by foot." in text
    assert "| HetRec | video | full | LSVCR | random |" in text, "what is required of the model is told of both"
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {row["data"] for row in rows} == {"HetRec", "Elsewhere"}
    again = write_report([study(6)], tmp_path, how=["Trained by hand."]).read_text()
    assert again.count("## HetRec") == 1
    assert f"{NAME} is below popularity (all time)" in again
    both = write_report([study(6), other], tmp_path, how=["Trained by hand."]).read_text()
    assert "\n\n\n" not in both
    assert "\n- Trained by hand." in both
    other.how = ["Trained on horseback."]
    own = write_report([study(6), other], tmp_path, how=["Trained by hand."]).read_text()
    assert "- HetRec: Trained by hand." in own
    assert "- Elsewhere: Trained on horseback." in own


@pytest.mark.parametrize(
    ("model", "protocol", "belongs"),
    [
        ("lsvcr", "as-of", True),
        ("lsvcr (videos alone), unknown first", "full", True),
        ("random, unknown first", "as-of", True),
        ("no-stage-1", "full", True),
        ("ids alone", "as-of", True),
        ("SVD text", "as-of", True),
        ("text profile (lsvcr)", "full", True),
        ("student's vectors", "as-of, cold", True),
        ("LSVCR", "as-of", False),
        ("random", "as-of", False),
        ("LSVCR (ids alone)", "full, unseen", False),
        ("text profile (SVD text)", "full", False),
        ("text profile (TF-IDF)", "full", False),
    ],
)
def test_rows_of_the_comparison_of_texts_are_told_from_the_others(model: str, protocol: str, belongs: bool) -> None:
    row = Row("HetRec", "video", protocol, "temporal", model, "ndcg@10", 0.1, 0.0, 1)
    assert text_report.is_row(row) == belongs
