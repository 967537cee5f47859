import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score

from raydistill.config.errors import error_lines
from raydistill.config.named import EncodingSpec
from raydistill.tasks import classification, glue
from raydistill.tasks._base import Encoding
from raydistill.tasks.glue import TASKS, Config, EncodeConfig, Task
from toys.words import make_tokenizer

ENCODE = EncodingSpec.parse
METRICS = {
    "cola": ["matthews"],
    "mrpc": ["combined", "accuracy", "f1"],
    "qqp": ["combined", "accuracy", "f1"],
    "stsb": ["combined", "pearson", "spearman"],
}


def make_task(name: str, num_rows: int = 6) -> Task:
    return Task(Config(name), Encoding(61, {}, (), 40, num_rows=num_rows, labels=TASKS[name].labels))


@pytest.mark.parametrize("name", TASKS)
def test_labels_follow_the_task_and_stand_in_the_section_that_a_manifest_keeps(name):
    section = ENCODE({"name": "glue", "task": name}).dump()
    expected = {"name": "glue", "task": name, "max_length": 128, "labels": list(TASKS[name].labels)}
    assert section == {**expected, "legacy_segments": False}
    assert ENCODE(section).config == EncodeConfig(name)


def test_rows_are_those_of_classification():
    examples = [{"text": "w5 w6", "text_pair": "w7", "label": label} for label in ("entailment", "not_entailment")]
    rows = glue.cut(examples, make_tokenizer(), EncodeConfig("wnli", max_length=12))
    plain = classification.EncodeConfig(labels=("not_entailment", "entailment"), max_length=12)
    assert [row.values for row in rows] == [{"label": 1, "second": 4}, {"label": 0, "second": 4}]
    assert glue.columns(EncodeConfig("wnli")) == classification.columns(plain)
    assert glue.columns(EncodeConfig("stsb"))["label"].dtype == "float32"
    for row, other in zip(rows, classification.cut(examples, make_tokenizer(), plain), strict=True):
        assert row.ids.tolist() == other.ids.tolist()


@pytest.mark.parametrize("name", TASKS)
def test_models_are_compared_by_the_metrics_of_the_task(name):
    expected = METRICS.get(name, ["accuracy"])
    assert Task.higher_is_better(Config(name)) == {**dict.fromkeys(expected, True), "loss": False}
    width = len(TASKS[name].labels) or 1
    generator = np.random.default_rng(0)
    label = generator.integers(0, width, 6) if width > 1 else generator.random(6)
    found = make_task(name).metrics({"seen": np.ones(6), "label": label, "logits": generator.random((6, width))})
    assert list(found) == [*expected, "loss", "rows"]


def test_two_metrics_have_their_mean():
    logits, label = np.eye(2)[[1, 1, 0, 1, 0, 0]], np.array([1.0, 0, 0, 1, 1, 0])
    found = make_task("mrpc").metrics({"seen": np.ones(6), "label": label, "logits": logits})
    f1 = f1_score(label, logits.argmax(1))
    assert found["combined"] == pytest.approx((4 / 6 + f1) / 2, abs=1e-15)
    scores, truth = np.array([0.1, 2.0, 1.0, 4.0, 3.5, 5.0]), np.arange(6.0)
    found = make_task("stsb").metrics({"seen": np.ones(6), "label": truth, "logits": scores[:, None]})
    mean = (pearsonr(scores, truth).statistic + spearmanr(scores, truth).statistic) / 2
    assert found["combined"] == pytest.approx(mean, abs=1e-15)


def test_f1_is_that_of_the_equivalent_pairs():
    logits = np.eye(2)[[1, 0, 0, 0, 0, 0]]
    label = np.array([TASKS["mrpc"].labels.index("equivalent"), 0, 0, 0, 0, 0])
    assert make_task("mrpc").metrics({"seen": np.ones(6), "label": label, "logits": logits})["f1"] == 1


def test_corpora_of_classification_are_read_and_the_other_way_round():
    assert "classification" in Task.ENCODINGS
    assert "glue" in classification.Task.ENCODINGS


@pytest.mark.parametrize("labels", [("duplicate", "not_duplicate"), (), ("a", "b", "c")])
def test_a_corpus_of_other_classes_is_refused(labels):
    assert Task.outputs(Config("qqp"), TASKS["qqp"].labels) == TASKS["qqp"].labels
    with pytest.raises(ValueError, match="task is 'qqp', whose classes are not_duplicate, duplicate; the corpus has"):
        Task.outputs(Config("qqp"), labels)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"task": "mnil"}, "task is 'mnil'; did you mean 'mnli'? Choices: cola, sst2, mrpc, stsb"),
        ({"task": "rte", "labels": ["yes", "no"]}, "labels is yes, no; those of rte are entailment, not_entailment"),
        ({"task": "stsb", "labels": ["yes", "no"]}, "labels is yes, no; those of stsb are scores"),
        ({"task": "rte", "max_length": 4}, "max_length is 4; it must be at least 5"),
        ({}, "task is missing; add it"),
    ],
)
def test_mistakes_in_the_encoding_are_told_in_one_line(options, line):
    with pytest.raises(ValueError, match=r".") as refusal:
        ENCODE({"name": "glue", **options})
    [found] = error_lines(refusal.value)
    assert line in found
