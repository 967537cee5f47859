import pytest
import yaml
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.job.load import load_job
from toys.families import toy_gpt2
from toys.reviews import write_reviews
from toys.words import make_tokenizer

REVIEWS = {"data": "reviews.csv", "text": "review", "label": "stars", "teacher": "base", "layers": "3"}


@pytest.fixture(autouse=True)
def _beside_reviews(tmp_path, monkeypatch):
    write_reviews(tmp_path)
    monkeypatch.chdir(tmp_path)


def new_job(*flags, name="mine", **options):
    given = [f"--{key}={value}" for key, value in options.items()]
    return CliRunner().invoke(app, ["new", "job", name, *given, *flags])


def written(*flags, **options):
    result = new_job(*flags, **options)
    assert result.exit_code == 0, result.output
    with open("mine.yaml", encoding="utf-8") as file:
        return file.read()


def test_a_table_and_a_teacher_become_a_short_job_that_passes_its_preflight():
    text = written(**REVIEWS)
    assert len(text.splitlines()) <= 40
    stages = yaml.safe_load(text)["stages"]
    assert list(stages) == ["corpus", "teacher", "student", "evaluate", "register"]
    assert stages["corpus"]["encoding"]["labels"] == ["1", "5"]
    assert stages["student"]["student"]["layers"] == [0, 3, 6]
    result = CliRunner().invoke(app, ["validate", "mine.yaml"])
    assert result.exit_code == 0, result.output


def test_a_teacher_that_has_learned_the_labels_is_not_trained():
    stages = load_job(yaml.safe_load(written("--no-fine-tune", **{**REVIEWS, "layers": "0,8"}))).config.stages
    assert list(stages) == ["corpus", "student", "evaluate", "register"]
    assert [one.checkpoint for one in stages["student"].teachers] == ["base"]


@pytest.mark.parametrize(("decoder", "task"), [(False, "mlm"), (True, "clm")])
def test_without_labels_a_language_model_learns_from_one_of_its_kind(tmp_path, decoder, task):
    teacher = "base"
    if decoder:
        model: AutoModelForCausalLM = toy_gpt2(4)
        model.save_pretrained(tmp_path / "decoder")
        make_tokenizer(max_length=40).save_pretrained(tmp_path / "decoder")
        teacher = "decoder"
    job = yaml.safe_load(written(data="reviews.csv", text="review", teacher=teacher, layers="2"))
    assert job["stages"]["corpus"]["encoding"]["name"] == task
    assert "teacher" not in job["stages"]


def test_names_with_signs_of_yaml_are_kept(tmp_path):
    (tmp_path / "a, b.csv").write_text("no,stars: 5\n" + "w8,yes\nw9,no\n" * 4, encoding="utf-8")
    source = yaml.safe_load(written(**{**REVIEWS, "data": "a, b.csv", "text": "no", "label": "stars: 5"}))["stages"]
    assert source["corpus"]["source"] == {"name": "delimited", "path": "a, b.csv", "text": "no", "label": "stars: 5"}
    assert source["corpus"]["encoding"]["labels"] == ["no", "yes"]


def test_many_different_numbers_are_scores(tmp_path):
    (tmp_path / "scores.csv").write_text("t,s\n" + "".join(f"w8,{n / 7}\n" for n in range(300)), encoding="utf-8")
    text = written(**{**REVIEWS, "data": "scores.csv", "text": "t", "label": "s"})
    assert "labels" not in yaml.safe_load(text)["stages"]["corpus"]["encoding"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "nothing.csv"}, "nothing.csv"),
        ({"label": "star"}, "star"),
        ({"label": "review"}, "text and label are both 'review'; name two columns"),
        ({"data": "one.csv"}, "a column with 1 different labels"),
        ({"layers": "12"}, "layers is 12; the teacher has 9 blocks"),
        ({"layers": "few"}, "layers is 'few'; give a number of blocks, or blocks as in 0,4,8"),
        ({"teacher": "some/hub-name"}, "not a folder whose blocks can be counted; list them"),
        ({"data": ""}, "--data is missing; there is no terminal to ask at"),
        ({"name": "My job"}, "the name is 'My job'; use letters a to z"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, options, message):
    (tmp_path / "one.csv").write_text("review,stars\nw8,1\nw8,1\n", encoding="utf-8")
    result = new_job(**{**REVIEWS, **options})
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "mine.yaml").exists()


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    (tmp_path / "mine.yaml").write_text("mine", encoding="utf-8")
    assert "mine.yaml exists" in new_job(**REVIEWS).stderr
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == "mine"
