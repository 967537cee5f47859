import numpy as np
import pytest
import torch
from torch import nn

from raydistill.tasks import qa
from raydistill.tasks._base import Encoding
from raydistill.tasks.qa import Config, EncodeConfig, Task
from toys.classifiers import toy_classifier
from toys.models import toy_bert, toy_distilbert
from toys.tagged import batch_of, fit, metrics_of
from toys.words import make_tokenizer

ENCODING = EncodeConfig(max_length=16, stride=4)


def example(question, context, *answers, name="a"):
    starts = [context.index(answer) for answer in answers]
    return {
        "id": name,
        "question": question,
        "context": context,
        "answers": {"text": list(answers), "answer_start": starts},
    }


def rows_of(examples, encoding=ENCODING):
    return qa.cut(examples, make_tokenizer(), encoding)


def make_task(num_rows=60, **options):
    return Task(Config(**options), Encoding(61, {}, (), 40, num_rows=num_rows))


def prepared(task, rows, row_ids=None):
    return task.prepare_batch(batch_of(rows, qa.columns(ENCODING), row_ids))


class Oracle(nn.Module):
    """In place of a model: logits that are high at given ids, from a table of (first, last) by id."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def logits(self, batch):
        found = torch.zeros(2, *batch["input_ids"].shape)
        for token, values in self.table.items():
            for side, value in enumerate(values):
                found[side][batch["input_ids"] == token] = value
        return found.masked_fill(~batch["attention_mask"], -1e30).flatten(0, 1)


@pytest.fixture(autouse=True)
def oracle(monkeypatch):
    """Lets ``Oracle`` predict; models do as ever."""
    real = qa.predict

    def predict(model, batch, *, head):
        if not isinstance(model, Oracle):
            return real(model, batch, head=head)
        return type("Found", (), {"logits": model.logits(batch)})

    monkeypatch.setattr(qa, "predict", predict)


CLS = 2
CONTEXT = " ".join(f"w{number}" for number in range(10, 40))


def test_labels_are_first_and_last_tokens_and_token_types_start_with_the_context():
    task = make_task()
    rows = rows_of([example("w5 w6", "w7 w8 w9", "w8 w9"), example("w5", "w7 w8 w9 w10")])
    batch = prepared(task, rows)
    assert batch["labels"].tolist() == [5, 0, 6, 0]
    assert batch["token_types"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1]


def test_the_best_window_of_a_question_answers_it_however_windows_are_cut_into_batches():
    # w12 is in the first window, w33 in the last: the higher sum wins, and its text is the context's own.
    task = make_task()
    rows = rows_of([example("w5 w6", CONTEXT, "w33 w34", name="a"), example("w5", CONTEXT, "w12", name="b")])
    model = Oracle({12: (3.0, 3.0), 33: (4.0, 0.0), 34: (0.0, 4.0)})
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    for cut in (len(rows), 3):
        parts = [order[start : start + cut] for start in range(0, len(rows), cut)]
        found = metrics_of(model, task, [prepared(task, [rows[place] for place in part], part) for part in parts])
        # Of b, "w33 w34" and "w12" have no word in common.
        assert (found["exact_match"], found["f1"]) == (0.5, 0.5)
        assert (found["questions"], found["partial_questions"]) == (2, 0)


def test_answers_are_the_contexts_characters_and_match_the_best_of_several():
    context = "w10  w11\u00a0W12, w13"
    one = example("w5", context, "w11", "w10  w11")
    found = metrics_of(Oracle({10: (9.0, 0.0), 11: (0.0, 9.0)}), make_task(), [prepared(make_task(), rows_of([one]))])
    assert (found["exact_match"], found["f1"]) == (1, 1)


def test_no_answer_is_given_where_cls_beats_the_best_by_more_than_the_threshold_in_every_window():
    rows = rows_of([example("w5 w6", CONTEXT, "w33", name="a"), example("w5", CONTEXT, name="b")])
    model = Oracle({CLS: (1.0, 1.0), 33: (1.0, 1.5)})
    answers = {}
    for threshold in (-0.6, -0.4):
        task = make_task(unanswerable=True, null_threshold=threshold)
        answers[threshold] = metrics_of(model, task, [prepared(task, rows)])
    # CLS less the best is 2 - 2.5, -0.5: more than -0.6, not more than -0.4.
    assert answers[-0.6]["answerable_exact_match"] == 0
    assert answers[-0.6]["unanswerable_accuracy"] == 1
    assert answers[-0.4]["answerable_exact_match"] == 1
    assert answers[-0.4]["unanswerable_accuracy"] == 0
    assert answers[-0.4]["exact_match"] == answers[-0.6]["exact_match"] == 0.5
    assert answers[-0.6]["f1"] == 0.5


def test_without_unanswerable_a_question_always_gets_an_answer():
    rows = rows_of([example("w5", "w10 w11")])
    task = make_task()
    found = metrics_of(Oracle({CLS: (9.0, 9.0), 10: (1.0, 1.0)}), task, [prepared(task, rows)])
    assert found["exact_match"] == 0
    assert "unanswerable_accuracy" not in found


def test_cls_of_the_least_likely_window_counts():
    # w11 is in the first window alone; there CLS is beaten by 0.5, elsewhere it is far ahead.
    rows = rows_of([example("w5", CONTEXT, "w11")])
    task = make_task(unanswerable=True)
    batch = prepared(task, rows)

    class ByWindow(Oracle):
        def logits(self, batch):
            found = super().logits(batch).reshape(2, batch.num_rows, -1)
            found[:, :, 0] = torch.tensor([1.0, *[4.0] * (batch.num_rows - 1)])
            return found.flatten(0, 1)

    assert metrics_of(ByWindow({11: (1.25, 1.25)}), task, [batch])["exact_match"] == 1


def test_questions_of_which_a_window_is_missing_are_not_counted():
    rows = rows_of([example("w5 w6", CONTEXT, "w33", name="a"), example("w5", "w12 w13", "w12", name="b")])
    task = make_task()
    kept = [0, 1, len(rows) - 1]
    batch = prepared(task, [rows[place] for place in kept], kept)
    found = metrics_of(Oracle({12: (1.0, 1.0)}), task, [batch])
    assert (found["exact_match"], found["questions"], found["partial_questions"]) == (1, 1, 1)
    alone = prepared(task, rows[:1], [0])
    with pytest.raises(ValueError, match="no validation question had all its windows scored"):
        metrics_of(Oracle({}), task, [alone])


def test_copies_of_rows_change_nothing():
    rows = rows_of([example("w5 w6", CONTEXT, "w33", name="a"), example("w5", "w12 w13", "w12", name="b")])
    task, model = make_task(), Oracle({12: (1.0, 1.0)})
    once = metrics_of(model, task, [prepared(task, rows)])
    twice = metrics_of(model, task, [prepared(task, rows), prepared(task, rows, range(20, 20 + len(rows)))])
    assert once == twice
    # A window that is there twice stands for no other.
    copy = metrics_of(model, task, [prepared(task, rows[1:]), prepared(task, rows[1:2], [30])])
    assert (copy["questions"], copy["partial_questions"]) == (1, 1)


def test_a_window_that_can_give_no_answer_gives_an_empty_one():
    rows = rows_of([example("w5", " ", name="a"), example("w5", "w10", "w10", name="b")])
    for unanswerable in (False, True):
        task = make_task(unanswerable=unanswerable)
        found = metrics_of(Oracle({10: (9.0, 9.0)}), task, [prepared(task, rows)])
        assert found["exact_match"] == 1


def test_the_loss_is_the_mean_over_windows_of_first_and_last_token():
    model = toy_classifier(toy_distilbert, 2, head="question_answering").eval()
    task, rows = make_task(), rows_of([example("w5 w6", CONTEXT, "w33"), example("w5", "w7 w8", "w8", name="b")])
    batch = prepared(task, rows)
    out = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"].long(),
        start_positions=batch["start"],
        end_positions=batch["end"],
    )
    # Of float32 logits: 24 bits, of values below 32. Padding is -inf to transformers' models only in attention.
    parts = [
        nn.functional.cross_entropy(logits.masked_fill(~batch["attention_mask"], -1e30), batch[name])
        for logits, name in ((out.start_logits, "start"), (out.end_logits, "end"))
    ]
    expected = (sum(parts) / 2).item()
    assert metrics_of(model, task, [batch])["loss"] == pytest.approx(expected, abs=32 * 2**-23)


@pytest.mark.parametrize("options", [{"n_best": 0}, {"max_answer_length": 0}])
def test_counts_below_1_are_refused(options):
    with pytest.raises(ValueError, match="is 0; it must be at least 1"):
        Config(**options)


def test_nothing_to_score_is_an_error_of_one_line():
    with pytest.raises(ValueError, match="no validation row has a question"):
        make_task().metrics({"seen": np.zeros(3)})


def questions(number, seed=0):
    """Which word comes after w20? The answer is one of w5 to w12, the other words stand for nothing."""
    generator, found = np.random.default_rng(seed), []
    for name in range(number):
        words = [f"w{word}" for word in generator.choice(range(30, 60), 7, replace=False)]
        place = int(generator.integers(0, 6))
        answer = f"w{generator.integers(5, 13)}"
        words[place : place + 2] = ["w20", answer]
        found.append(example("w20", " ".join(words), answer, name=str(name)))
    return found


@pytest.mark.parametrize("make", [toy_bert, toy_distilbert])
def test_thirty_steps_of_fine_tuning_raise_both_metrics_on_other_questions(make):
    model = toy_classifier(make, 2, head="question_answering")
    task = make_task()
    validation = [prepared(task, rows_of(questions(60, seed=1)))]
    before = metrics_of(model, task, validation)
    fit(model, prepared(task, rows_of(questions(60))))
    after = metrics_of(model, task, validation)
    assert after["exact_match"] > before["exact_match"] + 0.3
    assert after["f1"] > before["f1"] + 0.3
    assert after["loss"] < before["loss"]


def test_predictions_are_the_answers_of_the_best_windows():
    rows = rows_of(
        [
            example("w5 w6", CONTEXT, "w33 w34", "w33", name="a"),
            example("w5", CONTEXT, name="b"),
            example("w5", "w12", "w12", name="c"),
        ]
    )
    model = Oracle({12: (3.0, 3.0), 33: (4.0, 0.0), 34: (0.0, 4.0), CLS: (3.5, 3.5)})
    for unanswerable, expected in ((False, ["w12", "w33 w34", "w33 w34"]), (True, ["", "w33 w34", "w33 w34"])):
        task = make_task(unanswerable=unanswerable)
        sums = task.score(model, prepared(task, rows))
        found = task.predictions({name: value.numpy() for name, value in sums.items()})
        order = np.argsort(found["row_id"])[::-1]
        # c is the last row; the best windows of a and b are others than their first.
        assert found["row_id"].max() == len(rows) - 1
        assert [found["prediction"][place] for place in order] == expected
        assert [found["label"][place] for place in order] == ["w12", "", "w33 w34"]
        assert [found["exact_match"][place] for place in order] == [0.0 if unanswerable else 1.0, 0, 1]


def test_predictions_leave_out_questions_of_which_a_window_is_missing():
    rows = rows_of([example("w5 w6", CONTEXT, "w33", name="a"), example("w5", "w12 w13", "w12", name="b")])
    task = make_task()
    sums = task.score(Oracle({}), prepared(task, rows[1:], range(1, len(rows))))
    found = task.predictions({name: value.numpy() for name, value in sums.items()})
    assert found["row_id"].tolist() == [len(rows) - 1]
