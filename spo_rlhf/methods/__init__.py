"""Methods, `--spo.mode`: one file each. To add one, write its file and enter its class below."""

from spo_rlhf.core.registry import Registry
from spo_rlhf.methods.base import Method
from spo_rlhf.methods.chain import Chain
from spo_rlhf.methods.group import Group
from spo_rlhf.methods.probe import Probe
from spo_rlhf.methods.tempo import Tempo
from spo_rlhf.methods.tree import Tree

METHODS: Registry[type[Method]] = Registry(
    "mode", {"chain": Chain, "tree": Tree, "group": Group, "tempo": Tempo, "probe": Probe}
)
