"""What may import what, and the other rules of the code's shape that no linter knows."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TypeVar, get_args

import pytest

from raydistill import discovery

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "platform"
TESTS = ROOT / "tests"

LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("prediction",),
    ("search",),
    ("job",),
    ("stages",),
    ("training", "evaluation", "report"),
    ("data",),
    ("registry",),
    ("tracking", "cluster"),
    ("config",),
    ("hf", "terminal", "testing"),
    ("api", "deploy"),
    ("methods", "tasks"),
    ("models", "losses", "interventions", "optim", "options", "metrics"),
    (
        "batch",
        "computing",
        "layout",
        "draws",
        "discovery",
        "atomic",
        "locks",
        "machine",
        "names",
        "credentials",
        "environment",
        "store_paths",
        "threads",
    ),
    ("plugins",),
    ("user_error",),
)
"""Parts of the package from top to bottom; a part imports itself and the layers below its own."""
PURE = {part for layer in LAYERS[-5:] for part in layer}
FOREIGN = {"ray", "deepspeed", "mlflow", "pydantic", "pyarrow"}
"""What the pure half does without."""

IMPORT_WITHOUT = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {foreign}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
for name in {names}:
    importlib.import_module(name)
"""


@cache
def modules() -> dict[str, Path]:
    """Files of the package by module name."""
    found = {}
    for path in sorted((SOURCES / "raydistill").rglob("*.py")):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def syntax(module: str) -> tuple[ast.AST, ...]:
    """All nodes of a module's syntax tree."""
    return tuple(ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))))


def loads_by_name(module: str) -> list[ast.expr]:
    """First arguments of the calls by which a module imports others without a statement."""
    functions = {"importlib.import_module", "import_module", "__import__"}
    calls = (node for node in syntax(module) if isinstance(node, ast.Call))
    return [call.args[0] for call in calls if ast.unparse(call.func) in functions]


