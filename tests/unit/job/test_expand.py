"""Which runs a job makes of stages with a matrix, and which runs these read."""

from typing import Any

import pytest

import raydistill
from raydistill.job.load import Job, load_job
from raydistill.job.record import stage_records
from raydistill.stages import train
from raydistill.user_error import UserError

TRAIN = {"kind": "train", "corpus": "data", "method": "finetune", "student": {"init": "checkpoint", "checkpoint": "x"}}


def load(**stages: Any) -> Job:
    return load_job({"name": "toy", "stages": {name: {**TRAIN, **stage} for name, stage in stages.items()}})


def evaluation(**models: str) -> dict[str, Any]:
    return {"kind": "evaluate", "corpus": "data", "models": models}


def job_with(stages: dict[str, Any]) -> Job:
    return load_job({"name": "toy", "seed": 9, "stages": stages})


def test_a_matrix_makes_a_run_of_each_combination_with_its_values() -> None:
    job = load(distill={"matrix": {"seed": [1, 2], "training.batch_size": [4, 8]}})
    assert list(job.runs) == [
        "distill[seed=1,training.batch_size=4]",
        "distill[seed=1,training.batch_size=8]",
        "distill[seed=2,training.batch_size=4]",
        "distill[seed=2,training.batch_size=8]",
    ]
    last = job.runs["distill[seed=2,training.batch_size=8]"]
    assert last.stage.config.training.batch_size == 8
    assert job.seed(last) == 2
    assert len({record.output for record in stage_records(job).values()}) == 4


def test_a_key_that_stands_in_the_matrix_alone_is_not_missing() -> None:
    stage = {key: value for key, value in TRAIN.items() if key != "method"}
    job = job_with({"distill": {**stage, "matrix": {"method": ["finetune"]}}})
    assert job.runs["distill[method=finetune]"].stage.config.method.name == "finetune"


def test_a_stage_runs_once_for_each_run_of_its_input_and_reads_that_one() -> None:
    job = load(
        teacher={"matrix": {"seed": [1, 2]}},
        distill={"student": {"init": "checkpoint", "checkpoint": "teacher"}},
        again={"student": {"init": "checkpoint", "checkpoint": "distill@initial"}},
    )
    assert list(job.runs)[2:] == ["distill[seed=1]", "distill[seed=2]", "again[seed=1]", "again[seed=2]"]
    second = job.runs["again[seed=2]"]
    assert second.inputs == {"distill": ("distill[seed=2]",)}
    assert job.seed(second) == 2


def test_axes_of_one_name_are_joined_and_others_are_combined() -> None:
    job = load(
        teacher={"matrix": {"seed": [1, 2]}},
        distill={
            "student": {"init": "checkpoint", "checkpoint": "teacher"},
            "matrix": {"seed": [2], "training.batch_size": [4, 8]},
        },
    )
    runs = [name for name in job.runs if name.startswith("distill")]
    assert runs == ["distill[seed=2,training.batch_size=4]", "distill[seed=2,training.batch_size=8]"]
    assert job.runs[runs[0]].inputs == {"teacher": ("teacher[seed=2]",)}


def test_a_value_that_no_run_of_the_input_has_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"distill\[seed=2\] finds no run of teacher with its values; .* teacher\[seed=1\]"
    ):
        load(
            teacher={"matrix": {"seed": [1]}},
            distill={"student": {"init": "checkpoint", "checkpoint": "teacher"}, "matrix": {"seed": [1, 2]}},
        )


def test_one_run_of_a_matrix_can_be_the_input_of_all() -> None:
    job = load(
        teacher={"matrix": {"seed": [1, 2]}},
        distill={"student": {"init": "checkpoint", "checkpoint": "teacher[seed=1]"}, "matrix": {"seed": [1, 2, 3]}},
    )
    assert job.runs["distill[seed=3]"].inputs == {"teacher[seed=1]": ("teacher[seed=1]",)}


def test_an_evaluation_reads_all_runs_in_one() -> None:
    job = job_with(
        {"distill": {**TRAIN, "matrix": {"seed": [1, 2]}}, "evaluate": evaluation(student="distill@initial")}
    )
    assert job.runs["evaluate"].inputs == {"distill": ("distill[seed=1]", "distill[seed=2]")}


