"""The documentation's table of models is the one that ``raydistill ls models`` makes."""

from pathlib import Path

from raydistill import methods
from raydistill.commands.families import markdown, model_lines
from raydistill.models.blocks import packed_families

README = Path(methods.__file__).with_name("README.md")


def test_the_documented_table_is_current():
    assert markdown(model_lines()) in README.read_text(encoding="utf-8"), "write commands.families.markdown there anew"


def test_every_packed_family_is_in_one_row():
    rows = markdown(model_lines()).splitlines()[2:]
    named = [name for row in rows for name in row.split(" | ")[0].removeprefix("| ").split(", ")]
    assert sorted(named) == sorted([*packed_families(), "any other of transformers"])
