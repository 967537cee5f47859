import importlib.util
import itertools

import pytest

from raydistill.job import preflight as of_jobs
from raydistill.job.preflight import Preview
from raydistill.search import preflight
from raydistill.search.spaces import load_search
from raydistill.stages._base import ModelFacts
from raydistill.user_error import UserError
from toys.space import write_space


@pytest.fixture
def checked(monkeypatch):
    """Jobs that were checked, by a job's preflight that accepts all of them."""
    jobs = []
    monkeypatch.setattr(of_jobs, "check_job", lambda job: jobs.append(job) or [])
    return jobs


@pytest.fixture
def search(tmp_path):
    space = write_space(tmp_path)
    return lambda *assignments: load_search(str(space), assignments)


def refused(search, *assignments) -> str:
    with pytest.raises(UserError) as refusal:
        preflight.check_search(search(*assignments))
    return str(refusal.value)


def test_both_ends_of_every_range_and_every_choice_are_checked(search, checked):
    lines = preflight.check_search(search("space.optimizer.learning_rate=[1e-4, 2e-4, 3e-4]"))
    stages = [job.config.stages["distill"] for job in checked]
    assert {stage.optimizer.learning_rate for stage in stages} == {1e-4, 2e-4, 3e-4}
    assert {1.0, 8.0} <= {stage.method.config.temperature for stage in stages}
    assert {0.1, 1.0} <= {stage.method.config.alpha for stage in stages}
    assert f"checked with {len(checked)} configurations" in lines["search"]
    assert "made once for all trials: corpus, teacher" in lines["search"]


def test_the_first_check_is_of_the_best_jobs_stages_and_the_others_of_a_trials(search, checked):
    preflight.check_search(search())
    assert [*checked[0].config.stages] == ["corpus", "teacher", "distill", "evaluate", "register"]
    assert {tuple(job.config.stages) for job in checked[1:]} == {("corpus", "teacher", "distill")}


def test_the_job_is_loaded_once_for_each_configuration(search, checked, monkeypatch):
    loads, load = [], preflight.load_job
    monkeypatch.setattr(preflight, "load_job", lambda raw: loads.append(raw) or load(raw))
    preflight.check_search(search())
    assert len(loads) == len(checked) > 2


def test_all_of_a_small_grid_is_checked_once(search):
    grid = search("space={method.alpha: [0.1, 0.5], seed: [1, 2, 3]}", "searcher=grid", "budget={}")
    found = [tuple(values.values()) for values in preflight.examples(grid)]
    assert found == [*itertools.product([0.1, 0.5], [1, 2, 3])]


