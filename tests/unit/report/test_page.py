from dataclasses import replace

from raydistill.report.page import Comparison, Shown, Trained, page
from raydistill.report.tables import Entry, group


def comparison(entries: list[Entry]) -> Comparison:
    return Comparison("evaluate", group(entries), csv_groups="evaluate.csv", csv_runs="evaluate-runs.csv")


def test_a_page_has_tables_pictures_and_runs_with_links():
    entries = [Entry("teacher", {}, {"loss": 2.0, "tokens": 1234}), Entry("student", {}, {"loss": 3.0, "tokens": 1234})]
    run = Trained("distill", "causal", "teacher", 100, 3.25, "../distill-0011aabb")
    shown = [Shown("metric.png", "Validation loss", "Against the step.")]
    text = page("Report of demo", [comparison(entries)], [run], shown=shown, metric="loss")
    assert text.startswith("# Report of demo\n")
    assert "| teacher | 2.0000 |" in text
    assert "All models are scored on the same 1,234 tokens." in text
    assert "[rows of this table](evaluate.csv), [every run](evaluate-runs.csv)" in text
    assert "![Validation loss](metric.png)\n\nAgainst the step." in text
    assert "| `distill` | causal | teacher | 100 | 3.2500 | [distill-0011aabb](../distill-0011aabb) |" in text
    assert "standard deviation" not in text


def test_a_page_tells_what_n_and_the_spread_are_where_there_are_several_runs():
    entries = [Entry("student", {"seed": seed}, {"loss": 3.0 + seed, "tokens": 10 + seed}) for seed in (1, 2)]
    text = page("Report", [comparison(entries)], [], shown=[], metric="loss")
    assert "mean ± sample standard deviation" in text
    assert "## Runs" not in text


def test_models_scored_on_different_tokens_are_not_said_to_share_them():
    entries = [Entry("a", {}, {"tokens": 10}), Entry("b", {}, {"tokens": 12})]
    assert "same" not in page("Report", [comparison(entries)], [], shown=[], metric="loss")


def test_rows_that_classifiers_share_and_the_notes_of_an_evaluation_stand_below_its_table():
    entries = [Entry("a", {}, {"accuracy": 0.5, "rows": 1050}), Entry("b", {}, {"accuracy": 0.6, "rows": 1050})]
    noted = replace(comparison(entries), notes=["Latencies are medians."])
    text = page("Report", [noted], [], shown=[], metric="loss")
    assert "| model | accuracy |" in text
    assert "All models are scored on the same 1,050 rows. Latencies are medians. As CSV" in text
