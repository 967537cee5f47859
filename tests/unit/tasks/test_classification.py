import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef

from raydistill.batch import collate
from raydistill.tasks import classification, glue
from raydistill.tasks._base import Encoding
from raydistill.tasks._pair_rows import encode_pairs
from raydistill.tasks.classification import Config, EncodeConfig, Task
from toys.classifiers import CLASSES, CLASSIFIERS
from toys.words import make_tokenizer

CLS, SEP = 2, 3
CONFIG = Config()
LABELS = EncodeConfig(labels=CLASSES)


def rows(*examples, max_length=12):
    return [(row.ids.tolist(), row.second) for row in encode_pairs(examples, make_tokenizer(), max_length=max_length)]


def test_a_single_text_and_a_pair_have_the_tokenizers_special_tokens():
    single, pair = rows({"text": "w5 w6"}, {"text": "w5 w6", "text_pair": "w7"})
    assert single == ([CLS, 5, 6, SEP], 4)
    assert pair == ([CLS, 5, 6, SEP, 7, SEP], 4)


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [(9, 9, (5, 4)), (9, 2, (7, 2)), (2, 9, (2, 7)), (3, 2, (3, 2)), (6, 5, (5, 4)), (20, 0, (9, 0))],
)
def test_tokens_go_from_the_end_of_the_longer_text_and_at_a_tie_of_the_second(first, second, kept):
    # Nine tokens each, 12 in all: published features keep 5 and 4.
    example = {"text": " ".join(["w5"] * first), "text_pair": " ".join(["w6"] * second)}
    ids, _ = rows(example)[0]
    assert (ids.count(5), ids.count(6)) == kept


def test_labels_are_ids_by_name_and_an_unknown_one_is_refused():
    examples = [{"text": "w5", "label": name} for name in ("blue", "red")]
    found = classification.cut(examples, make_tokenizer(), LABELS)
    assert [row.values["label"] for row in found] == [2, 0]
    with pytest.raises(ValueError, match=r"has the label 'pink'; encoding\.labels names red, green, blue"):
        classification.cut([{"text": "w5", "label": "pink"}], make_tokenizer(), LABELS)
    with pytest.raises(ValueError, match="has no label; name its column as label"):
        classification.cut([{"text": "w5"}], make_tokenizer(), LABELS)


def test_rows_without_labels_have_texts_alone_whatever_the_source_says():
    unlabelled = EncodeConfig(labels=CLASSES, labelled="none")
    examples = [{"text": "w5 w6"}, {"text": "w7", "label": "pink"}]
    found = classification.cut(examples, make_tokenizer(), unlabelled)
    assert [(row.ids.tolist(), dict(row.values)) for row in found] == [
        ([CLS, 5, 6, SEP], {"second": 4}),
        ([CLS, 7, SEP], {"second": 3}),
    ]
    assert list(classification.columns(unlabelled)) == ["second"]
    with pytest.raises(ValueError, match="labelled is 'nothing'; Choices: all, validation, none"):
        EncodeConfig(labels=CLASSES, labelled="nothing")


@pytest.mark.parametrize(
    ("task", "labels"), [(classification, CLASSES), (glue, ("not_equivalent", "equivalent"))], ids=["classes", "glue"]
)
def test_without_labels_rows_are_counted_and_predictions_told(task, labels):
    config = glue.Config(task="mrpc") if task is glue else Config(metrics=("accuracy", "macro_f1"))
    scorer = task.Task(config, Encoding(61, {}, (), 40, num_rows=9, labels=labels))
    batch = collate([np.array([CLS, 5 + row, SEP]) for row in range(3)], [2, 3, 7], pad_id=0)
    prepared = scorer.prepare_batch(batch.with_columns(second=torch.tensor([3, 3, 3])))
    assert "labels" not in prepared
    logits = torch.eye(len(labels))[[1, 0, 1]]
    sums = {name: value.numpy() for name, value in scorer.score_logits(logits, prepared).items()}
    assert scorer.metrics(sums) == {"rows": 3.0}
    told = scorer.predictions(sums)
    assert "label" not in told
    assert told["row_id"].tolist() == [2, 3, 7]
    assert list(told["prediction"]) == [labels[1], labels[0], labels[1]]


