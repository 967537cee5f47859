import json

import pytest
import yaml
from typer.testing import CliRunner

from raydistill import discovery
from raydistill.cli import app
from raydistill.cluster.submission import prepare
from raydistill.commands.loading import load
from raydistill.job.load import load_job
from raydistill.job.record import stage_records
from raydistill.search.spaces import trial_job
from raydistill.user_error import UserError
from toys.checkpoint import save_student
from toys.plugins import METHOD, METRIC, SOURCE, job_with_plugins, write_plugins


@pytest.fixture(autouse=True)
def _no_plugins_of_another_test():
    yield
    discovery.use([])


@pytest.fixture
def folder(tmp_path):
    write_plugins(tmp_path, scaled=METHOD, written=SOURCE, zeros=METRIC)
    write_job(tmp_path)
    return tmp_path


def write_job(folder, **keys):
    student = {"init": "checkpoint", "checkpoint": {"checkpoint": str(folder / "student"), "head": "new"}}
    raw = job_with_plugins(str(folder / "student"), student, storage=str(folder / "runs"), **keys)
    (folder / "job.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))


def hashes(folder):
    return {name: record.hash for name, record in stage_records(load(str(folder / "job.yaml"), [])).items()}


def test_files_are_found_beside_the_job_and_overrides_reach_their_options(folder):
    job = load(str(folder / "job.yaml"), ["distill.method.factor=4", "data.source.count=70"])
    assert job.config.stages["distill"].method.config.factor == 4.0
    assert job.config.stages["data"].source.config.count == 70


def test_a_resolved_job_has_the_content_and_needs_no_file(folder):
    job = load(str(folder / "job.yaml"), [])
    before = hashes(folder)
    text = yaml.safe_dump(job.dump(), sort_keys=False)
    for name in ("scaled", "written", "zeros"):
        (folder / f"{name}.py").unlink()
    (folder / "job.yaml").write_text(text)
    assert hashes(folder) == before


@pytest.mark.parametrize(
    ("name", "text", "changed"),
    [
        ("scaled", METHOD, {"distill"}),
        ("zeros", METRIC, {"distill"}),
        ("written", SOURCE, {"data", "plain", "distill"}),
    ],
)
def test_the_content_of_a_plug_in_is_in_the_hashes_of_the_stages_that_use_it(folder, name, text, changed):
    before = hashes(folder)
    write_plugins(folder, **{name: text + "\n# Another content.\n"})
    after = hashes(folder)
    assert {stage for stage in before if before[stage] != after[stage]} == changed


def test_where_the_files_lie_is_in_no_hash(folder):
    before = hashes(folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for name in ("scaled", "written", "zeros"):
        (folder / f"{name}.py").rename(elsewhere / f"{name}.py")
    write_job(folder)
    raw = yaml.safe_load((folder / "job.yaml").read_text())
    raw["plugins"] = [f"elsewhere/{name}" for name in raw["plugins"]]
    (folder / "job.yaml").write_text(yaml.safe_dump(raw))
    assert hashes(folder) == before


def test_a_plug_in_that_no_stage_uses_changes_no_hash(folder):
    raw = yaml.safe_load((folder / "job.yaml").read_text())
    raw["stages"] = {"data": {**raw["stages"]["data"], "source": {"name": "text", "path": str(folder / "*.py")}}}
    with_plugins = stage_records(load_job({**raw, "plugins": [str(folder / "zeros.py")]}))["data"].hash
    del raw["plugins"]
    assert stage_records(load_job(raw))["data"].hash == with_plugins


def test_a_job_that_names_no_plug_in_knows_none_of_the_job_before(folder):
    load(str(folder / "job.yaml"), [])
    raw = yaml.safe_load((folder / "job.yaml").read_text())
    del raw["plugins"]
    with pytest.raises(UserError, match=r"method\.name is 'scaled'"):
        load_job(raw)


def test_a_trial_knows_the_plug_ins_by_the_data_of_its_job(folder):
    raw = load(str(folder / "job.yaml"), []).dump()
    discovery.use([])
    job = trial_job(raw, "distill", {"method.factor": 6.0})
    assert job.config.stages["distill"].method.config.factor == 6.0


def test_a_submitted_job_has_the_content_in_its_data(folder):
    job = load(str(folder / "job.yaml"), [])
    save_student(folder / "student")
    submission = prepare(job.dump(), shared=[str(folder)])
    sent = yaml.safe_load(submission.metadata["raydistill_job"])
    assert [entry["file"] for entry in sent["plugins"]] == ["scaled.py", "written.py", "zeros.py"]
    assert sent["plugins"][0]["text"] == METHOD
    assert stage_records(load_job(sent)).keys() == {"data", "plain", "distill"}


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_preflight_takes_a_job_with_plug_ins(folder):
    save_student(folder / "student")
    result = invoke("run", folder / "job.yaml", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout).keys() >= {"data", "plain", "distill"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def f(:\n", "job.yaml: plugins.0: scaled.py, line 1: SyntaxError: "),
        ("import no_such_package\n", "job.yaml: plugins.0: scaled.py, line 1: ModuleNotFoundError: "),
        (None, "job.yaml: plugins.0 is 'scaled.py'; "),
    ],
)
def test_a_plug_in_that_does_not_work_is_one_line_of_the_command(folder, text, line):
    if text is None:
        (folder / "scaled.py").unlink()
    else:
        write_plugins(folder, scaled=text)
    result = invoke("run", folder / "job.yaml", "--dry-run")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{folder}/{line}")
    assert len(result.stderr.splitlines()) == 1


def test_an_entry_of_another_form_is_refused(folder):
    write_job(folder)
    raw = yaml.safe_load((folder / "job.yaml").read_text())
    raw["plugins"].append({"file": "a.py"})
    with pytest.raises(UserError, match=r"plugins\.3.*text is missing"):
        load_job({**raw, "plugins": [str(folder / each) if isinstance(each, str) else each for each in raw["plugins"]]})
