from io import StringIO

from rich.console import Console

from raydistill.report import comparison_markdown, comparison_table

FIGURES = {
    "teacher": {"loss": 2.0, "perplexity": 7.389, "accuracy": 0.5, "tokens": 10, "parameters": 4_400_000},
    "student before": {"loss": 9.0, "perplexity": 8103.08, "accuracy": 0.0, "tokens": 10, "parameters": 2_200_000},
}


def test_markdown_has_a_header_a_rule_and_a_row_for_each_model():
    assert comparison_markdown(FIGURES).splitlines() == [
        "| model | held-out loss | perplexity | masked accuracy | parameters |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| teacher | 2.0000 | 7.4 | 50.0% | 4,400,000 |",
        "| student before | 9.0000 | 8,103.1 | 0.0% | 2,200,000 |",
    ]


def test_a_figure_that_one_model_lacks_is_an_empty_cell_and_one_that_all_lack_no_column():
    lines = comparison_markdown({"a": {"loss": 1.0, "parameters": 5}, "b": {"parameters": 6}}).splitlines()
    assert lines[0] == "| model | held-out loss | parameters |"
    assert lines[3] == "| b |  | 6 |"


def test_the_terminals_table_shows_the_same_cells():
    console = Console(width=120, record=True, file=StringIO())
    console.print(comparison_table(FIGURES, title="Held out"))
    text = console.export_text()
    for cell in ("Held out", "student before", "8,103.1", "2,200,000", "masked accuracy"):
        assert cell in text
