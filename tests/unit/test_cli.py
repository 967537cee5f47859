import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydistill import __version__
from raydistill.cli import app
from raydistill.commands import models

ROOT = Path(__file__).parents[2]
JOB = """\
name: toy
description: A toy
storage: {storage}
stages:
  corpus:
    kind: binarize
    source: {{name: text, path: texts/*.txt}}
    tokenizer: some/folder
  adapt: {{kind: train, corpus: corpus, method: finetune, student: {{init: checkpoint, checkpoint: some/folder}}}}
  distill:
    kind: train
    corpus: corpus
    method: {{name: causal, mapping: middle_6}}
    teachers: [adapt]
    student: {{num_layers: 6}}
"""
HEAVY = ("torch", "ray", "transformers", "deepspeed", "mlflow", "pyarrow", "numpy")


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(JOB.format(storage=tmp_path / "runs"))
    return path


@pytest.fixture
def checked(monkeypatch):
    """Jobs that were checked, by a preflight that accepts all of them."""
    from raydistill.job import preflight

    jobs = []

    def check(job):
        jobs.append(job)
        return [preflight.Preview(name, False, [f"forecast of {name}"]) for name in job.stages]

    monkeypatch.setattr(preflight, "check_job", check)
    return jobs


@pytest.fixture
def runner(monkeypatch, checked):
    """Sets what running a job does: raises an exception, or returns nothing but its folder."""
    from raydistill.job import record, run

    def set_outcome(error=None):
        started = []

        def run_job(job, *, echo):
            started.append(job)
            record.job_folder(job).mkdir(parents=True)
            echo("corpus: started")
            if error is not None:
                raise error
            entry = {"model": "student", "assignment": {}, "figures": {"loss": 2.0, "perplexity": 7.4}}
            folder = record.job_folder(job)
            return run.JobResult(folder, {"corpus": folder / "corpus"}, {"corpus": {"entries": [entry]}}, ["corpus"])

        monkeypatch.setattr(run, "run_job", run_job)
        return started

    return set_outcome


