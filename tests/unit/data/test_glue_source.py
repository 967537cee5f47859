"""Tasks of GLUE as they are published: TSV files, Parquet files and data sets, by the names of their labels."""

import datasets
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Value
from pydantic import ValidationError

from raydistill.config.errors import error_lines
from raydistill.config.named import SourceSpec
from raydistill.data.sources import glue
from raydistill.tasks.glue import TASKS

FILES = {
    "CoLA/train.tsv": 'gj04\t1\t\t"One more.\ngj05\t0\t*\tMore one.\n',
    "SST-2/train.tsv": "sentence\tlabel\nfine \t1\nbad \t0\n",
    "MRPC/train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA.\tB.\n0\t7\t8\tC.\tD.\n",
    "STS-B/train.tsv": "i\tg\tf\ty\to\ts1\ts2\tsentence1\tsentence2\tscore\n0\tg\tf\ty\to\ts\ts\tA.\tB.\t2.500\n",
    "QQP/train.tsv": "id\tq\tq\tq1\tq2\tdup\n0\t1\t2\tA?\tB?\t1\n1\t3\t4\tbroken\n2\t5\t6\tC?\tD?\t0\n",
    "MNLI/train.tsv": "\t".join("abcdefgh12lg") + "\n" + "\t".join("abcdefgh") + "\tA.\tB.\tx\tneutral\n",
    "MNLI/dev_matched.tsv": "\t".join("abcdefgh12lg") + "\n" + "\t".join("abcdefgh") + "\tC.\tD.\tx\tentailment\n",
    "MNLI/dev_mismatched.tsv": "\t".join("abcdefgh12lg") + "\n" + "\t".join("abcdefgh") + "\tE.\tF.\tx\tneutral\n",
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tA?\tB.\tnot_entailment\n",
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n",
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tC.\tD.\tnot_entailment\n",
    "WNLI/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t1\n",
}
PAIR = {"text": "A.", "text_pair": "B."}
TRAIN = {
    "cola": [{"text": '"One more.', "label": "acceptable"}, {"text": "More one.", "label": "unacceptable"}],
    "sst2": [{"text": "fine ", "label": "positive"}, {"text": "bad ", "label": "negative"}],
    "mrpc": [{**PAIR, "label": "equivalent"}, {"text": "C.", "text_pair": "D.", "label": "not_equivalent"}],
    "stsb": [{**PAIR, "label": "2.500"}],
    "qqp": [
        {"text": "A?", "text_pair": "B?", "label": "duplicate"},
        {"dropped": "short line"},
        {"text": "C?", "text_pair": "D?", "label": "not_duplicate"},
    ],
    "mnli": [{**PAIR, "label": "neutral"}],
    "qnli": [{"text": "A?", "text_pair": "B.", "label": "not_entailment"}],
    "rte": [{**PAIR, "label": "entailment"}],
    "wnli": [{**PAIR, "label": "entailment"}],
}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    return tmp_path


def read_all(task: str, path, **options) -> list[dict]:
    source = SourceSpec.parse({"name": "glue", "task": task, "path": str(path), **options})
    assert source.is_listed_early
    return [dict(example) for item in source.items() for example in source.read(item)]


@pytest.mark.parametrize("task", TASKS)
def test_published_files_are_read_by_naming_folder_and_task(folder, task):
    assert read_all(task, folder) == TRAIN[task]
    assert all(set(TASKS[task].labels) >= {e["label"]} for e in TRAIN[task] if TASKS[task].labels and "label" in e)


def test_the_folder_of_the_task_itself_may_be_named(folder):
    assert read_all("rte", folder / "RTE") == TRAIN["rte"]


@pytest.mark.parametrize(
    ("task", "split", "text"),
    [
        ("rte", "validation", "C."),
        ("mnli", "validation", "C."),
        ("mnli", "validation_matched", "C."),
        ("mnli", "validation_mismatched", "E."),
    ],
)
def test_splits_are_named_as_on_the_hub(folder, task, split, text):
    assert [example["text"] for example in read_all(task, folder, split=split)] == [text]


