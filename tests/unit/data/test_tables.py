"""Columns by meaning in Hugging Face data sets and Parquet files, which are read alike."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Sequence, Value
from pydantic import ValidationError

from raydistill.config.errors import error_lines
from raydistill.config.named import SourceSpec

TEXTS = Features({"a": Value("string"), "b": Value("string"), "label": ClassLabel(names=["no", "yes"])})
PAIRS = {"a": ["x", "y", " ", "z"], "b": ["1", "", "", "3"], "label": [1, 0, 1, -1]}
TAGS = Features({"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=["O", "B-PER"]))})
WORDS = {"tokens": [["Ada", "ran"], [], ["home"]], "ner_tags": [[1, 0], [], [0]]}
QUESTIONS = {
    "id": ["q1", "q2"],
    "question": ["Who?", "Why?"],
    "context": ["Ada ran.", "Ada ran."],
    "answers": [{"text": ["Ada"], "answer_start": [0]}, {"text": [], "answer_start": []}],
}
SQUAD = {name: name for name in QUESTIONS}


@pytest.fixture(params=["huggingface", "parquet"])
def table(request, tmp_path):
    """A function from columns to the section of a source that reads them."""

    def save(columns: dict, features: Features | None = None) -> dict:
        dataset = datasets.Dataset.from_dict(columns, features=features)
        # Another folder each time: one that is in use must not change.
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        if request.param == "huggingface":
            dataset.save_to_disk(folder)
            return {"name": "huggingface", "path": str(folder)}
        pq.write_table(dataset.data.table, folder / "a.parquet", row_group_size=2)
        return {"name": "parquet", "path": str(folder / "a.parquet")}

    return save


def read_all(section: dict, **options) -> list[dict]:
    source = SourceSpec.parse({**section, **options})
    return [dict(example) for item in source.items() for example in source.read(item)]


def test_class_ids_become_names_and_hidden_labels_and_blank_texts_are_dropped(table):
    assert read_all(table(PAIRS, TEXTS), text="a", text_pair="b", label="label") == [
        {"text": "x", "text_pair": "1", "label": "yes"},
        {"text": "y", "text_pair": "", "label": "no"},
        {"dropped": "no text"},
        {"dropped": "no label"},
    ]


def test_names_of_classes_are_raw_labels_where_a_map_is_given(table):
    found = read_all(table(PAIRS, TEXTS), text="b", label="label", labels={"yes": "good", "no": None})
    assert found[0] == {"text": "1", "label": "good"}
    section = table({"a": ["x", "y"], "label": [2, 1]})
    assert [e["label"] for e in read_all(section, text="a", label="label", labels={1: "one", 2: "two"})] == [
        "two",
        "one",
    ]


def test_numbers_stay_scores_or_become_classes_and_missing_ones_are_dropped(table):
    section = table({"a": ["x", "y", "z"], "score": [0.5, -1.0, None]})
    assert [e.get("label") for e in read_all(section, text="a", label="score")] == [0.5, -1.0, None]
    label = {"column": "score", "threshold": 0, "names": ["bad", "good"]}
    assert [e.get("label") for e in read_all(section, text="a", label=label)] == ["good", "bad", None]


def test_words_have_the_names_of_their_tags(table):
    expected = [
        {"words": ["Ada", "ran"], "labels": ["B-PER", "O"]},
        {"dropped": "no text"},
        {"words": ["home"], "labels": ["O"]},
    ]
    assert read_all(table(WORDS, TAGS), words="tokens", tags="ner_tags") == expected
    raw = {"tokens": [["Ada", "ran"]], "ner_tags": [[7, 0]]}
    named = read_all(table(raw), words="tokens", tags="ner_tags", labels={0: "O", 7: "B-PER"})
    assert named == expected[:1]


def test_questions_have_their_answers_as_lists(table):
    expected = [{key: column[row] for key, column in QUESTIONS.items()} for row in range(2)]
    assert read_all(table(QUESTIONS), **SQUAD) == expected
    as_rows = [[{"text": "Ada", "answer_start": 0}], []]
    assert read_all(table({**QUESTIONS, "answers": as_rows}), **SQUAD) == expected


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": ["x"]}, {}, r"text is 'text', which .* does not have; choices: a$"),
        ({"a": ["x"]}, {"text": "a", "label": "b"}, r"label is 'b', which .* does not have"),
        ({"a": [1]}, {"text": "a"}, r"text is 'a', which holds int64 in .*; give one of strings"),
        ({"a": ["x", "y"], "b": ["", "z"]}, {"text": "a", "label": "b"}, "row 0 has the label ''"),
        ({"a": 3 * ["x"], "b": ["1", "1", "2"]}, {"text": "a", "label": "b", "labels": {1: "one"}}, "row 2 has the"),
        ({"w": [["x", "y"]], "t": [["O"]]}, {"words": "w", "tags": "t"}, "row 0 has 2 words and 1 tags"),
        (
            {"w": ["x"], "t": [["O"]]},
            {"words": "w", "tags": "t"},
            "row 0 has 'x' as words, which is not a list of texts",
        ),
        ({**QUESTIONS, "answers": ["Ada", ""]}, SQUAD, "row 0 has the answers 'Ada'"),
        ({**QUESTIONS, "context": ["Ada", None]}, SQUAD, "row 1 has None as context"),
    ],
)
def test_what_a_column_cannot_mean_is_refused_by_place(table, columns, options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        read_all(table(columns), **options)
    assert "\n" not in str(refusal.value)


def test_a_class_id_that_the_features_do_not_name_is_refused(tmp_path):
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())], metadata=TEXTS.arrow_schema.metadata)
    pq.write_table(pa.table({"text": ["x"], "label": [2]}, schema=schema), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet row 0 has the class id 2, but the data set names only no, yes"):
        read_all({"name": "parquet", "path": str(tmp_path / "a.parquet")}, label="label")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "a", "words": "b"}, "text and words belong to different kinds"),
        ({"tags": "b"}, "tags is 'b', but words is missing"),
        ({"context": "b"}, "context is 'b', but question is missing"),
        ({"question": "b"}, "question is 'b', but context is missing"),
        ({"labels": {"a": "b"}}, "labels names the raw values of a column"),
        ({"label": 3}, "label is 3; columns of tables are given by name"),
        ({"column": "a"}, "column is not an option of source parquet"),
    ],
)
def test_columns_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValidationError) as caught:
        SourceSpec.parse({"name": "parquet", "path": "a.parquet", **options})
    [line] = error_lines(caught.value)
    assert line.startswith(message)


CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]


def test_prompts_with_completions_are_read_as_they_stand(table):
    section = table({"ask": ["Who? ", "", " "], "reply": [" Ada", "x", None]})
    assert read_all(section, prompt="ask", completion="reply") == [
        {"prompt": "Who? ", "completion": " Ada"},
        {"prompt": "", "completion": "x"},
        {"dropped": "no text"},
    ]


def test_messages_are_lists_of_roles_and_contents(table):
    assert read_all(table({"chat": [CHAT, CHAT[:1]]}), messages="chat") == [{"messages": CHAT}, {"messages": CHAT[:1]}]


@pytest.mark.parametrize("content", [["text"], [["a", "b"]], [[{"role": "user", "text": "Who?"}]]])
def test_a_column_that_has_no_messages_is_refused_before_any_row_is_read(table, content):
    section = {**table({"chat": content}), "messages": "chat"}
    with pytest.raises(ValueError, match=r"messages is 'chat', which holds .*; give lists of \{role, content\}"):
        SourceSpec.parse(section).items()
