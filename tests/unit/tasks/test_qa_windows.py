import json

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from raydistill.tasks import qa
from raydistill.tasks.qa import EncodeConfig
from toys.words import make_tokenizer

CONFIG = EncodeConfig(max_length=14, stride=3)


def text_of(number, *, gap=" "):
    return gap.join(f"w{5 + place % 50}" for place in range(number))


def example(question, context, *answers, name="a"):
    starts = [context.index(answer) for answer in answers]
    return {
        "id": name,
        "question": question,
        "context": context,
        "answers": {"text": list(answers), "answer_start": starts},
    }


EXAMPLES = [
    example("w50 w51", text_of(30, gap="  "), "w12  w13"),
    example("  w50 w51", text_of(30), "w20 w21 w22"),
    example("w50", text_of(8), "w5"),
    example("w50 w51 w52", "  " + text_of(40), "w44"),
    # Inside of a token, and over the end of a window.
    example("w50", text_of(30), "5 w16 w1"),
    example("w50", text_of(30), text_of(30)),
    example("w50 w52", text_of(25)),
    example("w50 w52", "w9", "w9"),
]


def published(tokenizer, one, config):
    """Rows, answers' places and offsets by the published loop over the tokens."""
    pair = tokenizer(
        one["question"].lstrip(),
        one["context"],
        truncation="only_second",
        max_length=config.max_length,
        stride=config.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    for number, ids in enumerate(pair["input_ids"]):
        offsets, of_text = pair["offset_mapping"][number], pair.sequence_ids(number)
        start = end = 0
        if one["answers"]["text"]:
            begin = one["answers"]["answer_start"][0]
            stop = begin + len(one["answers"]["text"][0])
            first = of_text.index(1)
            last = len(of_text) - 1 - of_text[::-1].index(1)
            if offsets[first][0] <= begin and offsets[last][1] >= stop:
                while first < len(offsets) and offsets[first][0] <= begin and of_text[first] == 1:
                    first += 1
                while offsets[last][1] >= stop and of_text[last] == 1:
                    last -= 1
                start, end = first - 1, last + 1
        yield ids, start, end, [offset if own == 1 else None for offset, own in zip(offsets, of_text, strict=True)]


@pytest.mark.parametrize(("max_length", "stride"), [(14, 3), (10, 3), (14, 7), (10, 0), (60, 20)])
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_windows_and_answers_are_the_published_ones(number, max_length, stride):
    tokenizer, one, config = make_tokenizer(), EXAMPLES[number], EncodeConfig(max_length=max_length, stride=stride)
    rows = qa.cut([one], tokenizer, config)
    expected = list(published(tokenizer, one, config))
    assert [row.ids.tolist() for row in rows] == [ids for ids, *_ in expected]
    assert [(row.values["start"], row.values["end"]) for row in rows] == [(start, end) for _, start, end, _ in expected]
    for row, (*_, offsets) in zip(rows, expected, strict=True):
        text = "".join(map(chr, row.values["text"]))
        for place, offset in enumerate(offsets):
            start, end = row.values["text_start"][place], row.values["text_end"][place]
            if offset is None:
                assert (start, end) == (-1, -1)
            else:
                assert text[start:end] == one["context"][slice(*offset)]
        assert row.values["second"] == next(place for place, offset in enumerate(offsets) if offset is not None)


def test_windows_of_an_example_are_numbered_and_have_the_same_key():
    rows = qa.cut(EXAMPLES[:3], make_tokenizer(), CONFIG)
    numbers = [(row.values["window"], row.values["windows"]) for row in rows]
    assert numbers == [*((place, 5) for place in range(5)), *((place, 5) for place in range(5)), (0, 1)]
    keys = [row.values["question"] for row in rows]
    assert len(set(keys)) == 3
    assert len({*keys[:5]}) == len({*keys[5:10]}) == 1


def test_keys_tell_examples_of_the_same_texts_from_each_other_by_their_ids_and_are_exact_as_floats():
    rows = qa.cut([example("w5", "w6", name=str(number)) for number in range(50)], make_tokenizer(), CONFIG)
    keys = [row.values["question"] for row in rows]
    assert len(set(keys)) == 50
    assert [int(float(key)) for key in keys] == keys


def test_space_at_the_start_of_a_question_is_no_token():
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    (row,) = qa.cut([example("  w5 w6", " w7", "w7")], tokenizer, CONFIG)
    # The other spaces are unknown tokens, 1.
    assert row.ids.tolist() == [2, 5, 1, 6, 3, 1, 7, 3]


def test_all_answers_travel_with_each_window():
    rows = qa.cut([example("w5", text_of(30), "w6", "w7 w8")], make_tokenizer(), CONFIG)
    assert {"".join(map(chr, row.values["answers"])) for row in rows} == {json.dumps(["w6", "w7 w8"])}


def test_a_question_that_leaves_no_room_is_cut_and_every_window_moves_on():
    rows = qa.cut([example(text_of(20), text_of(9), "w13")], make_tokenizer(), CONFIG)
    assert {row.values["second"] for row in rows} == {1 + 7 + 1}
    assert {len(row.ids) for row in rows} == {14}
    assert sum(row.values["start"] > 0 for row in rows) == 1
    assert "".join(map(chr, rows[-1].values["text"])).endswith("w13")


def test_a_context_without_a_token_has_no_answer():
    (row,) = qa.cut([example("w5", " ")], make_tokenizer(), CONFIG)
    assert (row.values["start"], row.values["second"]) == (0, len(row.ids))
    assert row.values["text"].size == 0


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ({"text": "w5"}, "an example has text; this task reads question, context and answers"),
        ({"question": "w5", "context": "w6", "answers": ["w6"]}, "equally many in text and answer_start"),
        ({"question": "w5", "context": "w6", "answers": {"text": ["w6"]}}, "equally many in text and answer_start"),
    ],
)
def test_examples_of_another_form_are_refused(one, message):
    with pytest.raises(ValueError, match=message):
        qa.cut([one], make_tokenizer(), CONFIG)


@pytest.mark.parametrize("options", [{"max_length": 12, "stride": 7}, {"stride": -1}, {"stride": 384}])
def test_lengths_that_leave_no_room_are_refused(options):
    with pytest.raises(ValueError, match=r"stride .* must be at least|stride is -1; it must be at least 0"):
        EncodeConfig(**options)


def test_columns_have_one_value_for_each_token_where_they_should():
    columns = qa.columns(CONFIG)
    for row in qa.cut(EXAMPLES, make_tokenizer(), CONFIG):
        assert row.values.keys() == columns.keys()
        for name, column in columns.items():
            if column.per == "token":
                assert np.shape(row.values[name]) == row.ids.shape
