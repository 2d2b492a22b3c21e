"""The picture of a run, from the events that it recorded."""

from spo_rlhf.launch.curve import accuracies, draw_curve, rewards

EVENTS = [
    {"event": "plan", "first_step": 0},
    {"event": "eval", "step": 0, "metrics": {"eval_default_pass1": 0.25, "eval_default_length": 9.0}},
    {"event": "step", "step": 1, "metrics": {"rollout/reward_mean": 0.5, "mask_density": 0.3}},
    {"event": "step", "step": 2, "metrics": {"rollout/reward_mean": 0.75}},
    {"event": "eval", "step": 2, "metrics": {"eval_default_pass1": 0.5}},
]


def test_accuracies_and_rewards_are_per_cent_at_their_steps():
    assert accuracies(EVENTS) == [(0, 25.0), (2, 50.0)]
    assert rewards(EVENTS) == [(1, 50.0), (2, 75.0)]


def test_the_picture_is_a_png(tmp_path):
    draw_curve(EVENTS, tmp_path / "curve.png", title="a run")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
