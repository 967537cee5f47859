import copy
import inspect
import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from raydistill import discovery, plugins
from raydistill.api.methods import method_class
from raydistill.config.named import MethodSpec, TaskSpec, plugins_in
from raydistill.user_error import UserError
from toys.plugins import METHOD, METRIC, SOURCE

ARRIVAL = """
import pickle, sys
from pathlib import Path
spec = pickle.loads(Path(sys.argv[1]).read_bytes())
print(spec.config.factor, spec.method.__doc__, sorted(plugin.name for plugin in spec.plugins))
"""


@pytest.fixture(autouse=True)
def _no_plugins_of_another_test():
    yield
    discovery.use([])
    discovery._installed.cache_clear()
    plugins.installed.cache_clear()


def used(**texts):
    discovery.use([plugins.of_file(f"{name}.py", text) for name, text in texts.items()])


def test_a_file_is_the_kind_that_it_has_the_parts_of_and_has_its_own_name():
    found = [plugins.of_file(f"my/{name}.py", text) for name, text in (("a", METHOD), ("b", SOURCE), ("c", METRIC))]
    assert [(plugin.package, plugin.name) for plugin in found] == [
        (plugins.METHODS, "a"),
        (plugins.SOURCES, "b"),
        (plugins.METRICS, "c"),
    ]


def test_a_plug_in_is_listed_loaded_and_summarized_like_what_comes_with_the_package():
    used(scaled=METHOD)
    assert "scaled" in discovery.names(plugins.METHODS)
    assert discovery.summary(plugins.METHODS, "scaled") == "A method for tests."
    assert discovery.load(plugins.METHODS, "scaled").Config().factor == 2.0


def test_the_options_of_a_plug_in_are_validated_with_its_choices():
    used(scaled=METHOD)
    assert MethodSpec.parse({"name": "scaled", "factor": 3}).config.factor == 3.0
    with pytest.raises(ValueError, match="is not an option of method scaled; did you mean 'factor'"):
        MethodSpec.parse({"name": "scaled", "facto": 3})


def test_a_method_of_a_plug_in_has_a_public_class_with_its_documentation():
    used(scaled=METHOD)
    made = method_class("scaled")
    assert made(factor=4.0).config.factor == 4.0
    assert "What the loss is multiplied by." in (made.__doc__ or "")


def test_a_plug_in_that_is_used_again_after_another_of_its_name_has_its_own_documentation():
    used(scaled=METHOD)
    with pytest.raises(UserError, match=r"scaled.py, line 1: SyntaxError"):
        used(scaled="def f(:\n")
    used(scaled=METHOD)
    assert "A method for tests." in inspect.getsource(discovery.load(plugins.METHODS, "scaled"))


def test_a_metric_of_a_plug_in_counts_with_its_own_direction():
    used(zeros=METRIC)
    spec = TaskSpec.parse({"name": "classification", "metrics": ["accuracy", "zeros"]})
    assert spec.higher_is_better() == {"accuracy": True, "zeros": False, "loss": False}
    assert [plugin.name for plugin in spec.plugins] == ["zeros"]
    module = discovery.load(plugins.METRICS, "zeros")
    assert module.metric(np.array([0, 1, 0, 0]), np.array([1, 1, 1, 1])) == 0.75


def test_the_plug_ins_of_one_job_are_not_those_of_the_next():
    used(scaled=METHOD)
    used(zeros=METRIC)
    assert "scaled" not in discovery.names(plugins.METHODS)