@pytest.mark.parametrize(
    "command",
    [
        *("run", "validate", "ls", "cp", "track-sync", "convert", "clean", "predict", "export", "serve"),
        *(f"models {each.name}" for each in models.app.registered_commands),
    ],
)
def test_every_command_shows_an_example_in_its_help(command):
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example:\n    raydistill {command} " in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["models", "promote", "--help"],
        ["convert", "--help"],
        *(["ls", kind] for kind in ("jobs", "methods", "sources", "stages")),
    ],
)
def test_help_and_lists_import_nothing_heavy_and_take_less_than_a_second(arguments):
    code = (
        "import sys\nfrom raydistill.__main__ import main\nsys.argv = ['raydistill', *sys.argv[1:]]\n"
        "try:\n    main()\nfinally:\n"
        f"    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout
    assert done.stderr.strip() == "[]"
    # Time of this process on a core, which other processes of the machine do not lengthen.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_version_is_printed():
    assert invoke("--version").output == f"raydistill {__version__}\n"


def test_run_checks_runs_and_tells_the_figures_and_places(job, runner, tmp_path):
    started = runner()
    result = invoke("run", job)
    assert result.exit_code == 0, result.output
    assert len(started) == 1
    assert "corpus: forecast of corpus" in result.stdout
    assert "corpus: started" in result.stdout
    assert "perplexity" in result.stdout
    assert str(tmp_path / "runs" / "toy" / "corpus") in result.stdout
    assert f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/runs/mlflow.db" in result.stdout


def test_run_gives_machines_one_json_document(job, runner):
    runner()
    result = invoke("run", job, "--json")
    content = json.loads(result.stdout)
    assert content["stages"]["corpus"]["skipped"] is True
    assert content["stages"]["corpus"]["summary"]["entries"][0]["figures"]["loss"] == 2.0
    assert content["stages"]["corpus"]["groups"][0]["figures"]["loss"] == {"mean": 2.0, "spread": None, "n": 1}
    assert "corpus: started" in result.stderr


def test_a_dry_run_checks_and_runs_nothing(job, runner, checked):
    started = runner()
    result = invoke("run", job, "--dry-run")
    assert result.exit_code == 0
    assert len(checked) == 1
    assert not started
    assert "distill: forecast of distill" in result.stdout


def test_overrides_reach_the_job_that_runs(job, runner):
    started = runner()
    assert invoke("run", job, "scaling.num_workers=3", "method.temperature=4", "seed=7").exit_code == 0
    assert started[0].config.scaling.num_workers == 3
    assert started[0].config.seed == 7
    assert started[0].stages["distill"].config.method.config.temperature == 4


def test_an_override_that_several_stages_take_lists_them_and_exits_2(job, runner):
    started = runner()
    result = invoke("run", job, "training.batch_size=4")
    assert (result.exit_code, started) == (2, [])
    assert "write adapt.training.batch_size or distill.training.batch_size" in result.stderr


def test_every_mistake_is_one_line_on_standard_error_and_exits_2(job):
    job.write_text(job.read_text().replace("mapping", "maping") + "sed: 3\n")
    result = invoke("run", job)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(
        f"{job}: stages.distill.method.maping is not an option of method causal; did you mean 'map"
    )
    assert lines[1].startswith(f"{job}: sed is not an option; did you mean 'seed'? Choices: ")
    assert "Traceback" not in result.output


def test_a_stage_that_refers_to_a_later_one_is_refused(job):
    job.write_text(job.read_text().replace("teachers: [adapt]", "teachers: [distill]"))
    result = invoke("run", job)
    assert result.exit_code == 2
    assert "stages.distill.teachers.0 is 'distill', which does not come before distill; move it up" in result.stderr


def test_an_unknown_job_is_offered_the_closest_one():
    result = invoke("run", "dmo")
    assert result.exit_code == 2
    assert result.stderr.startswith("the job is 'dmo'; did you mean 'demo'? Choices: ")


def test_a_missing_file_is_named_and_exits_2(tmp_path):
    result = invoke("run", tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert f"{tmp_path}/none.yaml does not exist" in result.stderr


def test_a_folder_and_a_binary_file_are_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is a folder" in invoke("validate", tmp_path).stderr
    assert "is not UTF-8 text" in invoke("validate", tmp_path / "binary.yaml").stderr


def test_an_unexpected_error_is_one_line_that_tells_where_the_traceback_is(job, runner, tmp_path):
    runner(RuntimeError("\nworker 1 died\nwith details"))
    result = invoke("run", job)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    text, _, log = line.partition("; the traceback is in ")
    assert text == "RuntimeError: worker 1 died"
    assert Path(log).parent == tmp_path / "runs" / "toy"
    assert "Traceback (most recent call last)" in Path(log).read_text()


def test_debug_prints_the_traceback(job, runner):
    runner(RuntimeError("worker 1 died"))
    result = invoke("run", job, "--debug")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr


def test_a_library_error_during_a_run_is_not_the_users_to_fix(job, runner):
    runner(ValueError("shapes differ"))
    assert invoke("run", job).exit_code == 1


def test_what_raydistill_refuses_during_a_run_is_the_users_to_fix(job, runner, monkeypatch):
    from raydistill import cluster
    from raydistill.config.sections import ScalingConfig
    from raydistill.job import run

    runner()
    impossible = ScalingConfig(num_workers=10_000, use_gpu=True)
    monkeypatch.setattr(run, "run_job", lambda job, *, echo: cluster.check_resources(impossible))
    result = invoke("run", job)
    assert result.exit_code == 2
    assert result.stderr.startswith("scaling.num_workers is 10000")


def test_ctrl_c_exits_130_and_tells_how_to_go_on(job, runner):
    runner(KeyboardInterrupt())
    result = invoke("run", job)
    assert result.exit_code == 130
    assert result.stderr == "interrupted; the same command again continues where it stopped\n"


def test_validate_names_good_files_and_every_bad_one_and_exits_2(job, checked, tmp_path):
    bad, worse = tmp_path / "bad.yaml", tmp_path / "worse.yaml"
    bad.write_text(job.read_text() + "extra: 1\n")
    worse.write_text("a: [")
    result = invoke("validate", job, bad, worse)
    assert result.exit_code == 2
    assert result.stdout.splitlines()[0] == f"{job}: valid"
    assert [line.split(":")[0].split(",")[0] for line in result.stderr.splitlines()] == [str(bad), str(worse)]


def test_validate_applies_overrides_to_every_file(job, checked, tmp_path):
    second = tmp_path / "second.yaml"
    second.write_text(job.read_text())
    result = invoke("validate", job, second, "method.temperature=4")
    assert result.exit_code == 0
    assert [job.stages["distill"].config.method.config.temperature for job in checked] == [4, 4]


def test_validate_gives_machines_one_json_document_and_still_exits_2(job, checked, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(job.read_text() + "extra: 1\n")
    result = invoke("validate", job, bad, "--json")
    good_one, bad_one = json.loads(result.stdout)
    assert result.exit_code == 2
    assert good_one["ok"] is True
    assert good_one["stages"]["distill"] == ["forecast of distill"]
    assert bad_one["ok"] is False
    assert len(bad_one["errors"]) == 1


def test_validate_without_a_file_says_so():
    result = invoke("validate", "seed=1")
    assert result.exit_code == 2
    assert "no job is given" in result.stderr


def test_ls_jobs_lists_the_files_of_the_repository_with_their_descriptions():
    listed = json.loads(invoke("ls", "jobs", "--json").stdout)
    in_folder = sorted(str(path.relative_to(ROOT / "jobs").with_suffix("")) for path in ROOT.glob("jobs/**/*.yaml"))
    assert [entry["name"] for entry in listed] == in_folder
    assert all(entry["summary"] for entry in listed)


def test_ls_models_tells_heads_and_methods_of_each_family_and_of_all_others():
    listed = {entry["name"]: entry for entry in json.loads(invoke("ls", "models", "--json").stdout)}
    assert {"bert", "deberta-v2", "gemma3_text", "xlm-roberta", "any other of transformers"} <= set(listed)
    assert listed["bert"]["heads"] == "mlm, sequences, tokens, answers"
    assert listed["bert"]["lacks"] == "-"
    assert listed["albert"]["lacks"] == "units, attention"
    assert listed["granite"]["methods"] == "causal, finetune, kd"
    shown = invoke("ls", "models").stdout
    assert all(f"\n{name} " in shown for name in listed)


@pytest.mark.parametrize(
    ("kind", "name"), [("methods", "causal"), ("tasks", "mlm"), ("sources", "text"), ("stages", "train")]
)
def test_ls_lists_modules_with_the_first_line_of_their_docstring(kind, name):
    listed = {entry["name"]: entry["summary"] for entry in json.loads(invoke("ls", kind, "--json").stdout)}
    assert listed[name]
    assert not any(entry.startswith("_") for entry in listed)
    assert any(line.startswith(name) and listed[name] in line for line in invoke("ls", kind).stdout.splitlines())


def test_ls_of_an_unknown_kind_offers_the_closest_one():
    result = invoke("ls", "job")
    assert result.exit_code == 2
    assert "did you mean 'jobs'?" in result.stderr


def test_cp_writes_the_job_as_it_is(tmp_path):
    target = tmp_path / "new.yaml"
    result = invoke("cp", "demo", target)
    assert result.exit_code == 0
    assert target.read_text() == (ROOT / "jobs" / "demo.yaml").read_text()
    assert f"raydistill run {target}" in result.stdout


def test_cp_overwrites_nothing(tmp_path):
    target = tmp_path / "new.yaml"
    target.write_text("mine")
    result = invoke("cp", "demo", target)
    assert result.exit_code == 2
    assert f"{target} exists; give another name or remove it" in result.stderr
    assert target.read_text() == "mine"


def test_cp_into_a_missing_folder_is_refused(tmp_path):
    result = invoke("cp", "demo", tmp_path / "none" / "new.yaml")
    assert result.exit_code == 2
    assert "make" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_cp_into_a_folder_that_refuses_says_so(tmp_path):
    tmp_path.chmod(0o500)
    result = invoke("cp", "demo", tmp_path / "new.yaml")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
