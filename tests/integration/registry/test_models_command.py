"""``raydistill models`` on a store with versions of today and of older releases."""

import json
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from raydistill import Predictor
from raydistill.cli import app
from raydistill.deploy.exported import is_exported
from raydistill.deploy.exporting import export_model
from raydistill.registry import promotion
from raydistill.registry.card import model_card
from raydistill.registry.checkpoints import checkpoint_folder
from raydistill.registry.client import Registry, registry_uri
from raydistill.registry.reference import ModelReference
from raydistill.registry.student import FiguresRow, figures_tag
from raydistill.tracking import registration
from raydistill.tracking.writer import MlflowWriter, Store
from toys.answering import save_answering
from toys.registry import register_versions


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder with the versions of ``register_versions``."""
    root = tmp_path_factory.mktemp("storage")
    store = Store(f"sqlite:///{root / 'mlflow.db'}", (root / "artifacts").as_uri(), "experiment")
    writer = MlflowWriter(store, tmp_path_factory.mktemp("spool") / "runs.json")
    register_versions(writer, root)
    return root


def models(storage: Path, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, arguments), "--storage", str(storage)])


def data(storage: Path, *arguments: object) -> dict:
    result = models(storage, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def reloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes a reload for good without a process of its own; one test makes a real one."""
    monkeypatch.setattr(promotion, "_reload", lambda folder: [])


def test_the_list_has_versions_aliases_job_and_the_best_metric(storage: Path) -> None:
    [row] = data(storage, "list")
    assert row["versions"] == [4, 3, 2, 1]
    assert row["aliases"]["candidate"] == 4
    assert row["job"] == "toy"
    assert row["best"] == {"metric": "accuracy", "value": 0.88, "version": 2}
    lines = models(storage, "list").stdout.splitlines()
    assert lines[0].split() == ["name", "versions", "aliases", "job", "best", "metric"]
    assert "accuracy 0.88 (version 2)" in lines[1]


def test_a_version_of_an_older_release_is_shown_with_what_is_known_of_it(storage: Path) -> None:
    shown = data(storage, "show", "student/1")
    assert shown["license"] is None
    assert shown["gate"] is None
    assert shown["figures"] == [{"role": "student", "name": "student", "figures": {"accuracy": 0.625}, "runs": 1}]
    assert "license               not stated" in models(storage, "show", "student/1").stdout


def test_lineage_has_the_campaign_of_the_version_or_of_its_run(storage: Path) -> None:
    assert data(storage, "show", "student/2")["lineage"]["campaign"] == "search-1"
    assert data(storage, "show", "student@candidate")["lineage"]["campaign"] == "search-2"


def test_two_versions_stand_side_by_side_with_differences(storage: Path) -> None:
    rows = {row["what"]: row for row in data(storage, "compare", "student/2", "student/3")["rows"]}
    assert rows["accuracy"]["difference"] == pytest.approx(-0.03)
    assert rows["teacher accuracy"]["difference"] == 0
    assert rows["method"] == {"what": "method", "first": "kd", "second": "kd", "difference": False}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["show", "studnet"], "model is 'studnet'; did you mean 'student'? Choices: student"),
        (["show", "student/9"], "version is 9, which 'student' does not have; versions: 4, 3, 2, 1"),
        (["show", "student@candidat"], "alias is 'candidat'; did you mean 'candidate'? Choices: candidate"),
        (["show", "a/b/c"], "model is 'a/b/c'; write NAME, NAME@ALIAS or NAME/VERSION"),
    ],
)
def test_what_is_not_there_is_told_in_one_line_and_exits_2(storage: Path, arguments: list[str], line: str) -> None:
    if "student@" in arguments[1]:
        line = line.rpartition(":")[0]
    result = models(storage, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    [told] = result.stderr.splitlines()
    assert told.startswith(line)


def test_a_store_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    result = models(tmp_path, "list")
    assert result.exit_code == 2
    assert "give --storage or --tracking-uri" in result.stderr
    assert not list(tmp_path.iterdir())
    away = CliRunner().invoke(app, ["models", "list", "--tracking-uri", "postgresql://bob:hunter2@127.0.0.1:9/x"])
    assert away.exit_code == 2
    assert "postgresql://bob:***@127.0.0.1:9/x does not answer (Connection refused)" in away.stderr


@pytest.mark.parametrize("version", [1, 2])
def test_a_pulled_folder_has_the_weights_the_tokenizer_and_a_card(storage: Path, tmp_path: Path, version: int) -> None:
    folder = tmp_path / "pulled"
    assert models(storage, "pull", f"student/{version}", folder).exit_code == 0
    found = load_file(folder / "model.safetensors")
    expected = load_file(storage / f"seed{version}" / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (folder / "tokenizer.json").is_file()
    assert "# student" in (folder / "README.md").read_text()
    assert ("| accuracy | 0.8800 | 0.9000 |" in (folder / "README.md").read_text()) is (version == 2)
    assert [path.name for path in tmp_path.iterdir()] == ["pulled"]
    again = models(storage, "pull", f"student/{version}", folder)
    assert again.exit_code == 2
    assert again.stderr == f"{folder} exists; give another folder or remove it\n"


def test_a_version_that_passes_is_promoted_after_a_real_reload(storage: Path) -> None:
    done = data(storage, "promote", "student", 2, "--to", "passes")
    assert (done["promoted"], done["failed"], done["previous"]) == (True, [], None)
    assert Registry(registry_uri(storage, None)).find(ModelReference.parse("student@passes")).number == 2


@pytest.mark.usefixtures("reloads")
def test_a_worse_version_is_refused_and_the_champion_stays(storage: Path) -> None:
    assert models(storage, "promote", "student", 2, "--to", "champion").exit_code == 0
    for version, reason in ((3, "worse than 0.88 of student version 2"), (4, "by more than 0.1")):
        result = models(storage, "promote", "student", version, "--to", "champion")
        assert result.exit_code == 2
        assert result.stdout == ""
        assert reason in result.stderr
        assert "is not promoted" in result.stderr
    assert Registry(registry_uri(storage, None)).find(ModelReference.parse("student@champion")).number == 2


@pytest.mark.usefixtures("reloads")
def test_force_promotes_and_keeps_what_failed(storage: Path) -> None:
    result = models(storage, "promote", "student", 1, "--to", "forced", "--force")
    assert result.exit_code == 0
    tags = Registry(registry_uri(storage, None)).find(ModelReference.parse("student@forced")).tags
    assert json.loads(tags["forced.forced"]) == ["no license is stated; set license in the register stage"]
    assert "promoted.forced" in tags


def test_code_and_pickles_beside_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "model.Model"}}')
    (tmp_path / "model.py").write_text("")
    (tmp_path / "pytorch_model.bin").write_text("")
    assert [line.split()[0] for line in promotion.outside_code(tmp_path)] == [
        "model.py",
        "pytorch_model.bin",
        "config.json",
    ]