def test_a_spec_brings_its_plug_in_to_a_process_that_has_never_seen_it(tmp_path):
    used(scaled=METHOD)
    spec = MethodSpec.parse({"name": "scaled", "factor": 5})
    (tmp_path / "spec").write_bytes(pickle.dumps(spec))
    done = subprocess.run(
        [sys.executable, "-c", ARRIVAL, str(tmp_path / "spec")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "5.0 The task's loss times a factor. ['scaled']\n"


def test_a_spec_keeps_the_content_that_it_was_made_with():
    used(scaled=METHOD)
    first = MethodSpec.parse("scaled")
    used(scaled=METHOD.replace("= 2.0", "= 7.0"))
    assert MethodSpec.parse("scaled").config.factor == 7.0
    assert copy.deepcopy(first).config.factor == 2.0
    assert first.method is not MethodSpec.parse("scaled").method
    assert first.config.factor == 2.0


def test_the_plug_ins_of_nested_sections_are_found():
    used(scaled=METHOD, zeros=METRIC)
    task = TaskSpec.parse({"name": "classification", "metrics": ["zeros"]})
    found = plugins_in([{"task": task}, (MethodSpec.parse("scaled"), MethodSpec.parse("finetune"))])
    assert [plugin.name for plugin in found] == ["zeros", "scaled"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = 1\ndef f(:\n", r"^my\.py, line 2: SyntaxError: .*; correct the plug-in there$"),
        ("\n\nimport no_such_package\n", r"^my\.py, line 3: ModuleNotFoundError: No module named 'no_such_package'"),
        ("def f():\n    return 1 / 0\n\nf()\n", r"^my\.py, line 2: ZeroDivisionError: division by zero"),
        ("x = 1\n", r"^my\.py is not a plug-in; one has: a method Method, Config; a task Task"),
        (METHOD + METRIC, r"^my\.py is several kinds of plug-in at once; one has: a method"),
        (METRIC.replace("OF = ", "of = "), r"^my\.py has no OF; a metric needs metric, OF, HIGHER_IS_BETTER$"),
        (" \n", r"^my\.py is empty"),
    ],
)
def test_a_plug_in_that_does_not_work_is_refused_in_one_line(text, line):
    with pytest.raises(UserError, match=line) as caught:
        plugins.of_file("my.py", text)
    assert len(caught.value.lines) == 1


def test_a_file_whose_name_is_none_in_python_is_refused():
    with pytest.raises(UserError, match=r"my-method\.py is not a name of a plug-in; use letters, digits and _"):
        plugins.of_file("my-method.py", METHOD)


@pytest.mark.parametrize(("name", "text"), [("kd", METHOD), ("text", SOURCE), ("accuracy", METRIC)])
def test_a_plug_in_with_the_name_of_what_comes_with_the_package_is_refused(name, text):
    with pytest.raises(
        UserError, match=rf"{name}\.py is a \w+ named {name}, a name that raydistill itself has already; rename"
    ):
        used(**{name: text})


def test_two_plug_ins_of_one_name_are_refused():
    found = [plugins.of_file("a/scaled.py", METHOD), plugins.of_file("b/scaled.py", METHOD)]
    with pytest.raises(UserError, match=r"b/scaled\.py is a method named scaled, a name that a/scaled\.py has"):
        discovery.use(found)


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "toy_plugin_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "scaled.py").write_text(METHOD)
    (folder / "broken.py").write_text("x = 1\ny = undefined\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith("toy_plugin_package")]:
        del sys.modules[name]


def test_a_module_that_is_installed_is_a_plug_in_and_its_content_is_hashed(package: Path):
    plugin = plugins.of_module("toy_plugin_package.scaled")
    assert (plugin.package, plugin.name, plugin.is_file) == (plugins.METHODS, "scaled", False)
    before = plugin.digest
    (package / "scaled.py").write_text(METHOD + "\n# changed\n")
    assert plugin.digest != before


def test_a_module_that_fails_is_refused_with_file_and_line(package: Path):
    with pytest.raises(UserError, match=r"^toy_plugin_package\.broken, line 2: NameError: name 'undefined'"):
        plugins.of_module("toy_plugin_package.broken")
    with pytest.raises(UserError, match=r"toy_plugin_package\.none is not a module that can be imported"):
        plugins.of_module("toy_plugin_package.none")


def entries(monkeypatch, *found):
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry for entry in found if entry.group == group])
    discovery._installed.cache_clear()
    plugins.installed.cache_clear()


def test_an_entry_point_of_an_installed_package_is_found_without_a_job_that_names_it(package, monkeypatch):
    entries(monkeypatch, EntryPoint("mine", "toy_plugin_package.scaled", "raydistill.methods"))
    assert "mine" in discovery.names(plugins.METHODS)
    assert "toy_plugin_package.scaled" not in sys.modules
    spec = MethodSpec.parse({"name": "mine", "factor": 3})
    assert (spec.config.factor, [plugin.name for plugin in spec.plugins]) == (3.0, ["mine"])
    assert discovery.summary(plugins.METHODS, "mine") == "A method for tests."


def test_an_entry_point_with_the_name_of_what_comes_with_the_package_is_refused(package, monkeypatch):
    entries(monkeypatch, EntryPoint("kd", "toy_plugin_package.scaled", "raydistill.methods"))
    with pytest.raises(UserError, match=r"toy_plugin_package\.scaled is a method named kd, a name that raydistill"):
        discovery.names(plugins.METHODS)
