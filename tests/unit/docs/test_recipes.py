"""Tables of published options name keys that jobs have, and say of every other option why it has none."""

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from raydistill import discovery
from raydistill.cli import app
from raydistill.config.schema import has_key
from raydistill.job.load import JobConfig
from raydistill.plugins import METHODS, SOURCES, TASKS

FOLDER = Path(__file__).parents[3] / "docs" / "recipes"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")
HEADER = "| Their option | Default | Our key |"
NO_KEY = "none, because "
NAMED = {"method": METHODS, "task": TASKS, "encoding": TASKS, "source": SOURCES, "validation": SOURCES}
"""What a section can name, and where such things are found."""
NO_KEYS = re.compile(r"[A-Z][A-Z_]+|\.\w+|\w+@\w+|[A-Za-z_/]+\.(py|sh|pkl)|BERT\.\w+\.pkl")
"""What else stands in a table as code: variables of the environment, ends of names, references and files."""


class Row(NamedTuple):
    """An option of a published script."""

    place: str
    option: str
    key: str
    section: str


def rows() -> Iterator[Row]:
    for page in PAGES:
        for section in (FOLDER / f"{page}.md").read_text(encoding="utf-8").split("\n## ")[1:]:
            _, _, table = section.partition(HEADER)
            assert table, f"{page}: {section.splitlines()[0]} has no table"
            for line in table.strip().splitlines()[1:]:
                option, _, key = (cell.strip() for cell in line.strip("|").split("|"))
                yield Row(f"{page}, {section.splitlines()[0]}", option, key, section)


ROWS = list(rows())


def code_in(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def named_in(section: str) -> dict[str, list[str]]:
    """What a section says of its stages: the names of methods, tasks, encodings and sources."""
    found: dict[str, list[str]] = {what: [] for what in NAMED}
    for what, name in re.findall(r"`(\w+): (\w+)`", section):
        if what in NAMED:
            found[what].append(name)
    return found


@cache
def kinds() -> dict[str, Any]:
    return {name: import_module(f"raydistill.stages.{name}").Config for name in discovery.names("raydistill.stages")}


def exists(key: str, section: str) -> bool:
    """Whether a job has a key: below one of the stages, with any of the names in its section, or at its top."""
    first, *rest = key.partition(": ")[0].split(".")
    if first not in kinds():
        return has_key(JobConfig, [first, *rest])
    named = named_in(section).get(rest[0], [])
    # A section of a name, a model or a corpus, or a list of them: the schema asks what a job has there.
    written = [{rest[0]: {"name": name}} for name in named] or [{}]
    return any(has_key(kinds()[first], rest, value) for value in written)


def commands() -> dict[str, set[str]]:
    """Options of each command."""
    group: Any = typer.main.get_command(app)
    return {name: {text for one in command.params for text in one.opts} for name, command in group.commands.items()}


def test_every_published_system_has_its_page():
    assert PAGES == ["causal_distill", "causal_distill_xxs", "dynamic_kd", "muki", "pea_kd", "stark", "trainer"]
    assert len(ROWS) > 700


@pytest.mark.parametrize("page", PAGES)
def test_every_key_of_a_table_exists_and_every_other_option_says_why_it_has_none(page: str) -> None:
    for row in ROWS:
        if not row.place.startswith(f"{page}, "):
            continue
        words = [word for word in code_in(row.key) if not NO_KEYS.fullmatch(word)]
        keys = [word for word in words if not word.startswith("raydistill ") and word.partition(": ")[0] not in NAMED]
        for key in keys:
            assert exists(key, row.section), f"{row.place}, {row.option}: no job has the key {key}"
        assert keys or row.key.startswith(NO_KEY), f"{row.place}, {row.option}: neither a key nor why there is none"


def test_a_key_that_no_job_has_is_found():
    section = "`kind: train` with `method: causal` and `task: mlm`"
    for key in ("train.method.alpha_ce", "train.training.batch_size", "train.teachers.0.checkpoint", "seed"):
        assert exists(key, section)
    for key in (
        "train.method.alpha",
        "train.training.batch",
        "train.teachers.0.chekpoint",
        "sed",
        "evaluate.task.n_best",
    ):
        assert not exists(key, section)


def test_named_methods_tasks_and_sources_and_stages_exist():
    for row in ROWS:
        for what, names in named_in(row.section).items():
            assert set(names) <= set(discovery.names(NAMED[what])), f"{row.place}: {what} {names}"
        assert set(re.findall(r"`kind: (\w+)`", row.section)) <= kinds().keys(), row.place


def test_commands_and_their_options_exist():
    texts = [(FOLDER / f"{page}.md").read_text(encoding="utf-8") for page in PAGES]
    found = [word.split() for text in texts for word in code_in(text) if word.startswith("raydistill ")]
    assert len(found) > 10
    for _, name, *arguments in found:
        options = {argument for argument in arguments if argument.startswith("--")}
        assert options <= commands()[name], f"raydistill {name} has no {options - commands()[name]}"


def test_the_first_page_counts_what_the_tables_have():
    text = " ".join((FOLDER / "index.md").read_text(encoding="utf-8").split())
    own = [row for row in ROWS if not row.place.startswith("trainer, ")]
    without = [row for row in own if row.key.startswith(NO_KEY)]
    assert f"Of {len(own)} options {len(own) - len(without)} have a key; of the other {len(without)}" in text.replace(
        "\n", " "
    )
    for page, options, keyless in re.findall(r"\((\w+)\.md\) \| (\d+) \| (\d+) \|", text):
        of_page = [row for row in own if row.place.startswith(f"{page}, ")]
        assert (len(of_page), sum(row in without for row in of_page)) == (int(options), int(keyless))
