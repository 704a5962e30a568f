"""A refresh whose training went wrong: `python -m support.spoilt train refresh ...` is `lsvcr train refresh ...` so."""

from __future__ import annotations

from typing import Any

import torch

from offline_train import refresh
from offline_train.finetuning import Finetuned, finetune


def spoilt_training(*arguments: Any, **options: Any) -> Finetuned:
    """Training, and then the text map as noise: every score is a number, and none of them says anything."""
    done = finetune(*arguments, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        torch.nn.init.normal_(done.model.text.weight)
        torch.nn.init.normal_(done.model.ids.weight)
    return done


if __name__ == "__main__":
    from infra.cli import main

    refresh.finetune = spoilt_training
    main()
