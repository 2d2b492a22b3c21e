"""Which actors a run starts, and on which devices: the arithmetic beside OpenRLHF's own."""

from types import SimpleNamespace

import pytest

from spo_rlhf.launch.placement import ActorPlacement, num_devices, placement


def devices_of(args: SimpleNamespace) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Group -> the devices of each of its actors."""
    groups: dict[str, tuple] = {}
    for actor in placement(args):
        name = actor.name.partition("[")[0]
        groups[name] = (*groups.get(name, ()), actor.devices)
    return groups


def test_without_colocation_every_actor_has_devices_of_its_own(arguments):
    args = arguments(critic__model_name_or_path="critic", reward__remote_url=None)
    assert devices_of(args) == {
        "policy": ((0,), (1,)),
        "reference": ((2,), (3,)),
        "critic": ((4,), (5,)),
        "reward": ((6,), (7,)),
        "engine": ((8,), (9,)),
        "trainer": ((),),
    }
    assert num_devices(placement(args)) == 10
    assert {actor.share for actor in placement(args) if actor.devices} == {1.0}


def test_colocated_all_share_the_policy_s_devices_to_at_most_a_whole(arguments):
    args = arguments(critic__model_name_or_path="critic", reward__remote_url=None, train__colocate_all=True)
    actors = placement(args)
    assert num_devices(actors) == 2
    for device in (0, 1):
        there = [actor for actor in actors if device in actor.devices]
        assert len(there) == 5 and sum(actor.share for actor in there) == pytest.approx(1.0)


def test_no_reference_without_a_kl_penalty(arguments):
    assert "reference" not in devices_of(arguments(algo__kl__init_coef=0))
    assert num_devices(placement(arguments(algo__kl__init_coef=0))) == 2 + 2


def test_policy_and_reference_share_where_they_are_asked_to_and_the_engines_do_not(arguments):
    actors = placement(arguments(train__colocate_actor_ref=True))
    assert devices_of(arguments(train__colocate_actor_ref=True))["engine"] == ((2,), (3,))
    assert {actor.name.partition("[")[0]: actor.share for actor in actors if actor.devices} == {
        "policy": 0.2,
        "reference": 0.2,
        "engine": 1.0,
    }


def test_a_reward_model_shares_with_the_critic_where_there_is_one(arguments):
    together = {"reward__remote_url": None, "train__colocate_critic_reward": True}
    groups = devices_of(arguments(critic__model_name_or_path="critic", **together))
    assert groups["critic"] == groups["reward"] == ((4,), (5,)) and groups["engine"] == ((6,), (7,))
    alone = devices_of(arguments(**together))
    assert alone["reward"] == ((4,), (5,)) and "critic" not in alone


def test_an_engine_of_a_tensor_parallel_group_spans_its_devices(arguments):
    assert devices_of(arguments(vllm__tensor_parallel_size=2))["engine"] == ((4, 5), (6, 7))
    colocated = arguments(
        actor__num_gpus_per_node=4, ref__num_gpus_per_node=4, vllm__tensor_parallel_size=2, train__colocate_all=True
    )
    assert devices_of(colocated)["engine"] == ((0, 1), (2, 3)) and num_devices(placement(colocated)) == 4


def test_several_nodes_count_their_devices_together(arguments):
    args = arguments(actor__num_nodes=2, actor__num_gpus_per_node=4, ref__num_nodes=2, ref__num_gpus_per_node=4)
    assert len(devices_of(args)["policy"]) == 8 and devices_of(args)["engine"] == ((16,), (17,))


def test_a_placement_is_a_line_of_text():
    assert str(ActorPlacement("engine[0]", (0, 1), 0.2)) == "engine[0]      device 0,1   share 0.2"
    assert str(ActorPlacement("trainer", (), 0.0)).split() == ["trainer", "-", "share", "0"]
