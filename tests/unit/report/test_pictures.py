import struct
import sys

import pytest

from raydistill.report.curves import Training
from raydistill.report.pictures import Level, loss_terms, metric, save
from raydistill.report.tables import Statistic

TERMS = {"loss": 9.0, "ce": 7.0, "cos": 0.4}


def training(stage: str = "distill", *, terms=TERMS, steps=(2, 4, 6), factor: float = 1.0, **assignment: object):
    history: list[dict[str, float]] = [{"step": 0, "eval/accuracy": 0.0, "eval/perplexity": 20_000.0 * factor}]
    for step in steps:
        history.append({"step": step, **{f"train/{name}": factor * value / step for name, value in terms.items()}})
    history.append({"step": steps[-1], "eval/accuracy": 0.1 * factor, "eval/perplexity": 500.0 * factor})
    history.append({"step": steps[-1], **{f"validation/{name}": 2.0 for name in terms}})
    return Training(stage, assignment, history)


def drawn(panel) -> dict[str, list[tuple[float, float]]]:
    """Points of a panel's lines that are in the legend, by label."""
    lines = [line for line in panel.get_lines() if line.get_label() and not line.get_label().startswith("_")]
    return {line.get_label(): list(zip(*map(list, line.get_data()), strict=True)) for line in lines}


def labels(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_each_term_has_a_panel_with_the_histories_values():
    figure = loss_terms([training()])
    assert [panel.get_title() for panel in figure.axes] == list(TERMS)
    for panel, value in zip(figure.axes, TERMS.values(), strict=True):
        assert drawn(panel) == {"distill": [(step, value / step) for step in (2, 4, 6)]}
    assert labels(figure) == ["distill", "training rows", "validation rows"]


def test_validation_terms_are_dashed_in_the_colour_of_their_training():
    panel = loss_terms([training()]).axes[0]
    validation = next(line for line in panel.get_lines() if list(line.get_ydata()) == [2.0])
    trained = next(line for line in panel.get_lines() if line.get_label() == "distill")
    assert validation.get_linestyle() == "--"
    assert trained.get_linestyle() == "-"
    assert validation.get_color() == trained.get_color()


@pytest.mark.parametrize("num_terms", [1, 2, 3, 4, 5, 7])
def test_there_are_as_many_panels_as_terms_and_the_lowest_row_names_the_axis(num_terms):
    names = {f"term{number}": 1.0 for number in range(num_terms)}
    axes = loss_terms([training(terms=names)]).axes
    assert len(axes) == num_terms
    assert axes[-1].get_xlabel() == "optimizer step"


def test_a_term_that_one_training_lacks_has_only_the_others_curve_in_its_own_colour():
    figure = loss_terms([training("alone", terms={"loss": 5.0}), training()])
    colors = {line.get_label(): line.get_color() for line in figure.axes[0].get_lines() if line.get_label()}
    assert colors["alone"] != colors["distill"]
    assert list(drawn(figure.axes[1])) == ["distill"]
    assert figure.axes[1].get_lines()[0].get_color() == colors["distill"]


def test_seeds_are_a_mean_line_in_a_band_of_one_spread():
    runs = [training(seed=seed, factor=factor) for seed, factor in enumerate((1.0, 2.0, 3.0))]
    panel = loss_terms(runs).axes[0]
    assert drawn(panel) == {"distill, mean of 3": [(step, pytest.approx(18 / step)) for step in (2, 4, 6)]}
    low, high = panel.collections[0].get_datalim(panel.transData).intervaly
    assert (low, high) == (pytest.approx(9 / 6), pytest.approx(27 / 2))


def test_runs_with_steps_of_their_own_are_shown_to_their_end():
    runs = [training(seed=1, steps=(2, 4)), training(seed=2, steps=(2, 4, 6))]
    lines = loss_terms(runs).axes[0].get_lines()
    assert max(step for line in lines for step in line.get_xdata()) == 6
    assert drawn(loss_terms(runs).axes[0])["distill, mean of 2"][-1][0] == 4


def test_a_metric_is_drawn_with_the_results_of_others_as_level_lines():
    levels = [Level("teacher", Statistic(0.28, None, 1)), Level("alone", Statistic(0.12, 0.01, 3))]
    figure = metric([training()], "accuracy", levels)
    (panel,) = figure.axes
    lines = drawn(panel)
    assert lines["distill"] == [(0, 0.0), (6, 0.1)]
    assert [y for _, y in lines["teacher: 28.0%"]] == [0.28, 0.28]
    assert [y for _, y in lines["alone: 12.0% ± 1.0%"]] == [0.12, 0.12]
    assert labels(figure) == ["distill", "teacher: 28.0%", "alone: 12.0% ± 1.0%"]
    assert panel.get_ylabel() == "accuracy"
    assert panel.yaxis.get_major_formatter()(0.25, 0) == "25.0%"


@pytest.mark.parametrize(("name", "scale"), [("perplexity", "log"), ("accuracy", "linear")])
def test_only_values_that_differ_by_orders_of_magnitude_get_a_logarithmic_axis(name, scale):
    assert metric([training()], name, []).axes[0].get_yscale() == scale


def test_a_saved_picture_is_a_png_1200_pixels_wide(tmp_path):
    for name, figure in {"a": loss_terms([training()]), "b": metric([training()], "accuracy", [])}.items():
        path = tmp_path / f"{name}.png"
        save(figure, path)
        content = path.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", content[16:24])
        assert width == 1200
        assert 400 < height < 1200
        assert len(content) > 10_000


def test_drawing_leaves_no_global_state_behind():
    loss_terms([training()])
    assert "matplotlib.pyplot" not in sys.modules
