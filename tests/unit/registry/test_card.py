"""What a student's card says, and that it says nothing that is not known."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from raydistill.registry.card import figures_table, model_card
from raydistill.registry.student import FiguresRow, figures_tag

CONFIG = {
    "architectures": ["DistilBertForSequenceClassification"],
    "model_type": "distilbert",
    "n_layers": 2,
    "dim": 32,
    "vocab_size": 1200,
    "id2label": {"0": "bad", "1": "good"},
}
ROWS = [
    FiguresRow("student", "distilled", {"accuracy": 0.9, "latency_ms": 1.5}),
    FiguresRow("teacher", "teacher", {"accuracy": 0.95}),
    FiguresRow("baseline", "alone", {"accuracy": 0.85}, runs=3),
]
TAGS = {
    "method": "kd",
    "method_options": '{"temperature": 4.0}',
    "teacher": "teacher",
    "teacher_hash": "abc",
    "corpus_hash": "def",
    "parameters": "12345",
    "bytes": "49380",
    "license": "Apache-2.0",
    "figures_note": "Latencies are medians.",
    "layer_plan": "0 1 0* 1*",
    **figures_tag(ROWS),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_a_card_tells_what_is_known(folder: Path) -> None:
    card = model_card("sentiment", TAGS, folder)
    for text in (
        "license: apache-2.0",
        "2 blocks, 32 wide, 1,200 tokens",
        "Its classes: bad, good.",
        "* Method: kd (temperature: 4.0)",
        "* Teacher: teacher, content abc",
        "* Corpus: content def",
        "trained to run the blocks 0 1 0* 1*",
        "| accuracy | 0.9000 | 0.9500 | 0.8500 |",
        "Latencies are medians.",
        "12,345 parameters, 49,380 bytes of weights on disk.",
        'AutoModelForSequenceClassification.from_pretrained("FOLDER")',
        "raydistill models pull sentiment FOLDER",
    ):
        assert text in card


def test_a_card_of_a_version_without_tags_leaves_out_what_is_not_known(folder: Path) -> None:
    card = model_card("sentiment", {}, folder)
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == ["# sentiment", "## Use"]
    assert "license" not in card


def test_a_hub_reads_the_license_the_task_and_the_students_metrics(folder: Path) -> None:
    data = ModelCard(model_card("sentiment", TAGS, folder)).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", "text-classification")
    assert data.eval_results is not None
    # Neither its latency, which is no metric of quality, nor the figures of other models.
    assert [(one.metric_type, one.metric_value) for one in data.eval_results] == [("accuracy", 0.9)]


def test_a_figure_that_one_model_lacks_is_an_empty_cell() -> None:
    table = figures_table(ROWS).splitlines()
    assert table[0] == "|  | student (distilled) | teacher | baseline (alone), mean of 3 runs |"
    assert table[-1] == "| latency of one row (ms) | 1.5000 |  |  |"


def test_a_license_in_words_is_a_name_for_a_hub(folder: Path) -> None:
    card = model_card("sentiment", {"license": "for research only"}, folder)
    assert "license: other\nlicense_name: for research only\n" in card
    assert "## License\n\nfor research only\n" in card


def test_the_card_says_how_far_latencies_spread_and_how_they_were_measured(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    rows = [FiguresRow("student", "student", {"latency_ms": 5.15, "latency_spread_ms": 0.25})]
    note = "Latencies are medians, ± half the distance between their quartiles. Several models took turns in 4 rounds."
    text = model_card("small", {"figures_note": note}, tmp_path, rows=rows)
    assert "| latency of one row (ms) | 5.1500 |\n| spread of that latency (ms) | 0.2500 |" in text
    assert note in text
    assert "latency_spread_ms" not in text.partition("\n---\n")[0]
