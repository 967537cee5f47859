"""What MkDocs runs when it builds the site: it adds the pages that are made from the package and from notebooks."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import diagram

import reference
from raydistill import discovery

ROOT = Path(__file__).parents[2]
METHODS = ROOT / "platform" / "raydistill" / "methods" / "README.md"
METHOD_SECTIONS = {
    "dynamic_teacher": "Dynamic distillation",
    "dynamic_data": "Dynamic distillation",
    "dynamic_objective": "Dynamic distillation",
    **dict.fromkeys(("vkd", "uhc", "dfa", "cfl", "muki"), "Knowledge integration"),
    "sparse_teachers": "Sparse teachers (StarK): stages, no method",
}
"""Sections of the methods' README that are not named after a method."""
_MODELS = "Which method with which models"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Know the fences of diagrams and formulas, and the pages that exist for every method and every recipe."""
    config.mdx_configs["pymdownx.superfences"] = {
        "custom_fences": [
            {"name": "diagram", "class": "diagram", "format": diagram.fence},
            {"name": "math", "class": "math", "format": formula},
        ]
    }
    methods = [f"methods/{name}.md" for name in (*discovery.names("raydistill.methods"), "sparse_teachers")]
    recipes = [f"recipes/{path.name}" for path in Path(config.docs_dir, "recipes").glob("*.md")]
    recipes.sort(key=lambda page: (not page.endswith("/index.md"), page))
    _extend(config.nav, {"Methods": methods, "Recipes": recipes})
    config.nav[:] = [entry for entry in config.nav if entry != {"Recipes": []}]
    return config


def _extend(nav: list[Any], more: dict[str, list[str]]) -> None:
    for entry in nav:
        for title, pages in more.items():
            if isinstance(entry, dict) and title in entry:
                entry[title].extend(page for page in pages if page not in entry[title])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference, a page for each method, and the notebooks as pages."""
    generated = dict(reference.pages())
    for name in (*discovery.names("raydistill.methods"), "sparse_teachers"):
        generated[f"methods/{name}.md"] = method_page(name, Path(config.docs_dir, "methods", f"{name}.md"))
    index = Path(config.docs_dir, "methods", "index.md").read_text(encoding="utf-8").rstrip()
    generated["methods/index.md"] = f"{index}\n\n## {_MODELS}\n\n{_section(_MODELS)}\n"
    for notebook in sorted(Path(config.docs_dir).rglob("*.ipynb")):
        page = notebook.relative_to(config.docs_dir).with_suffix(".md").as_posix()
        generated[page] = notebook_page(json.loads(notebook.read_text(encoding="utf-8")))
    for path, text in generated.items():
        existing = files.get_file_from_path(path)
        if existing is not None:
            files.remove(existing)
        files.append(File.generated(config, path, content=text))
    return files


def method_page(name: str, written: Path) -> str:
    """The hand-written idea and advice, then formulas and deviations from the methods' README, then options."""
    about = written.read_text(encoding="utf-8") if written.exists() else f"# {name}\n"
    parts = [about.rstrip(), "## Formulas and deviations", _section(METHOD_SECTIONS.get(name, name))]
    if name in discovery.names("raydistill.methods"):
        parts += ["## Options", reference.options_of_method(name)]
    return "\n\n".join(parts) + "\n"


def _section(title: str) -> str:
    """The text of a section of the methods' README; a method without one, such as a plug-in, has its docstrings."""
    text = METHODS.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    return sections[title].strip() if title in sections else "The docstring of the module has the formulas."


def notebook_page(notebook: dict[str, Any]) -> str:
    """A notebook as Markdown, with the text that its cells printed."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            text = "".join(output.get("text") or output.get("data", {}).get("text/plain", ""))
            parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that would load anything from the network."""
    found = re.search(r"""<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=["']?(https?://[^"' >]*)""", output)
    if found is not None and 'rel="canonical"' not in found[0]:
        raise PluginError(f"{page.file.src_uri} loads {found[1]}; pages have to work without a network")
    return output


def formula(source: str, language: str, class_name: str, options: Any, md: Any, **rest: Any) -> str:
    """What ``pymdownx.superfences`` calls for a fence of the kind ``math``: LaTeX as MathML, which browsers draw."""
    return f'<div class="formula">{convert(source.strip(), display="block")}</div>'
