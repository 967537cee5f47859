"""What a training says of several teachers of a language model before it starts, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from raydistill.config.sections import ScalingConfig
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.models.load import load_model
from raydistill.stages import _corpora, _teacher_plan
from raydistill.stages.train import Stage
from toys.capture import context_of, write_sets
from toys.several_teachers import MIXED, captured, corpora_of, own_teachers, stage_of, write_two

# Rows of both corpora, 90 each.
ROWS = np.array([3, 120, 45, 91, 17])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("several")
    write_two(found)
    write_sets(found, found / "capture", **captured(found))
    return found


def lines_of(stage: Stage) -> list[str]:
    return list(stage.plan(ScalingConfig(memory_per_worker=1), {}).lines)


def test_all_teachers_are_counted_in_memory_and_placed(folder: Path) -> None:
    for options in (MIXED, own_teachers(folder)):
        lines = lines_of(stage_of(folder, options))
        assert sum(line.startswith("teacher ") and line.endswith(", replicate") for line in lines) == 2
    stage = stage_of(folder, MIXED)
    models = [load_model(folder / name / "teacher", head="causal_lm") for name in ("plays", "code")]
    demand = _teacher_plan.demand_of(stage.config, ScalingConfig(), [models[0].config, *(one.config for one in models)])
    # Tied weights count once.
    assert demand.teachers == tuple(4.0 * sum(each.numel() for each in one.parameters()) for one in models)


def test_stored_outputs_of_several_teachers_run_none_of_them(folder: Path) -> None:
    lines = lines_of(stage_of(folder, MIXED, str(folder / "capture")))
    assert sum(line.startswith("teacher ") and "is not run" in line for line in lines) == 2


def batch_of(folder: Path, options: dict[str, Any], outputs: str, tmp_path: Path) -> Any:
    stage = stage_of(folder, options, outputs)
    parts = _corpora.train_parts(stage.config.corpus, {})
    joined, _ = stage._joined(
        stage.config, stage.plan(ScalingConfig(), {}), {"train": parts}, context_of(stage, tmp_path)
    )
    spec = FeedSpec.make(parts, stage.config.task, stage.config.method, seed=1, stored=joined.get("train"))
    return BatchBuilder(spec).batch(ROWS, epoch=0, step=0)


def test_rows_have_the_number_of_their_corpus_s_teacher(folder: Path, tmp_path: Path) -> None:
    batch = batch_of(folder, own_teachers(folder), "live", tmp_path)
    assert batch["teacher_number"].tolist() == [1, 0, 1, 0, 1]
    assert [batch[f"taught_{number}_row_id"].tolist() for number in (0, 1)] == [[120, 91], [3, 45, 17]]
    assert "teacher_number" not in batch_of(folder, MIXED, "live", tmp_path)


def test_stored_rows_are_those_of_their_corpus_s_teacher_alone(folder: Path, tmp_path: Path) -> None:
    batch = batch_of(folder, own_teachers(folder), str(folder / "capture"), tmp_path)
    assert not any(name.startswith(("teacher_1", "taught_")) for name in batch.columns)
    said = []
    for name in ("plays", "code"):
        model = load_model(folder / name / "teacher", head="causal_lm").eval()
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long()).logits
        said.append(log_softmax(logits, -1).flatten(0, 1)[batch["token_index"]])
    of_token = batch["teacher_number"][batch["token_index"] // batch["input_ids"].shape[1]]
    expected = torch.stack(said).gather(0, of_token[None, :, None].expand(1, -1, said[0].shape[-1]))[0]
    stored = torch.empty_like(expected).scatter(-1, batch["teacher_0_top_k_ids"], batch["teacher_0_top_k_log_probs"])
    torch.testing.assert_close(stored, expected, rtol=1e-3, atol=1e-3)


def test_sets_of_other_masks_or_sizes_are_not_joined(folder: Path, tmp_path: Path) -> None:
    code = [str(folder / "code" / "teacher")]
    for number, (teachers, top_k) in enumerate(((None, 8), (code, 9))):
        changes = captured(folder) | {"top_k": top_k} | ({"teachers": teachers} if teachers else {})
        write_sets(folder, tmp_path / str(number), **changes)
    (tmp_path / "0" / "teacher_1").rename(tmp_path / "old")
    (tmp_path / "1" / "teacher_0").rename(tmp_path / "0" / "teacher_1")
    assert batch_of(folder, MIXED, str(tmp_path / "0"), tmp_path)
    with pytest.raises(ValueError, match=r"whose teachers kept 8, 9 ids per token; capture with one top_k"):
        batch_of(folder, own_teachers(folder), str(tmp_path / "0"), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": {"name": "kd"}}, "teachers has 2; method kd takes 1"),
        ({"method": {"name": "kd", "teacher_weights": [1, 2, 1]}}, "teachers has 2; method kd takes 3"),
        (
            {"method": {"name": "kd", "teacher_of": {"plays": 0, "code": 1}}},
            r"teacher_of has no teacher for corpus '/.*'",
        ),
    ],
)
def test_teachers_that_do_not_fit_are_refused_in_one_line(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        lines_of(stage_of(folder, {}, **change))
    assert "\n" not in str(error.value)


def test_a_teacher_of_a_corpus_that_is_not_read_is_refused(folder: Path) -> None:
    options = own_teachers(folder)
    options["teacher_of"]["letters"] = 1
    with pytest.raises(ValueError, match=r"method\.teacher_of names 'letters', which is not a corpus of this training"):
        lines_of(stage_of(folder, options))
    assert len(corpora_of(folder)) == 2
