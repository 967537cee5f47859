import json
import re
from dataclasses import replace

import pytest

from raydistill.report import charts, html
from raydistill.report.chart import Charts
from raydistill.report.curves import Training
from raydistill.report.document import (
    Answer,
    Code,
    Confusion,
    Document,
    Example,
    Examples,
    Listing,
    Section,
    Table,
    Tile,
    Verdict,
)
from raydistill.report.tables import Cell
from toys.html_page import HtmlPage

SCRIPT = "<script>alert(1)</script>"
NAMES = [SCRIPT, "a\n# b", "a|b", "R&D", '"><img src=x>', "{{ 7 * 7 }}", "</script><b>"]
HISTORY = [{"step": step, "train/loss": 9.0 / step, "eval/accuracy": step / 100} for step in (2, 4, 6)]


def page(name: str = "student") -> Document:
    """A page that has every kind of block, all of them with a name in them."""
    trainings = [Training(name, {}, HISTORY)]
    blocks = [
        Table(name, ["model", "loss"], [[name, Cell("1.5", 1.5)], ["b", Cell("")]], [name], {f"{name}.csv": name}),
        Listing([(name, name)]),
        Code(name),
        Code(name, summary=name),
        Confusion(name, [name, "b"], [[1, 2], [0, 4]]),
        Examples(name, [Example(3, name, name, [Answer(name, name, True), Answer(name, name, None)])]),
        charts.loss_terms(trainings),
        charts.metric(trainings, "accuracy", []),
    ]
    sections = [Section("one", name, blocks, name)]
    return Document("Report", name, name, Verdict(name, [Tile(name, name, name)]), sections)


def test_every_block_of_a_document_is_on_the_page_and_every_element_is_closed():
    found = HtmlPage(html.page(page()))
    assert found.unclosed == []
    assert found.titles == ["Verdict", "student"]
    assert found.captions == ["student", "student"]
    assert len(found.tables) == 2
    assert found.tags.count("figure") == 2
    assert {"main", "nav", "header", "footer", "details", "dl"} <= set(found.tags)
    assert len(found.ids) == len(set(found.ids))
    assert "4 100% " in f"{found.text} "


def test_a_page_asks_for_nothing_from_elsewhere():
    text = html.page(page())
    files = [address for address in HtmlPage(text).addresses if not address.startswith(("#", "data:,"))]
    assert files == ["student.csv"]
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"@import|url\(", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_wherever_it_stands(name):
    plain, found = HtmlPage(html.page(page())), HtmlPage(html.page(page(name)))
    assert found.tags == plain.tags
    assert found.unclosed == []
    words = " ".join(name.split())
    assert found.text.count(words) >= 20
    assert found.tables[0][1][0] == name


def test_cells_are_sorted_by_their_numbers_with_all_digits():
    cells = [Cell("1,000", 1000), Cell("12.3%", 0.12345678), Cell("inf", float("inf")), Cell("nan", float("nan")), "x"]
    table = Table("t", ["name", "value"], [[f"row {cell}", cell] for cell in cells])
    found = HtmlPage(html.page(replace(page(), sections=[Section("t", "T", [table])])))
    assert [row[1] for row in found.orders[0]] == [None, "1000", "0.12345678", "Infinity", None, None]
    assert [row[1] for row in found.tables[0][1:]] == list(cells)


def test_every_value_of_a_curve_can_be_read():
    text = html.page(
        replace(page(), sections=[Section("c", "C", [charts.metric([Training("a", {}, HISTORY)], "accuracy", [])])])
    )
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', text)
    assert [(heading, values) for _, _, heading, values in json.loads(data)] == [
        (f"step {step}", [[0, "line", "a", f"{step}.0%"]]) for step in (2, 4, 6)
    ]


def test_many_long_trainings_stay_below_two_megabytes():
    history = [
        {"step": step, **{f"train/{term}": 1.0 / step for term in "abcdef"}, "train/loss": 1.0}
        for step in range(1, 2001)
    ]
    trainings = [Training("student", {"method.temperature": number}, history) for number in range(30)]
    found: Charts = charts.loss_terms(trainings)
    assert len(html.page(replace(page(), sections=[Section("c", "C", [found])]))) < 2_000_000
    line = found.charts[0].lines[0]
    assert [line.points[0][0], line.points[-1][0]] == [1, 2000]


def test_what_is_not_known_is_told():
    example = Example(3, "", None, [Answer("student", "", False)])
    found = HtmlPage(html.page(replace(page(), sections=[Section("e", "E", [Examples("Wrong", [example])])])))
    assert "The text is not with the corpus." in found.text
    assert "(none) ✗ wrong" in found.text
