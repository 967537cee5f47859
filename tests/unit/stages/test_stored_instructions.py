"""What is stored of a teacher at the tokens of completions alone, and the students that read it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydistill.batch import Batch
from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.data.teacher_outputs import OutputSet
from raydistill.models.load import load_model
from raydistill.stages import _corpora
from raydistill.stages._base import Input
from toys.capture import capture_stage, context_of, run_of, train_stage, write_sets
from toys.chats import write_chats
from toys.families import toy_gpt2
from toys.models import VOCABULARY, parameter_gradients

ROWS = np.array([31, 2, 17, 40])
CLM, WITH_PROMPTS = "clm", {"name": "clm", "train_on_prompt": True}
COMPLETION = {"name": "kd", "temperature": 1.0, "positions": "completion"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of conversations, a teacher, and sets of all its ids: at completions, and at prompts too."""
    found = tmp_path_factory.mktemp("chats")
    write_chats(found, toy_gpt2)
    write_sets(found, found / "whole", task=CLM, outputs=["top_k"], top_k=VOCABULARY)
    write_sets(found, found / "prompts", task=WITH_PROMPTS, outputs=["top_k"], top_k=VOCABULARY)
    return found


def stage_of(folder: Path, stored: str, *, method: Any = COMPLETION, task: Any = CLM) -> Any:
    outputs = str(folder / stored) if (folder / stored).is_dir() else stored
    student = {"architecture": "gpt2", "layers": [0, 2]}
    return train_stage(folder, task=task, method=method, teacher_outputs=outputs, student=student)


def losses(folder: Path, output: Path, stored: str, **options: Any) -> list[Any]:
    """Loss, gradients and teacher's rows with stored outputs, then with the teacher on the same batch, in float64."""
    stage = stage_of(folder, stored, method={**COMPLETION, **options.pop("method", {})}, **options)
    parts = _corpora.train_parts(stage.config.corpus, {})
    joined, _ = stage._joined(
        stage.config, stage.plan(ScalingConfig(), {}), {"train": parts}, context_of(stage, output)
    )
    spec = FeedSpec.make(parts, stage.config.task, stage.config.method, seed=1, stored=joined["train"])
    batch = BatchBuilder(spec).batch(ROWS, epoch=1, step=0)
    plain = {name: column for name, column in batch.columns.items() if not name.startswith("teacher_0")}
    teacher = load_model(folder / "teacher", head="causal_lm").double().eval()
    found = []
    for of, teachers in ((batch, []), (Batch(plain, seed=1, epoch=1, step=0), [teacher])):
        student = toy_gpt2(2, seed=9)
        made = stage.config.method.build(student, teachers)
        loss, _ = made(of)
        found.append((loss.item(), parameter_gradients(loss, student), made.teacher_rows))
    return found


@pytest.mark.parametrize(("stored", "task"), [("whole", CLM), ("prompts", WITH_PROMPTS)])
@pytest.mark.parametrize("alpha", [0.6, 1.0])
def test_with_all_ids_loss_and_gradients_are_the_teachers_within_the_rounding(
    folder: Path, tmp_path: Path, stored: str, task: Any, alpha: float
) -> None:
    kept, live = losses(folder, tmp_path, stored, task=task, method={"alpha": alpha})
    assert (kept[2], live[2]) == (0, len(ROWS))
    # Log-probabilities are rounded by 1 in 2,048 at most.
    assert kept[0] == pytest.approx(live[0], rel=1e-3)
    for name, gradient in live[1].items():
        torch.testing.assert_close(kept[1][name], gradient, rtol=0.01, atol=1e-3)


def test_a_row_keeps_a_distribution_for_each_predicted_token_and_for_no_other(folder: Path) -> None:
    corpus = Corpus.open(str(folder / "corpus" / "train"))
    every = np.arange(len(corpus))
    spans = corpus.read_columns(every).column("loss_spans").to_pylist()
    predicted = [sum(own[1::2]) - sum(own[::2]) for own in spans]
    found = OutputSet.open(str(folder / "whole" / "teacher_0" / "corpus_0" / "train"))
    assert [len(row) for row in found.read(every)["top_k_log_tails"]] == predicted
    too = OutputSet.open(str(folder / "prompts" / "teacher_0" / "corpus_0" / "train"))
    assert [len(row) for row in too.read(every)["top_k_log_tails"]] == [int(length) - 1 for length in corpus.lengths[:]]
    assert sum(predicted) < 0.6 * corpus.manifest.tokens


def test_the_size_that_a_capture_tells_is_that_of_completions(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = capture_stage(folder, task=CLM, outputs=["top_k"], top_k=8)
    [line] = stage.plan(ScalingConfig(), {}).lines
    assert "stores top_k: up to 0." in line
    corpora = [Corpus.open(str(folder / "corpus" / part)) for part in ("train", "validation")]
    spans = [own for one in corpora for own in one.read_columns(np.arange(len(one))).column("loss_spans").to_pylist()]
    places = sum(sum(own[1::2]) - sum(own[::2]) for own in spans)
    assert sum(stage._tokens(one) for one in corpora) == places
    with caplog.at_level("INFO"):
        stage.check_room(0, run_of(stage, 0, context_of(stage, tmp_path)), tmp_path, remedy="make room")
    size = sum(map(len, corpora)) * 8 + places * (8 * 4 + 2)
    assert f"about {size / 2**20:,.1f} MiB" in caplog.text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"method": {**COMPLETION, "positions": "all"}},
            "method.positions is 'all', but of prompts and messages only what the teacher says of predicted tokens is "
            "stored; write method.positions: completion, or teacher_outputs: live",
        ),
        (
            {"task": WITH_PROMPTS},
            "captured with task.train_on_prompt: false, but the training has true; make both equal",
        ),
    ],
)
def test_what_stored_completions_cannot_give_is_refused_in_one_line(folder: Path, changes: Any, line: str) -> None:
    capture = capture_stage(folder, task=CLM, outputs=["top_k"], top_k=VOCABULARY)
    planned = {"capture": Input(capture.plan(ScalingConfig(), {}).makes)}
    for stored, inputs in (("whole", {}), ("capture", planned)):
        assert stage_of(folder, stored).plan(ScalingConfig(), inputs)
        with pytest.raises(ValueError, match=r".") as refusal:
            stage_of(folder, stored, **changes).plan(ScalingConfig(), inputs)
        assert str(refusal.value).endswith(line)
        assert "\n" not in str(refusal.value)
