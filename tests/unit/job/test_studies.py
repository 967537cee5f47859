"""What every study keeps: seeds, equal trials, equal steps, and rows that no choice has seen."""

import pytest

from raydistill.job import files
from raydistill.job.graph import needed
from raydistill.job.load import Job, load_job

STUDIES = [name for name in files.names(files.JOBS) if name.startswith("studies/")]
FEWEST_SEEDS = 5


@pytest.fixture(scope="module", params=STUDIES)
def study(request: pytest.FixtureRequest) -> Job:
    return load_job(files.read_job(request.param))


def runs_of(job: Job, stage: str) -> list[dict[str, object]]:
    return [dict(run.assignment) for run in job.runs.values() if run.base == stage]


def test_there_is_one_for_each_question() -> None:
    named = {name.removeprefix("studies/") for name in STUDIES}
    assert named == {"language", "search", "sentiment", "sentiment_blocks", "stark", "stark_news", "topics"}


def test_each_has_a_comparison_that_its_report_draws(study: Job) -> None:
    compared = {name for name, stage in study.config.stages.items() if stage.kind == "compare"}
    (drawn,) = (stage.comparisons for stage in study.config.stages.values() if stage.kind == "report")
    assert compared == set(drawn) != set()


def test_what_is_compared_was_trained_with_five_seeds(study: Job) -> None:
    for stage in study.config.stages.values():
        for name in stage.trainings if stage.kind == "compare" else ():
            seeds = {run["seed"] for run in runs_of(study, name) if "seed" in run}
            assert len(seeds) >= FEWEST_SEEDS or name == "teacher"


def test_every_choice_is_among_the_same_number_of_trials(study: Job) -> None:
    choices = [stage for stage in study.config.stages.values() if stage.kind == "choose"]
    assert len({len(runs_of(study, stage.model)) for stage in choices}) <= 1


def test_what_is_tuned_trains_as_its_trials_did(study: Job) -> None:
    stages = study.config.stages
    for stage in (one for one in stages.values() if getattr(one, "tuned_by", None)):
        trial = stages[stages[stage.tuned_by].model]
        assert (stage.method.name, stage.student) == (trial.method.name, trial.student)
        assert stage.training.batch_size == trial.training.batch_size
        assert stage.training.max_steps >= trial.training.max_steps


def test_no_row_that_chooses_is_a_row_that_compares(study: Job) -> None:
    stages = study.config.stages
    choosing = {
        stages[stage.evaluation].corpus[0].corpus: stages[stage.evaluation].max_rows
        for stage in stages.values()
        if stage.kind == "choose"
    }
    for stage in (one for one in stages.values() if one.kind == "compare"):
        evaluation = stages[stage.evaluation]
        corpus = evaluation.corpus[0].corpus
        if corpus in choosing:
            assert choosing[corpus] is not None
            assert choosing[corpus] <= evaluation.skip_rows


def test_a_choice_depends_on_no_evaluation_that_compares(study: Job) -> None:
    stages = study.config.stages
    compared = {stage.evaluation for stage in stages.values() if stage.kind == "compare"}
    for name, stage in stages.items():
        if stage.kind == "choose":
            assert not needed(study, name) & compared


def test_the_rows_that_trials_of_a_search_are_compared_by_are_left_out() -> None:
    stages = load_job(files.read_job("studies/search")).config.stages
    assert stages["tuned"].training.eval_rows <= stages["evaluate"].skip_rows
