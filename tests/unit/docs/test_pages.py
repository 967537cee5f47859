"""Every block of code of the documentation is what the package takes: commands, jobs, parts of jobs, Python."""

import ast
import re
import shlex
from typing import Any

import pytest
import typer
from pydantic import TypeAdapter

from raydistill.cli import app
from raydistill.config.named import EncodingSpec, MethodSpec, SourceSpec, TaskSpec
from raydistill.config.sections import LoraConfig, StudentConfig, TeacherConfig
from raydistill.discovery import names
from raydistill.job.load import load_job
from raydistill.search.config import SearchConfig
from raydistill.stages.train import Config as TrainStage
from toys.pages import PAGES, ROOT, Block, blocks, commands, fragments

BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [
    (f"{block}: {command}", command)
    for block in BLOCKS
    if block.kind in ("bash", "console", "", "shown")
    for command in commands(block)
    if command.startswith("raydistill ")
]
# Recipes say keys without what a whole stage has.
YAML = [block for block in BLOCKS if block.kind == "yaml" and block.page.parent.name != "recipes"]
PARTS = {
    "source": SourceSpec.parse,
    "encoding": EncodingSpec.parse,
    "task": TaskSpec.parse,
    "method": MethodSpec.parse,
    "student": StudentConfig.model_validate,
    "lora": LoraConfig.model_validate,
    "teachers": TypeAdapter(list[TeacherConfig]).validate_python,
    "plugins": TypeAdapter(list[str]).validate_python,
}
STUDENT = {"init": "layers", "layers": [0]}


def known(part: str, value: Any) -> None:
    """Raise an error where a part of a job is not what the package takes."""
    if isinstance(value, dict) and "kind" in value:
        needed = {"corpus": "corpus", "task": "classification", "method": "finetune", "student": STUDENT}
        stage = {**needed, **value} if value["kind"] == "train" else value
        load_job({"name": "page", "stages": {part: stage}})
    else:
        PARTS[part](value)


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=[where for where, _ in COMMANDS])
def test_a_command_has_the_arguments_and_options_that_a_page_gives_it(where: str, command: str) -> None:
    shown = re.split(r" [|>&<]", command)[0].replace(" ...", "").replace("[KEY=VALUE]", "key=value")
    found = typer.main.get_command(app)
    words = shlex.split(shown)[1:]
    while hasattr(found, "commands") and words and not words[0].startswith("--"):
        found = found.commands[words.pop(0)]
    found.make_context("raydistill", words, resilient_parsing="--version" in words)


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_is_a_job_a_space_or_a_part_of_one(block: Block) -> None:
    found = fragments(block)
    stages = found.get("stages", {})
    if "space" in found:
        SearchConfig.model_validate(found)
    elif block.title and stages:
        load_job({**found, "plugins": []} if "plugins" not in found else without_plugins(found))
    else:
        for part, value in {**found, **stages}.items():
            if part not in ("stages", "name", "storage", "seed"):
                known(part, value)


def without_plugins(job: dict[str, Any]) -> dict[str, Any]:
    """The job with a method of the package in place of those of its plug-ins."""
    student = {**job["stages"]["student"], "matrix": {}, "method": "kd"}
    return {**job, "plugins": [], "stages": {**job["stages"], "student": student}}


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.kind in ("python", "shown")], ids=str)
def test_python_is_valid(block: Block) -> None:
    if block.kind == "python" or "import" in block.text:
        ast.parse(block.text)


def test_a_training_has_every_key_that_a_page_names_with_its_section() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"`(training|optimizer|student)\.(\w+)", pages))
    assert len(named) > 10
    for section, key in named:
        assert key in TrainStage.model_fields[section].annotation.model_fields, (section, key)


def test_every_method_has_a_page_with_its_paper_and_advice_when_to_take_it() -> None:
    for name in (*names("raydistill.methods"), "sparse_teachers"):
        text = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
        assert re.search(r"\*\*Papers?\.\*\*", text), name
        assert "**When to take it.**" in text, name
        assert "**Evidence.**" in text, name
        assert "```math" in text, name


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == ROOT], ids=lambda page: page.name)
def test_links_of_pages_at_the_root_lead_to_files(page: Any) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert missing == []


def test_the_reading_order_from_a_job_to_a_loss_names_ten_files_that_there_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \| (.*) \|$", text, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 11))
    named = [path for _, first, text in rows for path in (first, *re.findall(r"`([\w/]+\.py)`", text))]
    assert len(named) > 10
    assert [path for path in named if not (ROOT / "platform" / "raydistill" / path).is_file()] == []