def test_a_stage_that_a_searched_key_changes_is_not_shared(search, checked):
    lines = preflight.check_search(search("space.teacher.optimizer.learning_rate=[1e-4, 1e-5]"))
    assert "made once for all trials: corpus" in lines["search"]


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (["stage=distil"], "stage is 'distil'; did you mean 'distill'? Choices: teacher, distill, alone"),
        (["stage=corpus"], "stage is 'corpus'; Choices: teacher, distill, alone, which are the trainings"),
        (["space.method.temprature=[1, 2]"], "space.method.temprature is a key of none of the stages"),
        (["space.alone.seed=[1, 2]"], "space.alone.seed is not a key of distill or of what it reads (corpus, teacher)"),
        (["space.storage=[a, b]"], "space.storage is not a key of distill"),
        (["space.distill.scaling.num_workers=[1, 2]"], "space.distill.scaling.num_workers cannot be searched"),
        (["space.method=[kd]"], "space.method.temperature lies in space.method, which replaces it"),
        (["space.distill.method.alpha=[0.1]"], "space.method.alpha lies in space.distill.method.alpha"),
        (["distill.matrix={seed: [1, 2]}"], "which has 2 runs, but a trial is one; write distill.matrix: {}"),
        (["metric=acuracy"], "metric is 'acuracy'; did you mean 'accuracy'? Choices: loss, accuracy"),
        (["mode=min"], "mode is 'min', but the best accuracy is the greatest; write mode: max"),
        (["metric=loss"], "mode is 'max', but the best loss is the least; write mode: min"),
        (
            ["scheduler=asha", "distill.training.eval_steps=40"],
            "scheduler.name is 'asha', which compares trials while they run, but distill evaluates only at its end",
        ),
        (
            ["scheduler=asha", "distill.training.eval_steps=0.25", "space.corpus.encoding.max_length=[16, 32]"],
            "distill.training.eval_steps is 0.25, which depends on the rows of corpus, but that is searched; write",
        ),
        (["scheduler={name: asha, grace_steps: 40}"], "scheduler.grace_steps is 40, but a trial has 40 steps"),
        (["scheduler=pbt", "budget.trials=3"], "budget.trials is 3, but pbt needs a population of 4"),
        (["searcher={name: optuna, num_startup_trials: 6}"], "num_startup_trials is 6 of 6 trials"),
        (
            ["scheduler=pbt", "resources={num_workers: 2}"],
            "scheduler is pbt, which copies trials of one worker, but a trial has 2; write resources",
        ),
        (
            ["scheduler=pbt", "space={method.reduction: [mean, batchmean]}"],
            "space.method.reduction cannot change in mid-run, which scheduler pbt needs",
        ),
        (["scheduler=pbt", "space.training.batch_size=[8, 16]"], "space.training.batch_size cannot change in mid-run"),
        (
            ["scheduler=pbt", "space.teacher.optimizer.learning_rate={uniform: [1e-5, 1e-4]}"],
            "space.teacher.optimizer.learning_rate cannot change in mid-run",
        ),
    ],
)
def test_what_would_fail_later_is_refused_before(search, checked, assignments, problem):
    assert problem in refused(search, *assignments)


def test_pbt_takes_weights_temperatures_and_the_learning_rate(search, checked):
    preflight.check_search(search("scheduler=pbt", "space.optimizer.learning_rate={loguniform: [1e-5, 1e-3]}"))
    assert checked


def test_a_term_of_the_method_has_its_own_direction(search, checked):
    lines = preflight.check_search(search("metric=validation/kd", "mode=min"))
    assert "the least validation/kd is the best" in lines["search"]
    assert "the best validation/kd is the least; write mode: min" in refused(search, "metric=validation/kd")


@pytest.mark.parametrize("metric", ["held_out/anything", "validation/anything"])
def test_a_metric_that_no_evaluation_has_is_refused(search, checked, metric):
    assert refused(search, f"metric={metric}").startswith(f"metric is '{metric}'; ")


def test_a_metric_that_reads_labels_is_refused_where_validation_rows_have_none(search, monkeypatch):
    unlabelled = Preview("distill", False, [], ModelFacts({}, metrics=()))
    monkeypatch.setattr(preflight.preflight, "check_job", lambda job: [unlabelled])
    expected = "metric is 'accuracy', which reads labels, but validation rows of distill have none; binarize with"
    assert expected in refused(search)
    assert preflight.check_search(search("metric=loss", "mode=min"))


def test_a_missing_library_is_told_with_what_installs_it(search, checked, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else found(name))
    assert "pip install 'raydistill[search]'" in refused(search, "searcher=optuna")
    assert not checked


def test_a_value_that_fails_is_told_with_the_configuration(search, checked):
    line = refused(search, "space.student.checkpoint.head=[new, old]")
    assert line.startswith("with method.temperature=")
    assert "student.checkpoint.head=old: stages.distill.student" in line


def test_what_fails_without_the_values_too_is_not_blamed_on_them(search, monkeypatch):
    def full(job):
        raise UserError(["storage is 'runs', where 0.1 GiB are free; make room for 2 GiB"])

    monkeypatch.setattr(of_jobs, "check_job", full)
    assert refused(search).startswith("storage is 'runs'")
