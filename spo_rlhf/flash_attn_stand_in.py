"""A stand-in for flash-attn where it is not installed, so that it becomes optional.

OpenRLHF imports `flash_attn.bert_padding` and `flash_attn.utils.distributed` unconditionally, for helpers that only packed
samples and ring attention call. `install()` registers pure-torch versions of the padding helpers; attention itself then runs
through PyTorch's scaled dot product attention. Importing this module loads nothing heavy: torch is imported inside the helpers.
"""

import importlib.machinery
import importlib.util
import sys
import types

PACKAGE = "flash_attn"


def is_installed() -> bool:
    """True where the real flash-attn is installed (a stand-in does not count)."""
    if PACKAGE in sys.modules:
        return not getattr(sys.modules[PACKAGE], "is_stand_in", False)
    return importlib.util.find_spec(PACKAGE) is not None


def unpad_input(hidden, mask, unused_mask=None):
    """Drop padding: hidden (B, T, ...), mask (B, T) -> (tokens, ...), flat indices, cumulative lengths, longest, lengths (B,)."""
    import torch

    length_B = mask.sum(-1, dtype=torch.int32)
    index_N = mask.flatten().nonzero().flatten()
    offset_B1 = torch.nn.functional.pad(length_B.cumsum(0, dtype=torch.int32), (1, 0))
    return hidden.flatten(0, 1)[index_N], index_N, offset_B1, int(length_B.max()), length_B


def pad_input(hidden, indices, batch, seqlen):
    """Undo `unpad_input`: (tokens, ...) -> (batch, seqlen, ...), zeros where padding was."""
    padded = hidden.new_zeros((batch * seqlen, *hidden.shape[1:]))
    padded[indices] = hidden
    return padded.unflatten(0, (batch, seqlen))


def index_first_axis(hidden, indices):
    """Rows `indices` of `hidden`."""
    return hidden[indices]


def rearrange(tensor, pattern, **axes):
    """einops.rearrange, which flash-attn re-exports."""
    import einops

    return einops.rearrange(tensor, pattern, **axes)


def all_gather(*args, **kwargs):
    """Ring attention's gather: it needs the real package."""
    raise RuntimeError("ring attention needs flash-attn: pip install flash-attn==2.8.3, or set --ds.ring_attn_size 1")


def install() -> None:
    """Register the stand-in under flash-attn's names, unless flash-attn itself is there. Safe to call twice."""
    if PACKAGE in sys.modules or is_installed():
        return
    contents = {
        PACKAGE: {"is_stand_in": True, "__path__": []},
        f"{PACKAGE}.bert_padding": {
            "unpad_input": unpad_input,
            "pad_input": pad_input,
            "index_first_axis": index_first_axis,
            "rearrange": rearrange,
        },
        f"{PACKAGE}.utils": {"__path__": []},
        f"{PACKAGE}.utils.distributed": {"all_gather": all_gather},
    }
    for name, members in contents.items():
        module = types.ModuleType(name, "Stand-in: flash-attn is not installed.")
        # find_spec() on a module without a __spec__ raises; transformers probes for flash-attn that way.
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(members)
        sys.modules[name] = module
