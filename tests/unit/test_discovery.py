import subprocess
import sys
import types

import pytest

from raydistill import discovery


def test_names_are_the_public_files_of_a_package_sorted():
    names = discovery.names("raydistill.methods")
    assert {"causal", "finetune"} <= set(names)
    assert names == sorted(names)
    assert not [name for name in names if name.startswith("_") or "." in name]


def test_a_package_inside_a_package_is_found():
    assert "text" in discovery.names("raydistill.data.sources")


def test_what_is_no_python_file_is_no_name(tmp_path, monkeypatch):
    folder = tmp_path / "methods"
    folder.mkdir()
    for name in ("b.py", "a.py", "_base.py", "__init__.py", "README.md", "notes.pyc"):
        (folder / name).touch()
    (folder / "folder").mkdir()
    monkeypatch.setattr(discovery, "files", lambda package: tmp_path)
    assert discovery.names("raydistill.methods") == ["a", "b"]


def test_listing_and_summaries_import_no_torch():
    script = (
        "import sys; from raydistill import discovery\n"
        "print([discovery.summary(p, n) for p in ('raydistill.methods', 'raydistill.tasks')"
        " for n in discovery.names(p)])\n"
        "assert not {'torch', 'numpy', 'ray', 'raydistill.methods'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["raydistill.methods", "raydistill.tasks", "raydistill.data.sources"])
def test_every_module_has_a_summary_of_one_line(package):
    for name in discovery.names(package):
        summary = discovery.summary(package, name)
        assert summary
        assert "\n" not in summary


def test_the_summary_is_the_first_line_of_the_docstring():
    module = discovery.load("raydistill.tasks", "mlm")
    assert module.__doc__ is not None
    assert discovery.summary("raydistill.tasks", "mlm") == module.__doc__.splitlines()[0]


def test_a_name_loads_its_module():
    module = discovery.load("raydistill.methods", "causal")
    assert isinstance(module, types.ModuleType)
    assert module.__name__ == "raydistill.methods.causal"


def test_an_unknown_name_is_refused_with_the_closest_and_all_choices():
    choices = ", ".join(discovery.names("raydistill.methods"))
    with pytest.raises(ValueError, match=r"method\.name is 'casual'; did you mean 'causal'") as caught:
        discovery.load("raydistill.methods", "casual", key="method.name")
    assert str(caught.value) == f"method.name is 'casual'; did you mean 'causal'? Choices: {choices}"


def test_a_name_like_none_is_refused_without_a_guess():
    assert discovery.unknown_choice("task", "zzz", ["mlm"]) == "task is 'zzz'; Choices: mlm"


@pytest.mark.parametrize("name", ["_base", "__init__", "../models/load", ""])
def test_private_modules_and_paths_are_no_names(name):
    with pytest.raises(ValueError, match="Choices: "):
        discovery.load("raydistill.methods", name)