def test_without_classes_labels_are_numbers():
    found = classification.cut([{"text": "w5", "label": "2.5"}], make_tokenizer(), EncodeConfig())
    assert found[0].values["label"] == 2.5
    with pytest.raises(ValueError, match="the label 'good', which is not a number"):
        classification.cut([{"text": "w5", "label": "good"}], make_tokenizer(), EncodeConfig())


@pytest.mark.parametrize("labels", [("one",), ("a", "b", "a")])
def test_too_few_or_equal_classes_are_refused(labels):
    with pytest.raises(ValueError, match="two or more different names"):
        EncodeConfig(labels=labels)


def test_an_unknown_metric_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="metrics is 'acuracy'; did you mean 'accuracy'"):
        Config(metrics=("acuracy",))
    with pytest.raises(ValueError, match="do not go together"):
        Config(metrics=("accuracy", "pearson"))


def make_batch(texts, row_ids, labels, second):
    batch = collate([np.array(text) for text in texts], row_ids, pad_id=0)
    return batch.with_columns(label=torch.tensor(labels), second=torch.tensor(second))


def make_task(config=CONFIG, *, labels=CLASSES, num_rows=9):
    return Task(config, Encoding(61, {}, (), 40, num_rows=num_rows, labels=labels))


def test_token_types_are_of_pairs_only():
    texts = [[CLS, 5, SEP, 7, SEP], [CLS, 8, SEP]]
    pair = make_task().prepare_batch(make_batch(texts, [3, 4], [0, 1], [3, 3]))
    assert pair["token_types"].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    single = make_task().prepare_batch(make_batch(texts, [3, 4], [0, 1], [5, 3]))
    assert single.get("token_types") is None


def test_scores_of_batches_add_up_to_metrics_of_all_rows():
    model = CLASSIFIERS["bert_classes"](2).eval()
    task = make_task(Config(metrics=("accuracy", "macro_f1", "matthews")))
    texts = [[CLS, 5 + row, 9, 20 + row, SEP] for row in range(7)]
    labels = [0, 1, 2, 0, 1, 2, 0]
    whole = task.prepare_batch(make_batch(texts, range(1, 8), labels, [5] * 7))
    parts = [
        task.prepare_batch(make_batch(texts[part], list(range(1, 8))[part], labels[part], [5] * len(labels[part])))
        for part in (slice(0, 3), slice(3, 7))
    ]
    sums = [task.score(model, part) for part in parts]
    added = {name: (sums[0][name] + sums[1][name]).numpy() for name in sums[0]}
    found = task.metrics(added)
    logits = model(input_ids=whole["input_ids"], attention_mask=whole["attention_mask"].long()).logits
    predictions = logits.argmax(-1).numpy()
    assert found["accuracy"] == np.mean(predictions == labels)
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(labels, predictions))
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
    assert found["loss"] == pytest.approx(expected, abs=1e-12)
    assert found["rows"] == 7


def test_scores_have_correlations_and_a_constant_has_none():
    task = make_task(Config(metrics=("pearson", "spearman")), labels=())
    seen, labels = np.ones(9), np.arange(9.0)
    found = task.metrics({"seen": seen, "label": labels, "logits": (labels**3)[:, None]})
    assert found["spearman"] == pytest.approx(1)
    assert 0.8 < found["pearson"] < 1
    constant = task.metrics({"seen": seen, "label": labels, "logits": np.ones((9, 1))})
    assert constant["pearson"] == constant["spearman"] == 0


