"""Reports in headless Chromium; skipped where it is not installed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raydistill.report import charts, html
from raydistill.report.curves import Training
from raydistill.report.document import Code, Confusion, Document, Examples, Section, Table, Tile, Verdict
from raydistill.report.document import Example as Row
from raydistill.report.tables import Cell, Entry, group
from toys import browser as toy

pytestmark = pytest.mark.skipif(toy.PROGRAM is None, reason="Chromium is not installed")

NAME = "student (method.temperature=2, method.alpha=0.5)"
LOSSES = [0.5, 10.0, None, 9.0]
WIDTHS = (360, 1400)


def document() -> Document:
    """A page of long names, wide tables and every kind of block."""
    history = [{"step": step, "train/loss": 9.0 / step, "eval/accuracy": step / 100} for step in (2, 4, 6)]
    trainings = [Training("student", {"method.temperature": 2, "seed": seed}, history) for seed in (1, 2)]
    cells = [Cell("" if loss is None else f"{loss:,.1f}", loss) for loss in LOSSES]
    header = ["model", "loss", *(f"a long figure {number}" for number in range(9))]
    rows = [[f"{NAME} {number}", cell, *["1.0000 ± 0.1000"] * 9] for number, cell in enumerate(cells)]
    rated = [Entry(name, {}, {"accuracy": 0.5, "latency_ms": 2.0}) for name in (NAME, "teacher")]
    roles = {NAME: "student", "teacher": "teacher"}
    price = charts.quality_cost(group(rated), "accuracy", greater_is_better=True, roles=roles, teacher=group(rated)[1])
    assert price is not None
    labels = [f"class {number}" for number in range(20)]
    blocks: list[Any] = [
        Table("Every model", header, rows, ["A note."], {"a.csv": "all digits"}),
        charts.metric(trainings, "accuracy", []),
        price,
        Confusion(NAME, labels, [[1] * 20] * 20),
        Examples("Wrong", [Row(1, "word " * 60, "good", [])]),
        Code("raydistill run " + "x" * 300),
        Code("a: 1\n" * 20 + "b" * 300, summary="Configuration"),
    ]
    tiles = [Tile("Quality kept", "90.0%", "of it")] * 4
    return Document(
        "Report", "x" * 80, "About it.", Verdict(f"{NAME} keeps 90%.", tiles), [Section("all", "All", blocks)]
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html.page(document()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[toy.Browser]:
    with toy.browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(autouse=True)
def _complains_of_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    tab = request.getfixturevalue("tab")
    tab.errors.clear()
    yield
    assert tab.errors == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_its_width_and_only_tables_scroll(tab: toy.Browser, page: Path, width: int) -> None:
    tab.open(page, width=width)
    assert tab.run("document.documentElement.scrollWidth") == width
    wide = "[...document.querySelectorAll('.scroll')].map(one => one.scrollWidth > one.clientWidth)"
    assert any(tab.run(wide)) or width == 1400


@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_from_what_is_behind_them(tab: toy.Browser, page: Path, dark: bool) -> None:
    tab.open(page, width=1400, dark=dark)
    found = tab.run(_CONTRASTS)
    assert len(found) > 100
    assert not [one for one in found if one[0] < 4.5]


def test_a_click_sorts_by_number_with_empty_cells_last(tab: toy.Browser, page: Path) -> None:
    tab.open(page, width=1400)
    column = "[...document.querySelectorAll('.sortable tbody tr')].map(row => row.cells[1].textContent)"
    head = "document.querySelectorAll('.sortable thead th')[1]"
    assert tab.run(column) == ["0.5", "10.0", "", "9.0"]
    tab.run(f"{head}.querySelector('button').click()")
    assert tab.run(column) == ["10.0", "9.0", "0.5", ""]
    tab.run(f"{head}.querySelector('button').click()")
    assert tab.run(column) == ["0.5", "9.0", "10.0", ""]
    assert tab.run(f"{head}.getAttribute('aria-sort')") == "ascending"


def test_the_keyboard_reaches_the_main_part_first_then_sorts_and_reads_values(tab: toy.Browser, page: Path) -> None:
    tab.open(page, width=1400)
    tab.press("Tab")
    assert tab.run("document.activeElement.className") == "skip"
    tab.press("Enter", "\r")
    tab.press("Tab")
    assert tab.run("document.activeElement.className") == "scroll"
    tab.press("Tab")
    tab.press("Enter", "\r")
    assert tab.run("document.querySelector('.sortable th').getAttribute('aria-sort')") == "ascending"
    tab.run("document.querySelector('.plot').focus()")
    tab.press("Home")
    tab.press("ArrowRight")
    assert tab.run("document.activeElement.getAttribute('aria-valuetext')").startswith("step 4, student")
    readout = "document.querySelector('.readout')"
    assert tab.run(f"{readout}.textContent").startswith("step 4student (temperature=2), mean of 2 4.0% ± 0.0%")
    assert tab.run(f"getComputedStyle({readout}).display") == "block"
    tab.run("document.activeElement.blur()")
    assert tab.run(f"getComputedStyle({readout}).display") == "none"


def test_pointing_at_a_chart_shows_the_nearest_step(tab: toy.Browser, page: Path) -> None:
    tab.open(page, width=360)
    tab.run("document.querySelector('.plot').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = tab.run("JSON.parse(JSON.stringify(document.querySelector('.area').getBoundingClientRect()))")
    x, y = box["x"] + 0.55 * box["width"], box["y"] + 0.5 * box["height"]
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert tab.run("document.querySelector('.readout b').textContent") == "step 4"


def test_without_its_script_the_page_has_all_its_texts(page: Path) -> None:
    text = re.sub(r"<script.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert all(word in text for word in (NAME, "10.0", "class 19", "Quality kept", "About it."))


_CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = rgb(getComputedStyle(one).backgroundColor);
      if (color[3] > 250) return color;
    }
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("script, style, [hidden]")) continue;
    const style = getComputedStyle(element);
    const front = light(rgb(element.closest("svg") ? style.fill : style.color)), back = light(behind(element));
    const contrast = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    found.push([contrast, walker.currentNode.textContent.slice(0, 40)]);
  }
  return found;
})()
"""
