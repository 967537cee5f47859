"""Names of users, legal and apart wherever they go."""

import itertools
import random

import pytest

from raydistill import names
from raydistill.config.matrix import run_name
from raydistill.report.tables import Entry, group
from raydistill.stages import evaluate, report
from raydistill.tasks._entities import entity_metrics
from raydistill.tracking.store import spool_folder
from raydistill.tracking.tracker import flat

USES = {use: getattr(names, use) for use in ("METRIC", "KEY", "FIGURE", "RUN", "SEARCHED", "FILE", "SHORT")}
SIGNS = "aж(é/ .'\"|<=:\n\x00[],-_語"


def groups(*models: str):
    return group([Entry(model, {}, {"loss": float(place)}) for place, model in enumerate(models)])


@pytest.mark.parametrize("use", USES)
def test_names_are_legal_distinct_and_as_short_as_the_use_asks(use):
    draw = random.Random(use)
    lengths = [*range(4), 90, 300]
    given = ["".join(draw.choices(SIGNS, k=draw.choice(lengths))) for _ in range(400)]
    found = names.distinct([*given, "", "a", "(a)", "..", "a//b", "a/b"], USES[use])
    assert len({*found.values()}) == len(found)
    for text in found.values():
        assert text
        assert names.cleaned(text, USES[use]) == text
        assert names._size(text, USES[use]) <= USES[use].longest
        assert names.distinct([text], USES[use]) == {text: text}
        assert names.legal(text, USES[use]) == text


def test_the_rules_for_mlflow_are_those_of_its_own_checks():
    validation = pytest.importorskip("mlflow.utils.validation")
    given = ["".join(signs) for signs in itertools.product("aé/. (:\n", repeat=4)]
    for text in names.distinct([*given, "Учитель", "x" * 300], names.METRIC).values():
        validation._validate_metric(text, 1.0, 0, 0)
    for text in names.distinct([*given, "Учитель", "x" * 300], names.KEY).values():
        validation._validate_param(text, "value")
        validation._validate_tag(text, "value")


def test_a_name_that_is_legal_keeps_itself_beside_one_that_would_become_it():
    found = names.distinct(["(a)", "a", "[a]"], names.METRIC)
    assert found["a"] == "a"
    assert {found["(a)"][:2], found["[a]"][:2]} == {"a-"}


def test_two_names_of_which_one_looks_like_the_others_hash_stay_apart():
    marked = names.distinct(["(a)", "a"], names.METRIC)["(a)"]
    assert len({*names.distinct(["(a)", "a", marked], names.METRIC).values()}) == 3


def test_models_with_names_in_any_script_keep_their_figures_under_their_names():
    assert evaluate._tracked(groups("Учитель", "Ученик")) == {"Учитель/loss": 0.0, "Ученик/loss": 1.0}


def test_models_whose_names_differ_in_brackets_or_slashes_each_keep_their_figure():
    found = evaluate._tracked(groups("a", "(a)", "a//b", "a/b", "<>", "b" * 260))
    assert sorted(found.values()) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert found["a/loss"] == 0.0
    assert found["a/b/loss"] == 3.0
    assert max(map(len, found)) <= 250


def test_entity_types_that_differ_in_one_sign_each_keep_their_figure():
    counts = {"true": [2, 4, 2], "predicted": [2, 4, 1], "found": [2, 1, 1]}
    metrics = entity_metrics(counts, ("a b", "a/b", "Имя"))
    found = {name: value for name, value in metrics.items() if name.startswith("f1_")}
    assert sorted(found.values()) == pytest.approx([0.25, 2 / 3, 1.0])
    assert found["f1_Имя"] == pytest.approx(2 / 3)
    assert entity_metrics(counts, ("LOC", "a/b", "X"))["f1_a_b"] == 0.25


def test_four_axes_of_long_values_make_a_file_name_that_a_disk_takes(tmp_path):
    assignment = {f"axis_{place}": f"{place}" * 80 for place in range(4)}
    evaluation = evaluate.Evaluation({}, {"row": [1]})
    candidates = [
        evaluate._Candidate("student", {**assignment, "seed": seed}, "distill", evaluate.Checkpoints(()))
        for seed in (1, 2)
    ]
    files = evaluate._write_predictions(tmp_path, [(one, evaluation) for one in candidates])
    assert len(run_name("student", assignment)) > 320
    assert len({*files}) == 2
    assert all((tmp_path / file).is_file() for file in files)


def test_files_of_predictions_have_the_names_that_they_had(tmp_path):
    evaluation = evaluate.Evaluation({}, {"row": [1]})
    candidates = [
        evaluate._Candidate(model, {"seed": 1}, "distill", evaluate.Checkpoints(())) for model in ("a:b", "student")
    ]
    files = evaluate._write_predictions(tmp_path, [(one, evaluation) for one in candidates])
    assert files == ["predictions/a_b[seed=1].parquet", "predictions/student[seed=1].parquet"]


def test_two_keys_of_one_ending_are_two_charts():
    against = [{"key": key, "metric": "loss"} for key in ("method.temperature", "student.temperature", "seed")]
    config = report.Config(kind="report", evaluations=["compare"], plot_against=against)
    stage = report.Stage("report", config)
    assert stage._against_stems({}) == [
        "compare-loss-against-method.temperature",
        "compare-loss-against-student.temperature",
        "compare-loss-against-seed",
    ]


def test_an_experiment_of_a_long_name_has_a_spool_that_a_disk_takes(tmp_path):
    folder = spool_folder(tmp_path, "Эксперимент " * 20, "job")
    folder.mkdir(parents=True)
    assert folder != spool_folder(tmp_path, "Эксперимент " * 20, "other job")
    assert spool_folder(tmp_path, "an experiment", "job").name == "an%20experiment@job"


def test_keys_with_dots_do_not_overwrite_what_their_parts_would_mean():
    assert flat({"a": {"b.c": 1}, "a.b": {"c": 2}, "d": {"e": 3}}) == {"a/b.c": 1, "a.b/c": 2, "d.e": 3}


def test_a_text_is_quoted_by_the_sign_that_it_has_not():
    assert [names.quoted(text) for text in ("a", "it's", "'\"")] == ["'a'", '"it\'s"', None]
