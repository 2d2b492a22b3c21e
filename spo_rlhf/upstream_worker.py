"""What vLLM adds to the workers of an engine on GPUs that gets its weights in buckets (upstream_weights.py)."""

import math
from typing import Any

import torch
from openrlhf.trainer.ray.utils import get_physical_gpu_id
from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap
from vllm.distributed.weight_transfer.packed_tensor import unpack_tensor


class BucketWorker(WorkerWrap):
    """OpenRLHF's methods, called through `collective_rpc`, and one that loads a bucket; the worker's own have other names."""

    device: torch.device  # these are the worker's
    model_config: Any
    model_runner: Any

    def load_bucket(self, tensors: list[tuple[str, torch.dtype, Any]], handles: dict[str, Any] | None = None) -> None:
        """Load the parameters (name, type, shape), in the order of their bytes; `handles`: by CUDA IPC, of each GPU.

        Raises TypeError where the model has another type. The bucket is taken first: a broadcast waits for all engines.
        """
        names, dtypes, shapes = (list(column) for column in zip(*tensors, strict=True))
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True)]
        packed = self._broadcast_bucket(sum(sizes)) if handles is None else self._shared_bucket(handles)
        expected = self.model_config.dtype
        for name, dtype in zip(names, dtypes, strict=True):
            if dtype != expected:
                raise TypeError(f"mismatch dtype of {name}: src {dtype}, dst {expected}")
        # Shapes are spread over view(), which takes no arguments of a scalar but one tuple of any shape.
        spread: list[Any] = [[tuple(shape)] for shape in shapes]
        weights = unpack_tensor(packed, names, spread, dtypes, sizes)
        self.model_runner.model.load_weights(weights=weights)
        if handles is not None:
            torch.cuda.synchronize()  # the policy writes there again

    def _broadcast_bucket(self, size: int) -> torch.Tensor:
        """So many bytes from the policy's first rank, over the group of `init_process_group`."""
        packed = torch.empty(size, dtype=torch.uint8, device=self.device)
        self._model_update_group.broadcast(packed, src=0, stream=torch.cuda.current_stream())
        return packed

    def _shared_bucket(self, handles: dict[str, Any]) -> torch.Tensor:
        """The policy's own bytes on this GPU, as OpenRLHF opens a parameter."""
        rebuild, args = handles[get_physical_gpu_id()]
        args = list(args)
        args[6] = self.device.index  # the number of the same GPU in this process
        return rebuild(*args)
