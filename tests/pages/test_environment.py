"""How the environment is made: which torch is taken where, and that the lists of requirements agree."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
CPU, PLAIN = "torch==2.13.0+cpu", "torch==2.14.1"
SAYS_GIGABYTES = "3 GB to download"


@pytest.fixture
def make(monkeypatch, tmp_path, capsys):
    """``make(...) -> (commands, what is said, constraint)`` of .ci/env.py on a machine as described. Nothing is run."""
    spec = importlib.util.spec_from_file_location("env", ROOT / ".ci" / "env.py")
    env = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(env)

    def make(there="", uv=False, index=False, wheel=False, gpu=False, system="Linux", machine="x86_64"):
        commands, torch = [], there

        def run(command, check=True):
            nonlocal torch
            line = " ".join(map(str, command))
            commands.append(line.replace(str(tmp_path), "VENV").replace(str(ROOT), "ROOT"))
            if "--no-index" in line and not wheel:
                return 1
            if "--no-index" in line or "--index-url" in line:
                torch = CPU
            return 0

        monkeypatch.setattr(env, "run", run)
        monkeypatch.setattr(env, "kept", lambda python: torch)
        monkeypatch.setattr(env, "has_gpu", lambda: gpu)
        monkeypatch.setattr(env, "answers", lambda address: index)
        monkeypatch.setattr(env.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "uv" and uv else None)
        monkeypatch.setattr(env.platform, "system", lambda: system)
        monkeypatch.setattr(env.platform, "machine", lambda: machine)
        monkeypatch.setenv("UV_TORCH_BACKEND", "")
        monkeypatch.delenv("UV_TORCH_BACKEND")
        env.main(tmp_path)
        return commands, capsys.readouterr().out, (tmp_path / "torch.txt").read_text().strip()

    return make


def test_uv_is_used_only_where_the_index_of_torch_answers(make):
    commands, said, constraint = make(uv=True, index=True)
    assert commands[1].startswith("uv pip install") and constraint == "" and "build that fits" in said
    commands, _, _ = make(uv=True, index=False)
    assert not any(line.startswith("uv") for line in commands)


@pytest.mark.parametrize("uv", [True, False])
def test_a_torch_that_is_there_is_kept(make, uv):
    commands, said, constraint = make(there=PLAIN, uv=uv, index=True, gpu=True)
    assert constraint == PLAIN and len(commands) == 3 and SAYS_GIGABYTES not in said and "which is there" in said
    assert commands[1].endswith("-r ROOT/requirements.txt -c VENV/torch.txt")
    assert commands[2].endswith("--no-deps -e ROOT")


def test_without_a_gpu_a_cpu_build_is_taken_wherever_one_can_be_had(make):
    commands, said, constraint = make(wheel=True, index=True)
    assert constraint == CPU and "find-links" in said and not any("--index-url" in line for line in commands)
    commands, said, constraint = make(index=True)
    assert constraint == CPU and SAYS_GIGABYTES not in said
    bounds = re.findall(r"^torch(?:vision)?>=.*", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert commands[2].endswith(f"--index-url https://download.pytorch.org/whl/cpu {' '.join(bounds)}")


def test_gigabytes_are_announced_with_a_way_round_them(make, monkeypatch):
    _, said, constraint = make()
    assert SAYS_GIGABYTES in said and "PIP_FIND_LINKS" in said and constraint == ""
    for uv in (True, False):
        _, said, _ = make(gpu=True, uv=uv, index=True)
        assert SAYS_GIGABYTES in said and "TORCH=cpu" in said
    monkeypatch.setenv("TORCH", "cpu")
    _, said, constraint = make(gpu=True, index=True)
    assert SAYS_GIGABYTES not in said and constraint == CPU


def test_other_systems_have_cpu_wheels_in_the_ordinary_place(make):
    commands, said, _ = make(system="Darwin", machine="arm64")
    assert SAYS_GIGABYTES not in said and not any("--no-index" in line for line in commands)
    _, said, constraint = make(machine="aarch64")  # on Linux only up to 2.10
    assert SAYS_GIGABYTES not in said and constraint == "torch<2.11"


def test_an_unknown_build_is_refused(make, monkeypatch):
    monkeypatch.setenv("TORCH", "cuda")
    with pytest.raises(SystemExit, match=r"TORCH=cuda: allowed are auto .* and cpu"):
        make()


# --- the lists --------------------------------------------------------------------------------------------------------


def names(lines):
    return {re.match(r"[\w.-]+", line)[0] for line in lines if line and line[0] not in "# \n"}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]


def test_requirements_hold_all_that_the_package_asks_for():
    asked = names(PROJECT["dependencies"] + EXTRAS)
    assert asked <= names((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())


def test_the_package_asks_for_all_that_it_imports():
    called = {"sklearn": "scikit-learn", "torch_pruning": "torch-pruning"}
    comes_along = {"traitlets", "IPython", "cycler"}  # with ipywidgets, matplotlib
    imported = set()
    for path in (ROOT / "bridgeout_lite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= sys.stdlib_module_names | comes_along | {"bridgeout_lite"}
    assert {called.get(name, name) for name in imported} <= names(PROJECT["dependencies"] + EXTRAS)


def test_torch_and_torchvision_are_bounded_as_a_pair():
    """Without torchvision's bound pip takes its newest, and for its sake another torch."""
    text = (ROOT / "requirements.txt").read_text()
    torch, vision = (
        int(re.search(rf"^{name}>=.*,<\d+\.(\d+)$", text, re.MULTILINE)[1]) for name in ("torch", "torchvision")
    )
    assert vision - torch == 15  # 2.14 with 0.29, so 2.15 with 0.30