@cache
def imports(module: str) -> frozenset[str]:
    """Full names of all that a module imports, inside functions and by literal name too."""
    found = {name.value for name in loads_by_name(module) if isinstance(name, ast.Constant)}
    for node in syntax(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def part_of(module: str) -> str | None:
    """The folder or file below the package that a module belongs to; None for what is not ours."""
    package, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    return part if package == "raydistill" and f"raydistill.{part}" in modules() else None


def level(part: str) -> int:
    """0 for the lowest layer."""
    return next(number for number, layer in enumerate(reversed(LAYERS)) if part in layer)


def importers_of(*libraries: str) -> set[str]:
    """Modules that import one of the libraries or something below it."""
    return {
        module
        for module in modules()
        for name in imports(module)
        if any(name == library or name.startswith(f"{library}.") for library in libraries)
    }


def test_every_part_of_the_package_has_a_layer():
    parts = {part for module in modules() if (part := part_of(module))}
    assert parts <= {part for layer in LAYERS for part in layer}


def test_the_reader_of_imports_sees_those_inside_functions_and_of_submodules():
    assert "ray.data" in {name for module in modules() for name in imports(module)}
    assert "raydistill.models.blocks.blocks_of" in imports("raydistill.methods.causal")
    assert part_of("raydistill.models.blocks.blocks_of") == "models"
    assert part_of("raydistill.draws") == "draws"
    assert part_of("transformers.models") is None


def test_imports_go_downwards_only():
    upwards = {
        f"{module} imports {name}"
        for module in modules()
        if (importer := part_of(module)) is not None
        for name in imports(module)
        if (imported := part_of(name)) not in (None, importer) and level(imported) >= level(importer)
    }
    assert not upwards


def new_modules_of(statement: str) -> set[str]:
    """Modules that a fresh interpreter has imported after a statement and had not before."""
    script = f"import sys; before = set(sys.modules); {statement}; print(*sys.modules.keys() - before)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_none_of_its_parts_and_no_library():
    found = new_modules_of("import raydistill")
    assert {name for name in found if name.startswith("raydistill")} == {"raydistill"}
    assert not {name.partition(".")[0] for name in found} & {*FOREIGN, "torch", "transformers", "numpy"}


def test_the_plug_in_loss_needs_torch_alone():
    found = new_modules_of("from raydistill import dynamic_kd_loss; dynamic_kd_loss.__name__")
    assert "raydistill.losses.uncertainty" in found
    assert not {name.partition(".")[0] for name in found} & {*FOREIGN, "transformers"}
    assert {part_of(name) for name in found if name.startswith("raydistill.")} == {"losses"}


def test_the_package_has_no_other_names_to_ask_for():
    with pytest.raises(ImportError, match="cannot import name 'no_such_loss'"):
        from raydistill import no_such_loss  # noqa: F401


def test_deepspeed_is_imported_in_one_module():
    names = ("deepspeed", "transformers.integrations.deepspeed", "transformers.integrations.HfDeepSpeedConfig")
    assert importers_of(*names) == {"raydistill.training.engine"}


def test_mlflow_is_imported_in_tracking_and_registry_alone():
    # Loaded by name in quiet.py, which the test below makes the only way round an import statement.
    found = importers_of("mlflow", "raydistill.tracking.quiet")
    assert "raydistill.tracking.writer" in found
    assert {part_of(module) for module in found} == {"tracking", "registry"}


def test_names_known_only_when_running_are_imported_for_plug_ins_by_discovery_for_mlflow_and_for_public_names_alone():
    computed = {
        module for module in modules() if any(not isinstance(name, ast.Constant) for name in loads_by_name(module))
    }
    public = {"raydistill", "raydistill.losses"}
    assert computed == {"raydistill.discovery", "raydistill.plugins", "raydistill.tracking.quiet", *public}


def test_ray_tune_is_imported_in_one_folder_alone():
    found = importers_of("ray.tune")
    assert "raydistill.search.tuning.run" in found
    assert {module.rpartition(".")[0] for module in found} == {"raydistill.search.tuning"}


def test_the_pure_half_names_no_library_of_the_runtime_half():
    # Where datasets is installed transformers' Trainer imports it, so hf cannot be tried without.
    assert not {module for module in importers_of(*FOREIGN, "datasets") if part_of(module) in {*PURE, "hf"}}


def test_the_pure_half_imports_where_the_runtime_libraries_are_missing():
    names = [module for module in modules() if part_of(module) in PURE]
    assert {"raydistill.methods.causal", "raydistill.tasks.mlm", "raydistill.models.load"} <= set(names)
    script = IMPORT_WITHOUT.format(foreign=sorted(FOREIGN), names=names)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_block_on_libraries_works():
    script = IMPORT_WITHOUT.format(foreign=["pydantic"], names=["raydistill.config.sections"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert "pydantic is blocked" in done.stderr


def test_what_a_user_can_fix_is_a_user_error_and_only_formulas_raise_a_plain_value_error():
    raised = {
        part_of(module)
        for module in modules()
        for node in syntax(module)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ValueError"
    }
    assert raised == {"losses"}


def test_the_source_root_is_no_package():
    assert not (SOURCES / "__init__.py").exists()
    assert [entry.name for entry in SOURCES.iterdir() if entry.suffix == ".py"] == []


def test_no_file_is_longer_than_400_lines():
    files = [*SOURCES.rglob("*.py"), *TESTS.rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {name: length for name, length in lengths.items() if length > 400}


@pytest.mark.parametrize("kind", ["methods", "tasks"])
def test_each_method_and_task_has_a_test_of_its_name(kind):
    folder = TESTS / "unit" / kind
    names = discovery.names(f"raydistill.{kind}")
    assert names
    untested = [name for name in names if not (*folder.glob(f"test_{name}.py"), *folder.glob(f"test_{name}_*.py"))]
    assert not untested


@pytest.mark.parametrize(("kind", "role"), [("methods", "Method"), ("tasks", "Task")])
def test_the_options_that_a_method_and_a_task_read_are_of_their_own_type(kind, role):
    for name in discovery.names(f"raydistill.{kind}"):
        module = discovery.load(f"raydistill.{kind}", name)
        [base] = vars(getattr(module, role))["__orig_bases__"]
        # A task whose options another task extends leaves their type open.
        assert [one for one in get_args(base) if not isinstance(one, TypeVar)] in ([module.Config], []), name
        assert getattr(module, role).__parameters__ or get_args(base) == (module.Config,), name


def test_nothing_takes_options_a_method_or_a_task_of_any_type():
    def untyped(module, names):
        arguments = (node for node in syntax(module) if isinstance(node, ast.arg) and node.arg in names)
        return [node.arg for node in arguments if node.annotation is not None and ast.unparse(node.annotation) == "Any"]

    found = {module: untyped(module, {"method", "task"}) for module in modules()}
    found |= {module: untyped(module, {"config"}) for module in modules() if part_of(module) in ("methods", "tasks")}
    assert not {module: names for module, names in found.items() if names}
    options = next(
        node
        for node in syntax("raydistill.config.named")
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "config"
    )
    assert ast.unparse(options.annotation) == "'DataclassInstance'"
