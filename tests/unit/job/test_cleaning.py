"""``raydistill clean``: what would go and how much, what stays, and that the job goes on from that."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.config import yaml_text
from raydistill.job.load import load_job
from raydistill.job.record import job_folder, stage_records
from raydistill.job.run import folder_alone
from toys.checkpoint import save_student

TRAINING = {
    "checkpoints/checkpoint_000000010/tensors": 3000,
    "initial/weights": 500,
    "best-10/weights": 450,
    "student/weights": 500,
}


def invoke(*arguments):
    return CliRunner().invoke(app, ["clean", *map(str, arguments)])


@pytest.fixture
def job(tmp_path):
    """A job whose corpus, training and registration are finished; the training with other values left a folder too."""
    save_student(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("w5 w6\n")
    stages = {
        "corpus": {
            "kind": "binarize",
            "source": {"name": "text", "path": str(tmp_path / "texts.txt")},
            "encoding": {"name": "mlm", "max_length": 16},
            "tokenizer": str(tmp_path / "model"),
        },
        "teacher": {
            "kind": "train",
            "corpus": "corpus",
            "method": "finetune",
            "student": {"init": "checkpoint", "checkpoint": str(tmp_path / "model")},
        },
        "register": {"kind": "register", "model": "teacher", "name": "student"},
    }
    raw = {"name": "toy", "storage": str(tmp_path / "runs"), "stages": stages}
    file = tmp_path / "job.yaml"
    file.write_text(yaml_text.dump(raw))
    records = stage_records(load_job(raw))
    for name, files in {"corpus": {"train/shard": 700}, "teacher": TRAINING, "register": {}}.items():
        write(records[name].output, files)
        records[name].write({}, seconds=1.0)
    write(job_folder(load_job(raw)) / "teacher-01234567", {"student/weights": 400})
    write(job_folder(load_job(raw)) / "notes", {"mine": 100})
    return file, {name: record.output for name, record in records.items()}


def write(folder: Path, files: dict[str, int]) -> None:
    folder.mkdir(parents=True)
    for name, size in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(size))


def test_all_but_the_student_of_finished_trainings_and_outputs_of_other_values_would_go(job):
    file, outputs = job
    found = json.loads(invoke(file, "--json").stdout)
    stale = outputs["teacher"].with_name("teacher-01234567")
    assert found == {
        "deleted": False,
        "bytes": 4350,
        "folders": [
            {"path": str(outputs["teacher"] / "checkpoints"), "bytes": 3000, "why": "the training is finished"},
            {"path": str(outputs["teacher"] / "initial"), "bytes": 500, "why": "the training is finished"},
            {"path": str(outputs["teacher"] / "best-10"), "bytes": 450, "why": "the training is finished"},
            {"path": str(stale), "bytes": 400, "why": "the job with other values made it"},
        ],
    }
    assert (outputs["teacher"] / "checkpoints").is_dir()
    assert stale.is_dir()


def test_what_is_told_is_deleted_and_the_job_is_finished_still(job):
    file, outputs = job
    before = sum(path.stat().st_size for path in file.parent.rglob("*") if path.is_file())
    done = invoke(file, "--yes")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "       0.0 MB  deleted"
    assert before - sum(path.stat().st_size for path in file.parent.rglob("*") if path.is_file()) == 4350
    assert all(
        record.finished
        for record in stage_records(load_job(yaml_text.parse_mapping(file.read_text(), source="job"))).values()
    )
    assert (outputs["teacher"] / "student" / "weights").is_file()
    assert (outputs["corpus"].parent / "notes" / "mine").is_file()
    assert invoke(file).stdout == "nothing would go\n"


def test_a_training_that_is_not_finished_keeps_its_checkpoints(job):
    file, outputs = job
    (outputs["teacher"] / "stage.json").unlink()
    assert [one["path"] for one in json.loads(invoke(file, "--json").stdout)["folders"]] == [
        str(outputs["teacher"].with_name("teacher-01234567"))
    ]


def test_the_student_before_training_stays_where_a_stage_names_it(job):
    file, outputs = job
    raw = yaml_text.parse_mapping(file.read_text(), source="job")
    evaluate = {"kind": "evaluate", "corpus": "corpus", "models": {"before": "teacher@initial", "after": "teacher"}}
    file.write_text(yaml_text.dump({**raw, "stages": {**raw["stages"], "evaluate": evaluate}}))
    assert invoke(file, "--yes").exit_code == 0
    assert sorted(path.name for path in outputs["teacher"].iterdir()) == ["initial", "stage.json", "student"]


def test_checkpoints_that_are_to_be_kept_stay(job):
    file, outputs = job
    found = json.loads(invoke(file, "teacher.training.keep_checkpoints=true", "--json").stdout)["folders"]
    assert [one["path"] for one in found] == [str(outputs["teacher"].with_name("teacher-01234567"))]


def test_all_but_what_people_read_goes_once_the_models_are_registered(job):
    file, outputs = job
    paths = {one["path"] for one in json.loads(invoke(file, "--keep", "registered", "--json").stdout)["folders"]}
    assert paths == {
        str(outputs["corpus"]),
        str(outputs["teacher"]),
        str(outputs["teacher"].with_name("teacher-01234567")),
    }
    (outputs["register"] / "stage.json").unlink()
    paths = {one["path"] for one in json.loads(invoke(file, "--keep", "registered", "--json").stdout)["folders"]}
    assert str(outputs["corpus"]) not in paths


def test_a_job_that_runs_is_left_alone(job):
    file, outputs = job
    with folder_alone(outputs["teacher"].parent, "job toy"):
        done = invoke(file, "--yes")
    assert done.exit_code == 2
    assert done.stderr.startswith("job toy is already running in ")
    assert (outputs["teacher"] / "checkpoints").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--keep", "nothing"], "--keep is 'nothing'; Choices: outputs, registered"), (["no_such_job"], "no_such_job")],
)
def test_what_is_wrong_is_told_in_one_line(job, arguments, message):
    done = invoke(*(arguments if arguments[0] == "no_such_job" else [job[0], *arguments]))
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_a_job_that_never_ran_has_nothing(tmp_path):
    assert invoke("demo", f"storage={tmp_path}").stdout == "nothing would go\n"
