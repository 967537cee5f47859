"""A causal model's likeliest ids captured by two Ray Data actors, and trainings of two workers that read them."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.data.corpus import Corpus
from raydistill.data.stored_outputs import TEACHER_ROWS
from raydistill.data.teacher_outputs import OutputSet
from raydistill.training.history import read_history
from toys.capture import capture_stage, context_of, train_stage, write_texts
from toys.families import toy_gpt2
from toys.models import VOCABULARY

ROWS = 110
STUDENT = {"architecture": "gpt2", "layers": [0, 2]}


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("top_k")
    write_texts(folder, toy_gpt2, "clm")
    stage = capture_stage(folder, task="clm", outputs=["top_k"], top_k=VOCABULARY)
    context = context_of(stage, folder / "capture", num_workers=2)
    return {"folder": folder, "summary": stage.run(context)}


def trained(folder: Path, output: str, reference: str) -> list[dict[str, float]]:
    """The history of one epoch by two workers, two micro-batches each."""
    stage = train_stage(
        folder,
        task="clm",
        method={"name": "kd", "temperature": 1.0, "alpha": 0.8},
        student=STUDENT,
        teacher_outputs=reference,
        training={"num_epochs": 1, "batch_size": 30, "micro_batch_size": 8},
    )
    stage.run(context_of(stage, folder / output, earlier={"capture": folder / "capture"}, num_workers=2, data_cpus=2))
    return read_history(folder / output)


def values(history: list[dict[str, float]], metric: str) -> list[float]:
    return [line[metric] for line in history if metric in line]


def test_trainings_on_stored_ids_run_no_teacher_and_lose_what_they_lose_with_it(captured: dict[str, Any]) -> None:
    assert captured["summary"]["teacher_rows"] == ROWS
    folder = captured["folder"]
    found = OutputSet.open(str(folder / "capture" / "teacher_0" / "corpus_0" / "train"))
    texts = Corpus.open(str(folder / "corpus" / "train")).read_rows(range(90))
    assert [len(row) for row in found.read(range(90))["top_k_log_tails"]] == [len(text) for text in texts]
    live, stored = trained(folder, "live", "live"), trained(folder, "stored", "capture")
    # 90 rows of an epoch, and 20 validation rows before and after it; then none.
    assert values(live, TEACHER_ROWS)[-1] == 90 + 2 * 20
    assert set(values(stored, TEACHER_ROWS)) == {0}
    for metric, count in {"train/loss": 3, "train/kd": 3, "validation/kd": 2}.items():
        assert len(values(live, metric)) == count
        # What is stored is rounded by 1 in 2,048 at most.
        assert values(stored, metric) == pytest.approx(values(live, metric), rel=2e-3)
    # The steps between both evaluations moved the student, so equal losses tell of equal gradients too.
    before, after = values(live, "validation/kd")
    assert abs(after - before) > 0.1 * before
