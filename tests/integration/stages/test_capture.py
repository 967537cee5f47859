"""Teachers captured by Ray Data actors, and trainings that read what was stored against such that run the teacher."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from raydistill.data.corpus import Corpus
from raydistill.data.stored_outputs import TEACHER_ROWS
from raydistill.data.teacher_inference import Share, capture
from raydistill.data.teacher_outputs import OutputSet
from raydistill.data.teacher_outputs_writer import OutputSetWriter
from raydistill.training.history import read_history
from toys.capture import capture_stage, context_of, metrics_of, run_of, save_teacher, train_stage, write_labelled
from toys.classifiers import CLASSES

PARTS = {"train": 90, "validation": 20}
LAYERS = [3, 1]
NUM_STEPS = 4
CAPTURE: dict[str, Any] = {"outputs": ["logits", "cls_states", "dropout_scores"], "layers": LAYERS, "dropout_passes": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    found = tmp_path_factory.mktemp("capture")
    write_labelled(found)
    return found


def set_of(output: Path, part: str, *, teacher: int = 0) -> OutputSet:
    return OutputSet.open(str(output / f"teacher_{teacher}" / "corpus_0" / part))


def assert_close(first: OutputSet, second: OutputSet) -> None:
    """Equal but for the rounding of another number of threads."""
    assert first.header == second.header
    one, other = (found.read(range(len(found))) for found in (first, second))
    assert one.keys() == other.keys() == set(CAPTURE["outputs"])
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def captured(folder: Path) -> dict[str, Any]:
    """One capture by two actors."""
    context = context_of(capture_stage(folder), folder / "capture", num_workers=2)
    summary = capture_stage(folder, **CAPTURE).run(context)
    return {"output": context.output, "summary": summary, "metrics": metrics_of(context)}


def test_stored_outputs_are_those_of_plain_transformers_in_the_corpuss_order_of_rows_and_classes(
    folder: Path, captured: dict[str, Any]
) -> None:
    teacher = AutoModelForSequenceClassification.from_pretrained(folder / "teacher").eval()
    order = [teacher.config.label2id[name] for name in CLASSES]
    assert order == [2, 1, 0]
    for part, count in PARTS.items():
        texts = Corpus.open(str(folder / "corpus" / part)).read_rows(range(count))
        found = set_of(captured["output"], part).read(range(count))
        for row, text in enumerate(texts):
            with torch.no_grad():
                said = teacher(input_ids=torch.from_numpy(text.astype(np.int64))[None], output_hidden_states=True)
            states = torch.stack([said.hidden_states[layer][0, 0] for layer in LAYERS])
            torch.testing.assert_close(torch.from_numpy(found["logits"][row]), said.logits[0, order], atol=1e-5, rtol=0)
            torch.testing.assert_close(torch.from_numpy(found["cls_states"][row]), states, atol=1e-5, rtol=0)


def test_sets_have_the_corpuss_shards_and_count_their_rows(folder: Path, captured: dict[str, Any]) -> None:
    for part in PARTS:
        corpus = Corpus.open(str(folder / "corpus" / part))
        found = set_of(captured["output"], part)
        assert [shard.rows for shard in found.shards] == [shard.rows for shard in corpus.manifest.shards]
        assert found.header.corpus_hash == corpus.hash
        assert found.header.labels == CLASSES
    assert captured["summary"]["teacher_rows"] == sum(PARTS.values())
    assert captured["metrics"][TEACHER_ROWS] == [(0, sum(PARTS.values()))]


def test_what_is_stored_does_not_depend_on_the_number_of_actors(
    folder: Path, captured: dict[str, Any], tmp_path: Path
) -> None:
    capture_stage(folder, **CAPTURE).run(context_of(capture_stage(folder), tmp_path, num_workers=1))
    for part in PARTS:
        assert_close(set_of(tmp_path, part), set_of(captured["output"], part))


def test_an_interrupted_capture_runs_the_teacher_on_the_missing_shards_alone(
    folder: Path, captured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = OutputSetWriter.add

    def dying(writer: OutputSetWriter, row_ids: Any, values: Any) -> None:
        if row_ids[0] == 40:
            raise KeyboardInterrupt
        add(writer, row_ids, values)

    stage = capture_stage(folder, **CAPTURE)
    with monkeypatch.context() as patch:
        patch.setattr(OutputSetWriter, "add", dying)
        with pytest.raises(KeyboardInterrupt):
            stage.run(context_of(stage, tmp_path))
    context = context_of(stage, tmp_path)
    assert stage.run(context)["teacher_rows"] == sum(PARTS.values()) - 40
    assert metrics_of(context)[TEACHER_ROWS] == [(0, sum(PARTS.values()) - 40)]
    for part in PARTS:
        assert_close(set_of(tmp_path, part), set_of(captured["output"], part))
    assert stage.run(context_of(stage, tmp_path))["teacher_rows"] == 0


def test_a_damaged_corpus_ends_a_capture_with_one_line(folder: Path, tmp_path: Path) -> None:
    write_labelled(tmp_path)
    stage = capture_stage(tmp_path)
    run = run_of(stage, 0, context_of(stage, tmp_path / "out"))
    file = tmp_path / "corpus" / "validation" / "shards" / "part-00000.parquet"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(ValueError, match=r"part-00000\.parquet is not the file that was written there") as error:
        capture(run, Share())
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def trainings(folder: Path, captured: dict[str, Any]) -> dict[str, Any]:
    """Two epochs by two workers, three micro-batches each: with the teacher, and without."""
    # At the default temperature of 10 the term, multiplied by its square, is itself rounded to some 1e-6.
    options = {"method": {"name": "kd", "temperature": 1.0}, "training": {"batch_size": 46, "micro_batch_size": 8}}
    found = {}
    for name, reference in {"live": "live", "stored": "captured"}.items():
        stage = train_stage(folder, teacher_outputs=reference, **options)
        earlier = {"captured": captured["output"]} if name == "stored" else {}
        context = context_of(stage, folder / name, earlier=earlier, num_workers=2, data_cpus=2)
        found[name] = {"summary": stage.run(context), "history": read_history(context.output)}
    return found


def losses(training: dict[str, Any], metric: str) -> list[float]:
    return [line[metric] for line in training["history"] if metric in line]


def test_training_on_stored_outputs_equals_training_with_the_teacher(trainings: dict[str, Any]) -> None:
    for metric, count in {"train/loss": NUM_STEPS, "train/kd": NUM_STEPS, "validation/kd": 3}.items():
        live, stored = (losses(trainings[name], metric) for name in ("live", "stored"))
        assert len(live) == count
        assert stored == pytest.approx(live, abs=1e-6, rel=1e-6)
    assert losses(trainings["live"], "train/loss")[0] > 1.05 * losses(trainings["live"], "train/loss")[-1]
    first, second = (
        AutoModelForSequenceClassification.from_pretrained(trainings[name]["summary"]["student"]).state_dict()
        for name in ("live", "stored")
    )
    for name, tensor in first.items():
        # A key's bias changes no attention: its gradient is rounding alone, which Adam makes steps of.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(second[name], tensor, atol=1e-6, rtol=0)


def test_no_epoch_of_a_training_after_a_capture_runs_the_teacher(trainings: dict[str, Any]) -> None:
    # Two epochs of 90 rows, and 20 validation rows before the first step and after each epoch.
    assert losses(trainings["live"], TEACHER_ROWS)[-1] == 2 * 90 + 3 * 20
    assert set(losses(trainings["stored"], TEACHER_ROWS)) == {0}
    assert trainings["stored"]["summary"]["lineage"] == trainings["live"]["summary"]["lineage"]


@pytest.fixture
def other_teacher(folder: Path) -> Path:
    save_teacher(folder / "other", seed=9)
    return folder / "other"


def test_outputs_of_another_teacher_or_corpus_are_refused_with_both_hashes(
    folder: Path, captured: dict[str, Any], other_teacher: Path, tmp_path: Path
) -> None:
    reference = str(captured["output"])
    stage = train_stage(folder, teacher_outputs=reference, teachers=[str(other_teacher)])
    with pytest.raises(ValueError, match=r"are of a teacher with hash \w{64}, teachers\.0 has \w{64}; capture outputs"):
        stage.run(context_of(stage, tmp_path / "teacher"))
    write_labelled(tmp_path, rows_per_shard=50)
    stage = train_stage(folder, teacher_outputs=reference, corpus=str(tmp_path / "corpus"))
    with pytest.raises(ValueError, match=r"are of corpora with hash \w{64}, \w{64}, '.*train' has \w{64}; capture out"):
        stage.run(context_of(stage, tmp_path / "corpus-of-other-shards"))
