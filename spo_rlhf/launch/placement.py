"""Which actors a run starts, and on which devices: what OpenRLHF's `train` will ask Ray for, worked out beforehand."""

from dataclasses import dataclass
from types import SimpleNamespace


@dataclass(frozen=True)
class ActorPlacement:
    """One Ray actor."""

    name: str
    devices: tuple[int, ...]  # device numbers, counted over the whole cluster in the order of allocation
    share: float  # of each device

    def __str__(self) -> str:
        return f"{self.name:<14} {'device ' + ','.join(map(str, self.devices)) if self.devices else '-':<12} share {self.share:g}"


def placement(args: SimpleNamespace) -> list[ActorPlacement]:
    """Actors of a run with their devices. Colocated ones share; the trainer holds no device."""
    together = args.train.colocate_all
    world = args.actor.num_nodes * args.actor.num_gpus_per_node
    with_reference = args.algo.kl.init_coef > 0
    tensor_parallel = args.vllm.tensor_parallel_size
    engine_devices = (args.vllm.num_engines or 0) * tensor_parallel
    actors, next_device = [], 0

    def allocate(count: int) -> range:
        nonlocal next_device
        devices = range(next_device, next_device + count)
        next_device += count
        return devices

    policy_devices = allocate(world)
    shared = together or args.train.colocate_actor_ref
    actors += [ActorPlacement(f"policy[{i}]", (d,), 0.2 if shared else 1.0) for i, d in enumerate(policy_devices)]
    if with_reference:
        devices = policy_devices if shared else allocate(args.ref.num_nodes * args.ref.num_gpus_per_node)
        actors += [ActorPlacement(f"reference[{i}]", (d,), 0.2 if shared else 1.0) for i, d in enumerate(devices)]
    critic_devices = range(0)
    if args.critic.model_name_or_path:
        critic_devices = policy_devices if together else allocate(args.critic.num_nodes * args.critic.num_gpus_per_node)
        share = 0.2 if together or args.train.colocate_critic_reward else 1.0
        actors += [ActorPlacement(f"critic[{i}]", (d,), share) for i, d in enumerate(critic_devices)]
    if not args.reward.remote_url:
        with_critic = args.train.colocate_critic_reward and len(critic_devices) > 0
        if together or with_critic:
            devices = critic_devices if with_critic else policy_devices
        else:
            devices = allocate(args.reward.num_nodes * args.reward.num_gpus_per_node)
        actors += [
            ActorPlacement(f"reward[{i}]", (d,), 0.2 if together or with_critic else 1.0) for i, d in enumerate(devices)
        ]
    devices = policy_devices if together else allocate(engine_devices)
    for i in range(args.vllm.num_engines or 0):
        span = tuple(devices[i * tensor_parallel : (i + 1) * tensor_parallel])
        actors.append(ActorPlacement(f"engine[{i}]", span, 0.2 if together else 1.0))
    return [*actors, ActorPlacement("trainer", (), 0.0)]


def num_devices(actors: list[ActorPlacement]) -> int:
    """Devices that the actors occupy."""
    return len({device for actor in actors for device in actor.devices})
