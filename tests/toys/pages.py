"""The pages of the documentation: their blocks of code, and what they need to run on small models."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from toys.families import toy_gpt2
from toys.reviews import write_reviews
from toys.words import make_tokenizer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))

_FENCE = re.compile(r"^( *)(`{3,})(.*?)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_SMALL = {
    "sentence-transformers/all-MiniLM-L6-v2": "base",
    "HuggingFaceTB/SmolLM2-135M": "decoder",
    "max_length: 64": "max_length: 32",
}
"""Models of the hub that tutorials name, the folders of those that stand in for them, and a row that these take."""
_SHORT = "precision=fp32 max_steps=2 batch_size=8 micro_batch_size=8 logging_steps=1 eval_steps=1"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    kind: str
    """Its language, ``shown`` for one that no reader runs in that place."""
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.strip().splitlines()[0] if self.text.strip() else ''}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page in their order."""
    found = []
    for indent, _, head, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        title = re.search(r'title="(.*?)"', head)
        kind = "shown" if ".shown" in head else head.partition(" ")[0]
        lines = [line.removeprefix(indent) for line in text.splitlines(keepends=True)]
        found.append(Block(page, kind, title[1] if title else "", "".join(lines)))
    return found


def commands(block: Block) -> Iterator[str]:
    """The commands of a block, continued lines joined, comments left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s+)#.*", "", line).strip()
        if command:
            yield command


def cells(notebook: Path) -> list[str]:
    """The code of a notebook, cell by cell."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def write_examples(folder: Path) -> None:
    """The files and models that tutorials speak of, as small as they may be."""
    write_reviews(folder)
    table = (folder / "reviews.csv").read_text(encoding="utf-8").splitlines()[1:]
    named = [line.replace(",5", ",positive").replace(",1", ",negative") for line in table]
    (folder / "reviews.csv").write_text("\n".join(["review,sentiment", *named]) + "\n", encoding="utf-8")
    topics = ("business", "politics", "science", "sport")
    news = [f"w{8 + row % 4} w{20 + row % 7} w{30 + row % 5},{topics[row % 4]}" for row in range(120)]
    (folder / "news.csv").write_text("\n".join(["text,topic", *news]) + "\n", encoding="utf-8")
    (folder / "texts").mkdir()
    lines = [" ".join(f"w{8 + (row * 7 + word) % 20}" for word in range(12)) for row in range(60)]
    (folder / "texts" / "a.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    toy_gpt2(4).save_pretrained(folder / "decoder")
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(folder / "decoder")


class Reader:
    """Somebody who does what a page says, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "bin").mkdir()
        for name, options in (("raydistill", " -m raydistill"), ("python", "")):
            program = folder / "bin" / name
            # No link: Python finds the packages of its environment by the path that it is called by.
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{options} "$@"\n', encoding="utf-8")
            program.chmod(0o755)
        self._environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        # Wide enough for every table, so that no row's name is broken.
        self._environment["COLUMNS"] = "200"
        self._environment["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
        self._environment["PYTHONPATH"] = f"{ROOT / 'platform'}:{ROOT / 'tests'}"

    def follow(self, page: Path) -> list[str]:
        """Write the page's files and run its commands and its Python, in their order; returns what each printed."""
        printed = []
        for block in blocks(page):
            text = self._with_small_models(block.text)
            if block.title.startswith("add to "):
                with (self._folder / block.title.removeprefix("add to ")).open("a", encoding="utf-8") as file:
                    file.write(text)
            elif block.title:
                (self._folder / block.title).write_text(text, encoding="utf-8")
            elif block.kind == "bash":
                printed += [self._run(self._shortened(command)) for command in commands(block)]
            elif block.kind == "python":
                (self._folder / "block.py").write_text(text, encoding="utf-8")
                printed.append(self._run("python block.py"))
        return printed

    def _with_small_models(self, text: str) -> str:
        for name, small in _SMALL.items():
            text = text.replace(name, small)
        return text

    def _shortened(self, command: str) -> str:
        """The command on small models, each training of its job only a few steps long."""
        command = self._with_small_models(command)
        words = shlex.split(command)
        if words[:2] not in (["raydistill", "run"], ["raydistill", "tune"]):
            return command
        given = yaml.safe_load((self._folder / words[2]).read_text(encoding="utf-8"))
        job = yaml.safe_load((self._folder / given["job"]).read_text(encoding="utf-8")) if "job" in given else given
        trainings = [name for name, stage in job["stages"].items() if stage["kind"] == "train"]
        return " ".join([command, *(f"{name}.training.{key}" for name in trainings for key in _SHORT.split())])

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout


def fragments(block: Block) -> Any:
    """The YAML of a block."""
    return yaml.safe_load(block.text)
