import pytest

from raydistill.search.domains import Choice, Uniform
from raydistill.search.spaces import job_data, job_of, load_search, locate
from raydistill.user_error import UserError
from toys.space import write_space


@pytest.fixture
def space(tmp_path):
    return write_space(tmp_path)


def load(space, *assignments):
    return load_search(str(space), assignments)


def test_a_space_file_is_read_with_its_defaults(space):
    search = load(space)
    assert (search.searcher.name, search.scheduler.name, search.num_trials) == ("random", "fifo", 6)
    assert search.job == str(space.parent / "toy.yaml"), "the job beside the file"
    assert set(search.domains) == {"method.temperature", "method.alpha"}


def test_assignments_vary_the_space_file_and_other_keys_are_those_of_the_job(space):
    search = load(
        space,
        "budget.trials=3",
        "scheduler={name: asha, grace_steps: 20}",
        "searcher=optuna",
        "space.method.alpha={uniform: [0.2, 0.4]}",
        "space.student.layers=[[0, 1], [1, 2]]",
        "distill.training.max_steps=5",
        "overrides.teacher.seed=9",
    )
    assert (search.num_trials, search.scheduler.grace_steps, search.searcher.name) == (3, 20, "optuna")
    assert search.domains["method.alpha"] == Uniform(0.2, 0.4)
    assert search.domains["student.layers"] == Choice(([0, 1], [1, 2]))
    stages = job_of(search).config.stages
    assert stages["distill"].training.max_steps == 5
    assert stages["teacher"].seed == 9


def test_a_key_is_that_of_the_searched_stage_where_others_have_it_too(space):
    raw = job_data(load(space))
    assert locate(raw, "distill", "training.max_steps") == ["stages", "distill", "training", "max_steps"]
    assert locate(raw, "distill", "teacher.seed") == ["stages", "teacher", "seed"]
    assert locate(raw, "distill", "storage") == ["storage"]


def test_values_are_written_over_the_overrides(space):
    search = load(space, "distill.method.temperature=2", "distill.method.reduction=mean")
    config = job_of(search, {"method.temperature": 7.5}).config.stages["distill"].method.config
    assert (config.temperature, config.reduction, config.alpha) == (7.5, "mean", 0.5)


def test_a_searched_section_replaces_the_whole_section(space):
    method = {"name": "kd", "alpha": 1.0}
    config = job_of(load(space), {"method": method}).config.stages["distill"].method.config
    assert (config.alpha, config.temperature) == (1.0, 2.0)


def test_storage_and_resources_of_the_search_are_those_of_its_jobs(space):
    search = load(space, "storage=elsewhere", "resources={num_workers: 2}")
    job = job_of(search)
    assert job.config.storage == "elsewhere"
    assert job.config.stages["distill"].scaling.num_workers == 2
    assert job.config.stages["teacher"].scaling is None


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (["budget.trials=null"], "budget.trials is missing"),
        (["mode=best"], "mode is 'best'"),
        (["searcher=bayes"], "searcher.name is 'bayes'"),
        (["scheduler.grace=3"], "scheduler.grace is not an option"),
        (["scheduler.grace_steps=3"], "which only asha and median read"),
        (["searcher.num_startup_trials=3"], "which only optuna and hyperopt read"),
        (["budget.time=fast"], "write a time such as 90s"),
        (["budget.time=0s"], "write a time such as 90s"),
        (["space.method.alpha={grid: [0.1, 0.2]}"], "space.method.alpha is a grid, but searcher random draws values"),
        (["searcher=grid"], "space.method.temperature is a range, but searcher grid tries all values"),
        (["space.method.alpha={uniform: [1, 0]}"], "low is not below high"),
        (["space.method.alpha=3"], "write a list of choices"),
        (["name=a/b"], "name is 'a/b'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(space, assignments, problem):
    with pytest.raises(UserError, match=problem) as refusal:
        load(space, *assignments)
    assert [line.startswith(f"{space}: ") for line in refusal.value.lines] == [True]


def test_a_grid_has_as_many_trials_as_combinations(space):
    grid = ["space={a.b: {grid: [1, 2]}, c.d: [1, 2, 3]}", "searcher=grid"]
    assert load(space, *grid, "budget={}").num_trials == 6
    with pytest.raises(UserError, match=r"budget\.trials is 5, but the grid has 6 combinations"):
        load(space, *grid, "budget.trials=5")


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("15min", 900), ("1h30min", 5400), ("0.5d", 43200)])
def test_times_are_read_in_seconds(space, text, expected):
    assert load(space, f"budget.time={text}").budget.time_s == expected


def test_a_searcher_that_learns_starts_with_a_third_of_the_trials_at_random(space):
    assert load(space, "searcher=optuna").num_startup_trials == 2
    assert load(space, "searcher=optuna", "budget.trials=300").num_startup_trials == 10
    assert load(space, "searcher={name: optuna, num_startup_trials: 4}").num_startup_trials == 4


def test_an_unknown_space_names_the_shipped_ones():
    with pytest.raises(UserError, match="the space is 'kd_temperatur'; did you mean 'kd_temperature'"):
        load_search("kd_temperatur")


def test_a_key_that_the_job_lacks_is_told_with_its_section(space):
    with pytest.raises(UserError, match=r"overrides: foo\.bar is a key of no stage"):
        job_of(load(space, "foo.bar=1"))
