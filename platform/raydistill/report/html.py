"""A document as one HTML file, which needs no other file and no network."""

from functools import cache
from typing import TYPE_CHECKING

from raydistill.report.document import Document

if TYPE_CHECKING:
    from jinja2 import Environment


def page(document: Document) -> str:
    """The page's text; every name in it is text and no markup."""
    return _environment().get_template("page.html.j2").render(document=document)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("raydistill.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
