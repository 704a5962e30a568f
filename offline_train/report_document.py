"""`results.md`, put together from its parts: what all data sets share, and what to know to read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from offline_train.deployed import LIVE_NAME
from offline_train.report_parts import Part, how_of


def document_of(parts: Sequence[Part], out: Path) -> Path:
    """Write `out/results.md`; returns it."""
    required = [_REQUIRED, *(line for part in parts for line in part.required)]
    text = [
        _HEAD,
        "## In short\n",
        "\n".join([*_OVERVIEW, *(line for part in parts for line in part.overview)]),
        "\n## Required of the model\n",
        "\n".join([*_DEPLOYED, *(line for part in parts for line in part.deployed)]),
        "\nFurther, against single baselines:\n",
        "\n".join(required),
        *(f"{part.section}\n{part.texts}" for part in parts),
        "\n## How this was made\n",
        "\n".join(f"- {line}" for line in how_of(parts)),
        _NOTES,
    ]
    document = out / "results.md"
    # Parts that a data set has not, leave their blank lines.
    whole = re.sub(r"\n{3,}", "\n\n", "\n".join(text)).rstrip()
    document.write_text(whole + "\n", encoding="utf-8")
    return document


_HEAD = """# Offline results

Written by `lsvcr evaluate results` (`make results`); the figures are in `results.json`. The model stands beside every
baseline, also where it loses. Temporal split: the last tenth of the samples is the test, the tenth before it chose the
model. Weights and statistics stand still during the test; histories, and what a baseline counts "so far" or "of the
last days", go on with the stream.
"""

_OVERVIEW = (
    "NDCG@10; the baseline named is the strongest one of its row. *above*, *below*: by more than 1.96 standard errors "
    "of the difference per target; else *not told apart from*.\n",
    "| data | task | ranking | model | NDCG@10 | strongest baseline | its NDCG@10 | the model is |",
    "|---|---|---|---|---|---|---|---|",
)
_DEPLOYED = (
    f"{LIVE_NAME}, which is what a worker serves, has to be above every baseline; the SR alone stands beside it.\n",
    "| data | task | ranking | model | NDCG@10 | above | not above | share of the oracle's |",
    "|---|---|---|---|---|---|---|---|",
)
_REQUIRED = (
    "| data | task | ranking | model | baseline | difference in NDCG@10 | the model is |\n|---|---|---|---|---|---|---|"
)

_NOTES = """
## How to read it

- One relevant target per question. R is Recall (the target is among the first k), NDCG and MRR weigh its place; at 1
  all three are the same figure.
- Ties are broken at random, and the figure is the exact expectation over that: a constant score has the figures of the
  random ranking.
- Targets that a ranking cannot have are counted: *new*, it did not exist before the event; *seen*, the user had seen
  it; *alone*, nothing competes with it; *revealed*, the user writes it and had written the same text before.
- ± in the tables is the standard deviation over seeds. It says nothing about the choice of test targets; the standard
  errors of the differences do, taking targets as independent.
- "popularity (all time)" and "most liked" count the training period and stand still; "so far" goes on counting.
"""