def test_one_run_can_be_named() -> None:
    job = job_with(
        {"distill": {**TRAIN, "matrix": {"seed": [1, 2]}}, "evaluate": evaluation(student="distill[seed=2]")}
    )
    assert job.runs["evaluate"].inputs == {"distill[seed=2]": ("distill[seed=2]",)}


def test_a_run_that_there_is_not_is_refused_with_the_choices() -> None:
    with pytest.raises(UserError, match=r"'distill\[seed=3\]'; runs of distill: distill\[seed=1\], distill\[seed=2\]"):
        job_with({"distill": {**TRAIN, "matrix": {"seed": [1, 2]}}, "evaluate": evaluation(student="distill[seed=3]")})


def test_the_hash_of_a_reader_changes_with_any_run_it_reads() -> None:
    def digest(seeds: list[int]) -> str:
        stages = {"distill": {**TRAIN, "matrix": {"seed": seeds}}, "evaluate": evaluation(student="distill")}
        return stage_records(job_with(stages))["evaluate"].hash

    assert digest([1, 2]) != digest([1, 3])


def test_a_longer_matrix_keeps_the_runs_that_it_had() -> None:
    few = stage_records(load(distill={"matrix": {"seed": [1, 2]}}))
    more = stage_records(load(distill={"matrix": {"seed": [0, 1, 2]}}))
    assert few["distill[seed=1]"].output == more["distill[seed=1]"].output


def test_a_stage_of_another_format_makes_another_output_whatever_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage_records(load(distill={}))["distill"].hash
    monkeypatch.setattr(raydistill, "__version__", "9.9.9")
    assert stage_records(load(distill={}))["distill"].hash == before
    monkeypatch.setattr(train.Stage, "FORMAT", train.Stage.FORMAT + 1)
    assert stage_records(load(distill={}))["distill"].hash != before


def test_the_seed_comes_from_matrix_then_stage_then_job() -> None:
    job = job_with({"a": TRAIN, "b": {**TRAIN, "seed": 5}, "c": {**TRAIN, "seed": 5, "matrix": {"seed": [6]}}})
    assert [job.seed(run) for run in job.runs.values()] == [9, 5, 6]


def test_values_that_do_not_change_the_result_are_refused() -> None:
    job = load(distill={"matrix": {"training.zero_stage": [0, 2]}})
    with pytest.raises(ValueError, match="give the same result; remove one value"):
        stage_records(job)


@pytest.mark.parametrize("key", ["zero_stage", "logging_steps", "save_steps", "save_total_limit", "micro_batch_size"])
def test_a_run_continues_with_other_settings_of_how_it_is_made(key: str) -> None:
    few = stage_records(load(distill={"training": {key: 2}}))["distill"]
    more = stage_records(load(distill={"training": {key: 3}, "scaling": {"num_workers": 2}}))["distill"]
    assert few.hash == more.hash


@pytest.mark.parametrize(
    "coupling",
    [{"training": {"loss_normalization": "per_micro_batch"}}, {"task": {"name": "mlm", "sampling": "batch"}}],
    ids=["normalization", "task"],
)
def test_micro_batches_and_workers_count_where_rows_depend_on_those_beside_them(coupling: dict[str, Any]) -> None:
    def digest(size: int, num_workers: int) -> str:
        training = {**coupling.get("training", {}), "micro_batch_size": size}
        section = {**coupling, "training": training, "scaling": {"num_workers": num_workers}}
        return stage_records(load(distill=section))["distill"].hash

    assert len({digest(2, 1), digest(4, 1), digest(2, 2)}) == 3


def test_a_wrong_value_of_a_matrix_is_one_line_that_names_the_run() -> None:
    with pytest.raises(UserError) as caught:
        load(distill={"matrix": {"training.batch_size": [4, -1]}})
    [line] = caught.value.lines
    assert line.startswith("stages.distill[training.batch_size=-1].training.batch_size is -1")


def test_the_dump_of_a_job_with_a_matrix_loads_again_to_the_same_runs() -> None:
    job = load(distill={"matrix": {"seed": [1, 2], "method": ["finetune"]}})
    again = load_job(job.dump())
    assert [record.hash for record in stage_records(again).values()] == [
        record.hash for record in stage_records(job).values()
    ]
