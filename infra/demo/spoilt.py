"""A refresh whose training went wrong.

`python -m infra.demo.spoilt train refresh ...` is `lsvcr train refresh ...` with that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from offline_train import refresh
from offline_train.finetuning import Finetuned, finetune


def spoilt_training(*arguments: Any, **options: Any) -> Finetuned:
    """Training, and then everything that is known of an item goes to another: scores are numbers that say nothing.

    (Noise for the text map would not do: a random projection keeps texts that are alike alike.)
    """
    done = finetune(*arguments, **options)
    torch.manual_seed(1)
    titles, comments = done.tables.titles, done.tables.comments
    shuffled = torch.cat((comments[:-1][torch.randperm(len(comments) - 1)], comments[-1:]))
    done.tables = replace(done.tables, titles=titles[torch.randperm(len(titles))], comments=shuffled)
    with torch.no_grad():
        done.model.ids.weight.copy_(done.model.ids.weight[torch.randperm(len(titles))])
    return done


if __name__ == "__main__":
    from infra.cli import main

    refresh.finetune = spoilt_training
    main()
