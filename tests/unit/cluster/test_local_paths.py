"""Which values of a job are files of this machine."""

from pathlib import Path

import pytest

from raydistill.cluster.local_paths import local_paths, replaced


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with texts, a model and a folder that is named as a stage and a source are."""
    for name in ("texts/a.txt", "texts/deep/b.txt", "model/config.json", "corpus/x", "text/x", "org/name/config.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(stages, **options):
    return {path.key: path for path in local_paths({"stages": stages}, **options)}


def test_files_globs_and_folders_are_found_wherever_they_stand(here):
    stages = {
        "corpus": {"source": {"name": "text", "path": "texts/*.txt"}, "tokenizer": {"checkpoint": "model"}},
        "capture": {"dropout_scores_file": "texts/a.txt"},
        "distill": {
            "corpus": [{"corpus": str(here / "corpus"), "weight": 1.0}],
            "teachers": [{"checkpoint": "hub/name"}, {"checkpoint": "model"}],
            "matrix": {"student.checkpoint": ["model", "hub/other"], "teachers.0": ["model"]},
        },
    }
    paths = found(stages | {"corpus_stage": {}})
    assert set(paths) == {
        "stages.corpus.source.path",
        "stages.corpus.tokenizer.checkpoint",
        "stages.capture.dropout_scores_file",
        "stages.distill.teachers.1.checkpoint",
        "stages.distill.matrix.student.checkpoint.0",
        "stages.distill.matrix.teachers.0.0",
    } | ({"stages.distill.corpus.0.corpus"})
    assert paths["stages.corpus.source.path"].files == (here / "texts" / "a.txt",)
    assert paths["stages.corpus.tokenizer.checkpoint"].files == (here / "model" / "config.json",)


def test_stages_uris_registered_models_and_packages_are_not_local(here):
    stages = {
        "corpus": {"source": {"name": "text", "package": "x==1", "path": "texts"}, "kind": "text"},
        "distill": {
            "corpus": [{"corpus": "corpus"}],
            "teachers": [{"checkpoint": "corpus@initial"}, {"checkpoint": "corpus[seed=1]"}],
            "student": {"checkpoint": {"checkpoint": "models:/name@champion"}},
            "source": {"path": "s3://bucket/texts/*.txt"},
            "name": "text",
        },
    }
    assert not found(stages)


def test_a_name_on_the_hub_is_local_where_a_folder_has_that_name(here):
    stages = {"distill": {"teachers": [{"checkpoint": "org/name"}, {"checkpoint": "org/other"}]}}
    assert set(found(stages)) == {"stages.distill.teachers.0.checkpoint"}


def test_what_lies_in_a_shared_folder_is_seen_by_the_cluster(here):
    stages = {"corpus": {"source": {"name": "text", "path": str(here / "texts" / "*.txt")}}}
    assert found(stages)
    assert not found(stages, shared=[here / "texts"])
    assert found(stages, shared=[here / "model"])


@pytest.mark.parametrize(
    ("value", "root"), [("texts/*.txt", "texts"), ("texts/a.txt", "texts"), ("model", "model"), ("**/*.txt", ".")]
)
def test_the_root_is_the_folder_that_is_searched(here, value, root):
    [path] = local_paths({"stages": {"corpus": {"path": value}}})
    assert path.root == here / root
    assert all(file.is_relative_to(path.root) for file in path.files)


def test_values_are_replaced_in_a_copy():
    job = {"name": "x", "stages": {"a": {"path": "old", "list": [1, {"path": "old"}]}}}
    values = {("stages", "a", "path"): "new", ("stages", "a", "list", 1, "path"): "newer"}
    assert replaced(job, values) == {"name": "x", "stages": {"a": {"path": "new", "list": [1, {"path": "newer"}]}}}
    assert job["stages"]["a"]["path"] == "old"


def test_tilde_is_the_home_of_this_machine(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    [path] = local_paths({"stages": {"corpus": {"path": "~/texts/a.txt"}}})
    assert path.files == (Path(here) / "texts" / "a.txt",)
