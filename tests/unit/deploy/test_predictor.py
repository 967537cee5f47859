"""A checkpoint answers as plain transformers does, one text at a time."""

import math

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from raydistill import Predictor
from raydistill.user_error import UserError
from toys.answering import LABELS, save_answering

TEXTS = ["w5 w6 w7", "w8", "w9 w10 w11 w12 w13 w14", "w15 w16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def alone(kind, folder, *texts):
    """What plain transformers says of one text or pair."""
    with torch.no_grad():
        return kind.from_pretrained(folder)(
            **AutoTokenizer.from_pretrained(folder)(*texts, return_tensors="pt", return_token_type_ids=True)
        )


def test_classes_and_probabilities_are_those_of_transformers_in_the_order_of_the_texts(folder):
    model = save_answering(folder / "classes", "sequence_classification")
    found = Predictor(model, batch_size=2).predict(TEXTS)
    assert list(found) == ["prediction", *(f"probability.{name}" for name in LABELS["sequence_classification"])]
    for place, text in enumerate(TEXTS):
        expected = alone(AutoModelForSequenceClassification, model, text).logits.softmax(-1)[0].tolist()
        said = [found[f"probability.{name}"][place] for name in LABELS["sequence_classification"]]
        assert said == pytest.approx(expected, abs=1e-6)
        assert found["prediction"][place] == LABELS["sequence_classification"][expected.index(max(expected))]


def test_a_pair_is_read_with_the_token_types_of_its_second_text(folder):
    model = save_answering(folder / "pairs", "sequence_classification")
    found = Predictor(model).predict([{"text": "w5 w6", "text_pair": "w7 w8 w9"}])
    expected = alone(AutoModelForSequenceClassification, model, "w5 w6", "w7 w8 w9").logits.softmax(-1)[0, 0]
    assert found["probability.bad"][0] == pytest.approx(float(expected), abs=1e-6)


def test_a_single_output_is_a_score(folder):
    model = save_answering(folder / "score", "score", problem_type="regression")
    found = Predictor(model).predict(TEXTS[:2])
    assert list(found) == ["prediction"]
    expected = [float(alone(AutoModelForSequenceClassification, model, text).logits) for text in TEXTS[:2]]
    assert found["prediction"] == pytest.approx(expected, abs=1e-6)


def test_every_word_has_the_tag_of_its_first_token_and_words_without_room_have_none(folder):
    model = save_answering(folder / "tags", "token_classification")
    words = [f"w{number}" for number in range(5, 11)]
    found = Predictor(model).predict([{"words": words}, "w5 w6"])["prediction"]
    best = alone(AutoModelForTokenClassification, model, " ".join(words)).logits[0, 1:-1].argmax(-1)
    assert found[0] == [LABELS["token_classification"][number] for number in best.tolist()]
    assert len(found[1]) == 2
    assert Predictor(model, max_length=6).predict([{"words": words}])["prediction"][0][4:] == [None, None]


def test_an_answer_is_the_best_span_of_all_windows_of_a_context(folder):
    model = save_answering(folder / "answers", "question_answering")
    context = " ".join(f"w{5 + number % 30}" for number in range(90))
    found = Predictor(model).predict(
        [{"question": "w5 w6", "context": context}, {"question": "w7", "context": "w8 w9"}]
    )
    assert all(answer in context for answer in found["prediction"])
    said = alone(AutoModelForQuestionAnswering, model, "w7", "w8 w9")
    pairs = [(first, last) for first in (3, 4) for last in (3, 4) if first <= last]
    scores = [float(said.start_logits[0, first] + said.end_logits[0, last]) for first, last in pairs]
    assert found["score"][1] == pytest.approx(max(scores), abs=1e-5)
    first, last = pairs[scores.index(max(scores))]
    assert found["prediction"][1] == " ".join(["w8", "w9"][first - 3 : last - 2])


def test_a_language_model_tells_how_likely_a_text_is(folder):
    model = save_answering(folder / "language", "causal_lm")
    found = Predictor(model).predict(TEXTS)
    for place, text in enumerate(TEXTS):
        ids = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt").input_ids
        with torch.no_grad():
            loss = float(AutoModelForCausalLM.from_pretrained(model)(ids, labels=ids).loss)
        assert found["tokens"][place] == ids.shape[1] - 1
        assert -found["log_likelihood"][place] / found["tokens"][place] == pytest.approx(loss, abs=1e-5)
        assert found["perplexity"][place] == pytest.approx(math.exp(loss), rel=1e-5)


def test_no_text_has_no_answer(folder):
    model = save_answering(folder / "classes", "sequence_classification")
    assert Predictor(model).predict([]) == {
        "prediction": [],
        **{f"probability.{name}": [] for name in LABELS["sequence_classification"]},
    }


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"review": "w5"}, "example 1 has no text; the model's sequence_classification head reads it"),
        ({"text": 5}, "example 1 has 5 as text, which is not text"),
        ({"text": "w5", "text_pair": None}, "example 1 has None as text_pair, which is not text"),
    ],
)
def test_an_example_that_cannot_be_read_is_named(folder, example, message):
    model = save_answering(folder / "classes", "sequence_classification")
    with pytest.raises(UserError) as raised:
        Predictor(model).predict(["w5", example])
    assert str(raised.value) == message


def test_a_masked_model_fills_every_mask(folder):
    model = save_answering(folder / "masked", "masked_lm")
    found = Predictor(model).predict(["w5 [MASK] w7 [MASK]", "w5", "[MASK]"])
    assert list(map(len, found["prediction"])) == [2, 0, 1]
    for text, place in (("w5 [MASK] w7 [MASK]", 0), ("[MASK]", 2)):
        ids = AutoTokenizer.from_pretrained(model)(text).input_ids
        masks = [position for position, token in enumerate(ids) if token == 4]
        best = alone(AutoModelForMaskedLM, model, text).logits[0, masks].softmax(-1).max(-1)
        assert found["probability"][place] == pytest.approx(best.values.tolist(), abs=1e-6)
        assert found["prediction"][place] == AutoTokenizer.from_pretrained(model).batch_decode(best.indices[:, None])


def test_a_model_of_many_classes_a_text_is_refused(folder):
    model = save_answering(folder / "many", "sequence_classification", problem_type="multi_label_classification")
    with pytest.raises(UserError, match="gives each text any number of classes"):
        Predictor(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"precision": "int4"}, "precision is 'int4'; choices: fp32, bf16, fp16"), ({"batch_size": 0}, "batch_size is 0")],
)
def test_numbers_out_of_range_are_refused(folder, options, message):
    with pytest.raises(UserError, match=message):
        Predictor(save_answering(folder / "classes", "sequence_classification"), **options)
