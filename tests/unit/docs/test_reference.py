"""The pages that are made from docstrings, the diagrams and the formulas, as far as they need no MkDocs."""

import importlib.util
import re
import sys

import pytest

from raydistill.discovery import names
from toys.pages import PAGES, ROOT, blocks

HOOKS = ROOT / "docs" / "hooks"
DIAGRAMS = [block for page in PAGES for block in blocks(page) if block.kind == "diagram"]


def hook(name):
    spec = importlib.util.spec_from_file_location(name, HOOKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Where its dataclasses look for their own module.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference():
    return hook("reference").pages()


def test_every_key_of_a_job_has_a_meaning(reference):
    for page in ("reference/job.md", "reference/stages.md", "reference/spaces.md"):
        rows = re.findall(r"^\| `(\w+)`\{#.*\| *(.*?) *\|$", reference[page], re.MULTILINE)
        assert len(rows) > 10
        assert [name for name, meaning in rows if not meaning] == []


def test_types_are_written_without_what_validates_them(reference):
    for page, text in reference.items():
        assert not re.search(r"Annotated|Literal|FieldInfo|<function| at 0x", text), page


def test_every_task_source_stage_and_metric_has_a_section(reference):
    for page, package in (
        ("tasks", "raydistill.tasks"),
        ("sources", "raydistill.data.sources"),
        ("stages", "raydistill.stages"),
    ):
        headings = re.findall(r"^## (\w+)$", reference[f"reference/{page}.md"], re.MULTILINE)
        assert set(names(package)) <= set(headings)
    assert all(f"`{name}`" in reference["reference/metrics.md"] for name in names("raydistill.metrics"))


def test_sections_inside_the_keys_of_a_stage_have_a_table_too(reference):
    for section in ("GateConfig", "TaskColumnConfig", "EnsembleConfig"):
        assert f"\n### {section} {{#" in reference["reference/stages.md"]
    assert "\n## FurtherBest {#" in reference["reference/job.md"]


def test_every_command_has_its_options_and_its_example(reference):
    text = reference["reference/commands.md"]
    for command in ("raydistill run", "raydistill models promote", "raydistill new job", "raydistill submit"):
        assert f"# {command}\n" in text
    assert "`--dry-run`" in text
    assert "```console\nraydistill" in text


def test_a_bar_in_code_stays_and_one_in_prose_does_not_end_a_cell():
    cell = hook("reference")._cell
    assert cell("`int | None` or a | b") == "`int | None` or a \\| b"


@pytest.mark.parametrize("block", DIAGRAMS, ids=str)
def test_a_diagram_has_a_title_and_all_its_boxes_and_arrows(block):
    drawn = hook("diagram").svg(block.text)
    title, _, rest = block.text.partition("\n")
    grid, _, arrows = rest.partition("\n---\n")
    assert f"<title>{title}</title>" in drawn
    assert drawn.count("<rect") == len(re.findall(r"\w+ \[", grid))
    assert drawn.count("marker-end") == len(arrows.strip().splitlines())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("T\na [A]\n---\na => a", "a diagram has 'a => a'"),
        ("T\na A\n---\n", "a diagram has 'a A'"),
    ],
)
def test_a_diagram_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hook("diagram").svg(text)


def test_each_concept_has_a_picture():
    pages = sorted((ROOT / "docs" / "concepts").glob("*.md"))
    without = [page.stem for page in pages if page.stem != "index" and "```diagram" not in page.read_text("utf-8")]
    assert without == []
