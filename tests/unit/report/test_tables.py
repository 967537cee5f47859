import csv
import statistics
from io import StringIO

import pytest

from raydistill.report.tables import Entry, Statistic, csv_groups, csv_runs, group, markdown, rows_of

TEACHER = {"loss": 2.0, "perplexity": 7.389, "accuracy": 0.5, "tokens": 10, "parameters": 4_400_000}
BEFORE = {"loss": 9.0, "perplexity": 8103.08, "accuracy": 0.0, "tokens": 10, "parameters": 2_200_000}
LOSSES = {(2, 1): 3.0, (2, 2): 3.2, (4, 1): 2.5, (4, 2): 2.9}


def student(temperature: int, seed: int) -> Entry:
    figures = {"loss": LOSSES[temperature, seed], "parameters": 2_200_000}
    return Entry("student", {"method.temperature": temperature, "seed": seed}, figures)


SEEDS = [Entry("teacher", {}, {"loss": 2.0, "parameters": 4_400_000}), *(student(*key) for key in LOSSES)]


def test_single_runs_are_shown_without_n_and_spread():
    lines = markdown(group([Entry("teacher", {}, TEACHER), Entry("student before", {}, BEFORE)])).splitlines()
    assert lines == [
        "| model | validation loss | perplexity | accuracy | parameters |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| teacher | 2.0000 | 7.4 | 50.0% | 4,400,000 |",
        "| student before | 9.0000 | 8,103.1 | 0.0% | 2,200,000 |",
    ]


def test_seeds_are_one_row_with_n_mean_and_spread_and_a_constant_size_has_none():
    assert markdown(group(SEEDS)).splitlines() == [
        "| model | n | validation loss | parameters |",
        "| --- | ---: | ---: | ---: |",
        "| teacher | 1 | 2.0000 | 4,400,000 |",
        "| student (temperature=2) | 2 | 3.1000 ± 0.1414 | 2,200,000 |",
        "| student (temperature=4) | 2 | 2.7000 ± 0.2828 | 2,200,000 |",
    ]


def test_sizes_and_latencies_come_last_without_the_spread_of_measured_times():
    entries = [
        Entry("a", {"seed": seed}, {"latency_ms": 1.5 + seed, "size_mb": 17.61, "parameters": 5, "f1": 0.5, "loss": 1})
        for seed in (1, 2)
    ]
    lines = markdown(group(entries)).splitlines()
    assert lines[0] == "| model | n | validation loss | F1 | parameters | MB | ms of one row |"
    assert lines[2] == "| a | 2 | 1.0000 ± 0.0000 | 50.0% ± 0.0% | 5 | 17.61 | 3 |"


def test_equal_losses_of_several_seeds_show_their_zero_spread():
    entries = [Entry("student", {"seed": seed}, {"loss": 3.0}) for seed in (1, 2)]
    assert "3.0000 ± 0.0000" in markdown(group(entries))


def test_equal_values_have_no_spread_whatever_their_mean_rounds_to():
    assert Statistic.of([62.472292] * 3).spread == 0
    assert Statistic.of([0.1] * 3) == Statistic(0.1, 0.0, 3)


def test_spread_is_the_sample_standard_deviation():
    values = [3.0, 3.5, 4.25, 1.0]
    statistic = Statistic.of(values)
    assert statistic.mean == pytest.approx(statistics.fmean(values))
    assert statistic.spread == pytest.approx(statistics.stdev(values))
    assert statistic.n == 4
    assert Statistic.of([3.0]).spread is None


@pytest.mark.parametrize(("other", "text"), [(float("inf"), "inf ± nan"), (3e200, "± inf")])
def test_an_enormous_perplexity_breaks_no_table(other, text):
    values = [1e200, other]
    entries = [Entry("student", {"seed": seed}, {"perplexity": value}) for seed, value in enumerate(values)]
    assert f"{text} |" in markdown(group(entries))


def test_a_figure_that_one_model_lacks_is_an_empty_cell_and_one_that_all_lack_no_column():
    entries = [Entry("a", {}, {"loss": 1.0, "parameters": 5}), Entry("b", {}, {"parameters": 6})]
    lines = markdown(group(entries)).splitlines()
    assert lines[0] == "| model | validation loss | parameters |"
    assert lines[3] == "| b |  | 6 |"


def test_a_figure_that_some_seeds_lack_counts_those_that_have_it():
    entries = [Entry("a", {"seed": 1}, {"loss": 1.0}), Entry("a", {"seed": 2}, {})]
    row = group(entries)[0]
    assert (row.n, row.figures["loss"]) == (2, Statistic(1.0, None, 1))


def test_an_unknown_figure_keeps_its_name_and_gets_four_significant_digits():
    entries = [Entry("a", {}, {"parameters": 5, "matthews": 0.123456, "bytes": 123456.7, "tiny": 1.23456e-7})]
    assert markdown(group(entries)).splitlines()[0] == "| model | matthews | bytes | tiny | parameters |"
    assert markdown(group(entries)).splitlines()[2] == "| a | 0.1235 | 123,500 | 1.235e-07 | 5 |"


def test_a_bar_in_a_models_name_does_not_split_its_cell():
    assert "| a\\|b | 1.0000 |" in markdown(group([Entry("a|b", {}, {"loss": 1.0})]))


def test_csv_of_groups_has_keys_n_means_and_spreads_as_numbers():
    rows = list(csv.DictReader(StringIO(csv_groups(group(SEEDS)))))
    assert list(rows[0]) == [
        *("model", "method.temperature", "n", "loss_mean", "loss_spread", "parameters_mean", "parameters_spread")
    ]
    assert rows[0]["loss_spread"] == rows[0]["method.temperature"] == ""
    assert (rows[2]["model"], rows[2]["method.temperature"], rows[2]["n"]) == ("student", "4", "2")
    assert float(rows[2]["loss_spread"]) == pytest.approx(statistics.stdev([2.5, 2.9]))


def test_csv_of_runs_has_every_figure_of_every_run():
    rows = list(csv.DictReader(StringIO(csv_runs(SEEDS))))
    assert len(rows) == 2 * len(SEEDS)
    values = {
        (int(row["method.temperature"]), int(row["seed"])): float(row["value"])
        for row in rows
        if row["model"] == "student" and row["figure"] == "loss"
    }
    assert values == LOSSES


def test_groups_as_data_are_plain():
    assert group(SEEDS)[1].as_data() == {
        "name": "student (temperature=2)",
        "model": "student",
        "assignment": {"method.temperature": 2},
        "n": 2,
        "figures": {
            "loss": {"mean": pytest.approx(3.1), "spread": pytest.approx(0.02**0.5), "n": 2},
            "parameters": {"mean": 2_200_000, "spread": 0, "n": 2},
        },
    }


def test_a_latency_has_the_spread_of_its_own_passes_and_no_column_for_it():
    figures = {"latency_ms": 5.15, "latency_spread_ms": 0.5}
    header, rows = rows_of(group([Entry("a", {"seed": seed}, {**figures, "size_mb": seed}) for seed in (1, 2)]))
    assert header == ["model", "n", "MB", "ms of one row"]
    assert rows[0][-1] == "5.15 ± 0.5"
    assert rows_of(group([Entry("a", {}, {"latency_ms": 5.15})]))[1] == [["a", "5.15"]]