def test_scores_are_compared_by_correlations_and_classes_by_accuracy_where_no_metric_is_named():
    seen, labels = np.ones(9), np.arange(9.0)
    found = make_task(Config(), labels=()).metrics({"seen": seen, "label": labels, "logits": (labels**3)[:, None]})
    assert [*found] == ["pearson", "spearman", "loss", "rows"]
    logits = np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1, 1]]
    found = make_task(Config()).metrics({"seen": seen, "label": np.array([0, 1, 2] * 3), "logits": logits})
    assert [*found] == ["accuracy", "loss", "rows"]
    assert Task.outputs(Config(), ()) == ()


def test_nothing_to_score_is_an_error_of_one_line():
    with pytest.raises(ValueError, match="no validation row has a label"):
        make_task().metrics({"seen": np.zeros(9), "label": np.zeros(9), "logits": np.zeros((9, 3))})


@pytest.mark.parametrize("label", ["nan", "inf", None, "good"])
def test_a_score_that_is_no_finite_number_is_refused(label):
    with pytest.raises(ValueError, match="which is not a number"):
        classification.cut([{"text": "w5", "label": label}], make_tokenizer(), EncodeConfig())


@pytest.mark.parametrize(
    ("metrics", "labels", "message"),
    [
        (("f1",), CLASSES, "f1, which is that of class 1 of two, but there are 3; use macro_f1"),
        (("pearson",), CLASSES, "metrics has pearson, 3 classes have accuracy"),
        (("accuracy",), (), "metrics has accuracy, scores have pearson, spearman"),
    ],
)
def test_metrics_that_do_not_suit_the_labels_are_refused_before_a_run(metrics, labels, message):
    with pytest.raises(ValueError, match=message):
        Task.outputs(Config(metrics=metrics), labels)
    assert Task.outputs(Config(metrics=("f1",)), ("no", "yes")) == ("no", "yes")


@pytest.mark.parametrize(
    ("legacy", "expected"),
    # The specification's pair of three and two tokens, as the published StarK code wrote it and as it should be.
    [(True, [0, 0, 0, 1, 1, 1, 0, 0]), (False, [0, 0, 0, 0, 0, 1, 1, 1])],
)
@pytest.mark.parametrize("task", [classification, glue], ids=["classes", "glue"])
def test_token_types_of_pairs_and_the_published_ones(task, legacy, expected):
    examples = [
        {"text": "w5 w6 w7", "text_pair": "w8 w9", "label": "equivalent"},
        {"text": "w5 w6", "label": "not_equivalent"},
    ]
    settings = {"task": "mrpc"} if task is glue else {"labels": ("not_equivalent", "equivalent")}
    config = task.EncodeConfig(**settings, legacy_segments=legacy)
    found = task.cut(examples, make_tokenizer(), config)
    assert [len(row.ids) for row in found] == [8, 4]
    batch = collate([row.ids for row in found], [0, 1], pad_id=0)
    batch = batch.with_columns(
        label=torch.tensor([1, 0]), second=torch.tensor([row.values["second"] for row in found], dtype=torch.int32)
    )
    scorer = Task(CONFIG, Encoding(61, {}, (), 40, num_rows=2, labels=config.labels))
    assert scorer.prepare_batch(batch)["token_types"].tolist() == [*expected, 0, 0, 0, 0]


@pytest.mark.parametrize(("legacy", "expected"), [(True, [CLS, 5, 6, SEP]), (False, [CLS, 5, 6, SEP, SEP])])
def test_an_empty_second_text_is_none_in_the_published_code_and_otherwise_a_pair(legacy, expected):
    config = EncodeConfig(labels=("no", "yes"), legacy_segments=legacy)
    [found] = classification.cut([{"text": "w5 w6", "text_pair": "", "label": "no"}], make_tokenizer(), config)
    assert found.ids.tolist() == expected
    # After the first separator: the row's end, or where a second text of no token starts.
    assert found.values["second"] == 4
