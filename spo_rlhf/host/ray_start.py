"""Starting Ray on this machine."""

import os
import sys
from typing import Any

from spo_rlhf.host import processes

# Ray gives up on a node that is not up after 30 s, which a busy machine or a slow file system can need.
ATTEMPTS = 3
GAVE_UP = "timed out during startup"


def search_path() -> str:
    """PATH with the folder of this Python first, for Ray and its workers.

    DeepSpeed compiles its operators at the first start with the ninja it finds. Another ninja than the last time, that of an
    environment that is now activated, say, compiles all of it again (minutes), and without any it fails.
    """
    here, others = os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([here, *(folder for folder in others if folder != here)])


def init(**options: Any) -> None:
    """`ray.init(**options)`, tried again where Ray found its own start too slow; what it left of that has ended by then."""
    import ray

    os.environ["PATH"] = search_path()
    before = set(processes.descendants())
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(**options)
            return
        except Exception as error:
            if attempt == ATTEMPTS or GAVE_UP not in str(error):
                raise
        print(f"Ray did not start in time (attempt {attempt} of {ATTEMPTS}), trying again", file=sys.stderr)
        ray.shutdown()
        processes.end([process for process in processes.descendants() if process not in before])
