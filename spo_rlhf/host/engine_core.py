"""The process of a vLLM engine's core ends with the process that started it, killed or not; by itself it would stay with its memory."""

import multiprocessing

from vllm.v1.executor.uniproc_executor import UniProcExecutor

from spo_rlhf.host.pool_worker import die_with_parent


class BoundExecutor(UniProcExecutor):
    """vLLM's executor in the process of the core. It is made there, before the model is loaded."""

    def _init_executor(self) -> None:
        if parent := multiprocessing.parent_process():  # None where the core is in the caller's process
            assert parent.pid is not None
            die_with_parent(parent.pid)
        super()._init_executor()