@pytest.mark.parametrize("alias", ["latest", "v3", "a b"])
def test_an_alias_that_no_registry_takes_is_refused(storage: Path, alias: str) -> None:
    result = models(storage, "promote", "student", 2, "--to", alias)
    assert result.exit_code == 2
    assert f"alias is {alias!r}" in result.stderr


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A storage folder with a classifier, ``reviews``, and its ONNX export, and the classifier's own folder."""
    root = tmp_path_factory.mktemp("exported")
    store = Store(f"sqlite:///{root / 'mlflow.db'}", (root / "artifacts").as_uri(), "experiment")
    writer = MlflowWriter(store, tmp_path_factory.mktemp("spool") / "runs.json")
    folder = save_answering(root / "model", "sequence_classification")
    export_model(folder, root / "onnx", "onnx")
    tags = figures_tag([FiguresRow("student", "student", {}), FiguresRow("export", "onnx", {"latency_ms": 0.5})])
    start = {"op": "start_run", "key": "key", "time": 1, "name": "key", "parent": None, "tags": {}}
    writer.deliver({**start, "resume": False, "token": "token"})
    record = {"op": "register_model", "key": "key", "time": 5, "folder": str(folder), "name": "reviews", "tags": tags}
    kept = {"card": model_card("reviews", tags, folder), "exports": {"onnx": str(root / "onnx")}}
    writer.deliver({**record, "alias": "candidate", "metrics": {}, "task": None, **kept})
    return root, folder


def test_an_export_is_pulled_by_its_format_and_the_student_without_it(exported: tuple[Path, Path], tmp_path: Path):
    storage, folder = exported
    assert data(storage, "show", "reviews")["exports"] == ["onnx"]
    assert models(storage, "pull", "reviews@candidate:onnx", tmp_path / "onnx").exit_code == 0
    assert models(storage, "pull", "reviews@candidate", tmp_path / "student").exit_code == 0
    assert is_exported(tmp_path / "onnx")
    assert not list((tmp_path / "student").rglob("*.onnx"))
    expected, found = (Predictor(one).predict(["w5 w6", "w7"]) for one in (folder, tmp_path / "onnx"))
    assert found["prediction"] == expected["prediction"]
    assert found["probability.bad"] == pytest.approx(expected["probability.bad"], abs=1e-5)


def test_a_version_is_described_by_its_card_without_what_only_hubs_read(exported: tuple[Path, Path]) -> None:
    version = MlflowClient(registry_uri(exported[0], None)).get_model_version("reviews", "1")
    assert version.description.startswith("# reviews\n")
    assert "## Exports" in version.description
    assert "library_name" not in version.description


def test_a_card_that_is_longer_than_a_description_ends_with_a_whole_line() -> None:
    lines = [f"line {number}" for number in range(1000)]
    found = registration._about("\n".join(lines))
    assert found is not None
    assert len(found) <= 5000
    *kept, mark = found.splitlines()
    assert (kept, mark) == (lines[: len(kept)], "…")


def test_a_job_and_predict_name_an_export_of_a_version(exported: tuple[Path, Path], tmp_path: Path) -> None:
    storage, _ = exported
    reference = "models:/reviews@candidate:onnx"
    assert is_exported(checkpoint_folder(reference, tmp_path / "cache", registry=registry_uri(storage, None)))
    (tmp_path / "in.csv").write_text("text\nw5 w6\n")
    files = [str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.csv")]
    done = CliRunner().invoke(app, ["predict", reference, *files, "--storage", str(storage)])
    assert done.exit_code == 0, done.output
    assert "prediction" in (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["pull", "reviews:onnx-int8", "x"], "export is 'onnx-int8'; did you mean 'onnx'? Choices: onnx"),
        (["show", "reviews:onnx"], "model is 'reviews:onnx', which names an export; name the version that it is"),
    ],
)
def test_an_export_that_a_version_lacks_or_that_is_not_meant_is_refused(exported, arguments, line) -> None:
    done = models(exported[0], *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(line)


def test_an_export_of_a_version_without_any_is_refused(storage: Path, tmp_path: Path) -> None:
    done = models(storage, "pull", "student/2:onnx", tmp_path / "pulled")
    assert done.stderr == "export is 'onnx', but student version 2 has none; give exports to its register stage\n"
