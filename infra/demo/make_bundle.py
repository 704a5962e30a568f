"""Train the bundle that ships with the project: `make demo-bundle`. The same platform and seed give the same model."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from infra.demo.platform import BUNDLE, PLATFORM


def make(out: Path, console: Console) -> Path:
    """Simulate the demo's platform, train on its log, and write the bundle to `out`."""
    from offline_train.corpus import Corpus, temporal_split
    from offline_train.distill import DistillConfig
    from offline_train.export import export, train_student
    from offline_train.finetuning import finetune
    from offline_train.finetuning_config import FinetuneConfig
    from offline_train.log import Log
    from offline_train.sources.simulator import Simulator
    from offline_train.text import text_vectors

    # The simulator has few words, so few buckets do; it keeps what ships small.
    student_config = DistillConfig(bits=12, threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "log"
        console.print(f"simulating {PLATFORM.interactions} interactions of {PLATFORM.users} users ...")
        Simulator(PLATFORM).write(folder)
        corpus = Corpus.build(Log.read(folder))
        split = temporal_split(corpus)
        console.print("training ...")
        texts = text_vectors(corpus.log, "svd", split.valid_ms, 0)
        finetuned = finetune(corpus, split, texts, FinetuneConfig(seed=PLATFORM.seed, threads=1))
        best = finetuned.curve[finetuned.best_epoch]
        console.print(
            f"epoch {finetuned.best_epoch}: NDCG@5 videos {best.video_ndcg5:.4f}, comments {best.comment_ndcg5:.4f}"
        )
        student = train_student(finetuned, corpus, split, student_config)
        console.print(f"student: mean cosine to the model's own vectors {student.metrics['cosine']:.3f}")
        version = f"demo-{PLATFORM.seed}"
        export(finetuned, corpus, split, texts, Path(scratch) / "bundle", student=student, version=version)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(Path(scratch) / "bundle", out)
    return out


if __name__ == "__main__":
    made = make(BUNDLE, Console(stderr=True))
    size = sum(file.stat().st_size for file in made.iterdir())
    sys.stdout.write(f"{made}: {size / 1e6:.1f} MB\n")
