"""How to make again what a page shows: the parts that reports of jobs and campaigns have alike."""

from collections.abc import Mapping

from raydistill.credentials import starred
from raydistill.report.document import Code, Listing, Section


def repeat(command: str, config: str, environment: Mapping[str, str]) -> Section:
    """The command, the whole configuration that it reads, and what it ran with."""
    blocks: list[Code | Listing] = [Code(command)]
    if config:
        blocks.append(Code(starred(config), summary="The whole configuration, every default written out"))
    known = [f"{name}: {value}" for name, value in environment.items() if not name.startswith("mlflow.")]
    if known:
        blocks.append(Code("\n".join(known), summary="Versions and machine"))
    lead = "With the same versions on the same machine it gives the same losses."
    return Section("repeat", "Make it again", blocks, lead)