def hub_rows(task: str) -> datasets.Dataset:
    names = glue._FORMATS[task].names
    labels = ClassLabel(names=list(TASKS[task].labels)) if TASKS[task].labels else Value("float32")
    features = Features({**{name: Value("string") for name in names}, "label": labels, "idx": Value("int32")})
    rows = {**{name: ["A.", "B."] for name in names}, "label": [1, -1 if TASKS[task].labels else 2.5], "idx": [0, 1]}
    return datasets.Dataset.from_dict(rows, features=features)


def hub_examples(task: str) -> list[dict]:
    labels = TASKS[task].labels
    pair = len(glue._FORMATS[task].names) > 1
    first, second = ({"text": text} | ({"text_pair": text} if pair else {}) for text in ("A.", "B."))
    hidden = {"dropped": "no label"} if labels else second | {"label": 2.5}
    return [first | {"label": labels[1] if labels else 1.0}, hidden]


@pytest.mark.parametrize("with_names", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_parquet_files_of_the_hub_are_read_with_and_without_their_features(tmp_path, task, with_names):
    split = "validation_matched" if task == "mnli" else "validation"
    (tmp_path / task).mkdir()
    dataset = hub_rows(task)
    table = dataset.data.table if with_names else dataset.data.table.replace_schema_metadata(None)
    pq.write_table(table, tmp_path / task / f"{split}-00000-of-00001.parquet")
    for path in (tmp_path, tmp_path / task):
        assert read_all(task, path, split="validation") == hub_examples(task)


@pytest.mark.parametrize("task", ["cola", "mnli", "stsb"])
def test_saved_data_sets_are_read(tmp_path, task):
    split = "validation_matched" if task == "mnli" else "validation"
    datasets.DatasetDict({split: hub_rows(task)}).save_to_disk(tmp_path / "saved")
    assert read_all(task, tmp_path / "saved", split="validation") == hub_examples(task)


def test_a_name_on_the_hub_is_a_data_set_with_the_task_as_its_subset():
    source = SourceSpec.parse({"name": "glue", "task": "mnli", "split": "validation"})
    assert not source.is_listed_early
    module, options = glue._resolved(source.config)
    assert module.__name__.endswith("huggingface")
    assert (options.path, options.subset, options.split) == ("nyu-mll/glue", "mnli", "validation_matched")
    assert options.columns() == {"text": "premise", "text_pair": "hypothesis", "label": "label"}


@pytest.mark.parametrize(
    ("file", "content", "task", "message"),
    [
        ("RTE/train.tsv", "i\ta\tb\tl\n0\tA.\tB.\t1\n", "rte", "line 2 has the label '1', which labels does not name"),
        ("SST-2/train.tsv", "sentence\tlabel\nfine\n", "sst2", "line 2 has 1 fields, too few for the columns"),
        ("STS-B/train.tsv", "\t".join("abcdefghij") + "\na\tb\n", "stsb", "line 2 has 2 fields, too few"),
    ],
)
def test_lines_that_no_code_could_read_are_refused_by_file_and_line(folder, file, content, task, message):
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=rf"{file} {message}") as refusal:
        read_all(task, folder)
    assert "\n" not in str(refusal.value)


def test_a_folder_without_the_split_is_refused_with_what_was_looked_for(folder):
    expected = r"has no split validation of qqp; looked for dev\.tsv and validation-\*\.parquet in .* QQP and qqp$"
    with pytest.raises(ValueError, match=expected):
        read_all("qqp", folder, split="validation")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"task": "mrcp"}, "task is 'mrcp'; did you mean 'mrpc'? Choices: cola"),
        ({"task": "rte", "split": "validation_matched"}, "split is 'validation_matched'; did you mean 'validation'?"),
        ({"task": "mnli", "split": "test"}, "split is 'test'; Choices: train, validation, validation_matched"),
    ],
)
def test_an_unknown_task_or_split_is_refused_with_the_choices(options, line):
    with pytest.raises(ValidationError) as caught:
        SourceSpec.parse({"name": "glue", **options})
    [found] = error_lines(caught.value)
    assert line in found
