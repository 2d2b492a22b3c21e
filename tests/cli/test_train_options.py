"""spo-train's options: what is refused, in one line and with exit status 2, and what they are settled to. Nothing is started."""

import pytest
import stack

from spo_rlhf.cli.train import parse
from spo_rlhf.errors import UserError
from spo_rlhf.launch import gpu_rules

AHEAD = dict(train__async_enable=True, train__colocate_all=None)
PARTS = dict(AHEAD, train__partial_rollout_enable=True, spo__mode="group", spo__mc_rollouts=None)
CONTRADICTIONS = [
    (dict(spo__preset="papers"), "--spo.mode chain has no such settings; choose one of paper"),
    (
        dict(spo__mode="chain", spo__preset="short"),
        "--spo.preset short: --spo.mode chain has no such settings; choose one of paper",
    ),
    (dict(spo__partition="fixed"), "--spo.segment_length"),
    (dict(spo__segment_length=10), "--spo.partition fixed"),
    (
        dict(spo__pack_trees="on", ds__attn_implementation="eager"),
        "--spo.pack_trees on: --ds.attn_implementation eager does not go with it; it needs --ds.attn_implementation sdpa",
    ),
    (dict(spo__old_logprobs="engine", rollout__top_p=0.9), "sample with top_p 1, or leave it out"),
    (
        dict(algo__advantage__is_correction_level="seq", rollout__top_p=0.9),
        "--algo.advantage.is_correction_level seq: the engine's log-probs are those of the tokens that --rollout.top_p leaves",
    ),
    (dict(spo__old_logprobs="engine", algo__kl__init_coef=0.1), "the forward pass that --algo.kl.init_coef needs"),
    (
        dict(spo__old_logprobs="engine", algo__advantage__is_correction_level="token"),
        "--algo.advantage.is_correction_level has nothing to correct",
    ),
    (dict(spo__partition="newline", spo__cutpoint_interval=3), "--spo.partition cutpoint"),
    (dict(spo__mode="group", spo__mc_rollouts=5), "--spo.mc_rollouts"),
    (
        dict(actor__num_gpus_per_node=4096, ref__num_gpus_per_node=4096, vllm__num_engines=4096),
        "Lower --actor.num_gpus_per_node (8 where it is left out) or --rollout.micro_batch_size",
    ),
    (dict(spo__mode="group", spo__mc_rollouts=None, critic__adam__lr=1e-6), "--critic.adam.lr needs a critic"),
    (
        dict(spo__mode="group", spo__mc_rollouts=None, algo__advantage__estimator="gae", critic__num_gpus_per_node=2),
        "critic devices",
    ),
    (
        dict(
            spo__mode="group",
            spo__mc_rollouts=None,
            algo__advantage__estimator="gae",
            critic__num_gpus_per_node=1,
            critic__model_name_or_path="./nothing",
        ),
        "--critic.model_name_or_path ./nothing",
    ),
    (dict(spo__history_half_life=9), "--spo.history_half_life has no meaning with --spo.baseline group"),
    (dict(spo__baseline="history", spo__history_half_life=0), "--spo.history_half_life 0.0: must be above 0"),
    (
        dict(
            spo__mode="group", spo__mc_rollouts=None, spo__baseline="history", algo__advantage__estimator="group_norm"
        ),
        "--algo.advantage.estimator group_norm does not go with --spo.baseline history",
    ),
    (
        dict(spo__mode="group", spo__mc_rollouts=None, spo__baseline="history", algo__dynamic_filtering_enable=True),
        "--algo.dynamic_filtering_enable has no meaning with --spo.baseline history",
    ),
    (dict(stack.TREE, spo__baseline="history"), "--spo.tree_advantage mean, which looks at the siblings alone"),
    (
        dict(stack.TREE, spo__tree_advantage="shrunk", spo__tree_settled="0.5"),
        "--spo.tree_settled 0.5: needs 2 numbers",
    ),
    (dict(spo__token_budget=0), "--spo.token_budget 0: must be at least 1"),
    (dict(spo__mode="tree"), "--spo.mc_rollouts has no meaning with --spo.mode tree"),
    (dict(spo__mode="chain", spo__tree_branching="2,2"), "--spo.tree_branching has no meaning with --spo.mode chain"),
    (
        dict(spo__mode="group", spo__mc_rollouts=None, spo__replay_max_age=1),
        "--spo.replay_max_age has no meaning with --spo.mode group",
    ),
    (dict(stack.TREE, spo__tree_segment_tokens=None), "--spo.tree_segment_tokens"),
    (dict(stack.TREE, spo__tree_branching="6,x"), "no list of whole numbers"),
    (
        dict(stack.TREE, spo__tree_branching="1,1"),
        "--spo.tree_branching 1,1 --spo.tree_segment_tokens 6: branching needs",
    ),
    (dict(stack.TREE, spo__tree_branching="2,2,2", spo__tree_segment_tokens="4,0"), "segment lengths are at least 1"),
    (dict(stack.TREE, spo__tree_segment_tokens="4,5,6,7"), "one, or 2"),
    (dict(stack.TREE, spo__tree_advantage="median"), "invalid choice: 'median'"),
    (dict(stack.TREE, spo__replay_max_age=0), "--spo.replay_max_age 0: must be at least 1"),
    (dict(stack.TREE, spo__replay_per_prompt=-1), "--spo.replay_per_prompt -1"),
    (dict(stack.TREE, algo__advantage__estimator="rloo"), "has no meaning with --spo.mode tree"),
    (dict(stack.TREE, rollout__vllm_generate_batch_size=16), "--rollout.vllm_generate_batch_size has no meaning"),
    (dict(stack.TREE, rollout__micro_batch_size=8, train__batch_size=4), "--rollout.micro_batch_size 8"),
    (dict(spo__mode="group", spo__mc_rollouts=None, spo__kl_scope="masked"), "--algo.kl.use_loss"),
    (dict(spo__kl_scope="masked", **{"no-spo__prob_mask": True}), "--spo.prob_mask"),
    (dict(algo__advantage__estimator="rloo"), "--algo.advantage.estimator"),
    (dict(reward__remote_url=None), "--reward.remote_url"),
    (dict(reward__overlong_buffer_len=10), "--reward.overlong_buffer_len"),
    (
        dict(spo__mode="group", spo__mc_rollouts=None, reward__remote_url=None, spo__diagnose_every=5),
        "--spo.diagnose_every needs rewards of single responses",
    ),
    (
        dict(train__async_enable=True),
        "--train.colocate_all does not go with --train.async_enable: engines and policy work",
    ),
    (dict(AHEAD, train__async_queue_size=2), "--train.async_queue_size does not go with --train.async_enable"),
    (
        dict(AHEAD, train__partial_rollout_enable=True),
        "--spo.mode chain: a response of two policies has the values of neither",
    ),
    (dict(AHEAD, train__partial_rollout_enable=True, **stack.TREE), "--spo.mode tree: a response of two policies"),
    (dict(PARTS, spo__mode="tempo"), "--spo.mode tempo: a response of two policies"),
    (dict(PARTS, spo__max_staleness=1), "--train.partial_rollout_enable needs --spo.max_staleness 2 or more"),
    (dict(PARTS, data__max_images_per_prompt=1), "single responses of text, not with agents or images"),
    (dict(train__partial_rollout_enable=True), "--train.partial_rollout_enable requires --train.async_enable"),
    (dict(AHEAD, rollout__vllm_generate_batch_size=64), "--spo.max_staleness says how far sampling is ahead"),
    (dict(AHEAD, spo__max_staleness=-1), "--spo.max_staleness -1: must be at least 0"),
    (dict(spo__max_staleness=1), "--spo.max_staleness 1 needs --train.async_enable"),
    (
        dict(AHEAD, spo__old_logprobs="engine", algo__advantage__is_correction_level="token"),
        "--algo.advantage.is_correction_level has nothing to correct",
    ),
    (dict(AHEAD, rollout__top_p=0.9), "--train.async_enable: under --rollout.top_p the engine's log-probs"),
    (dict(spo__partition="segments"), "--spo.segment_count"),
    (dict(spo__segment_count=10), "--spo.partition segments"),
    (dict(spo__partition="segments", spo__segment_count=0), "--spo.segment_count 0"),
    (
        dict(spo__mode="group", spo__mc_rollouts=None, spo__ratio_level="segment"),
        "--spo.ratio_level segment needs segments",
    ),
    (dict(spo__ratio_level="word"), "--spo.ratio_level"),
    (dict(spo__clip_low=0.1, actor__eps_clip_low_high=(0.1, 0.2)), "--actor.eps_clip_low_high"),
    (dict(spo__dual_clip=3, actor__dual_clip=4), "--actor.dual_clip"),
    (dict(spo__clip_low=1.5), "--spo.clip_low 1.5: must be at most 1"),
    (dict(spo__clip_high=-0.1), "clip range (0.2, -0.1)"),
    (dict(spo__dual_clip=0.5), "dual clip is 0.5"),
    (dict(spo__entropy_clip=1.5), "--spo.entropy_clip 1.5"),
    (dict(spo__entropy_clip=-0.5), "--spo.entropy_clip -0.5"),
    (dict(spo__entropy_clip=0.5, spo__clip_low=0.8), "--spo.clip_low"),
    (dict(actor__policy_loss_type="gspo", spo__ratio_level="subsentence"), "--actor.policy_loss_type gspo"),
    (dict(actor__policy_loss_type="gspo", actor__loss_agg_mode="token-mean"), "--actor.loss_agg_mode"),
    (
        dict(algo__advantage__is_correction_level="seq", algo__advantage__is_correction_mode="clip"),
        "is_correction_mode=clip",
    ),
    (dict(spo__mc_rollouts=0), "at least 1"),
    (dict(spo__train_continuations=True, spo__mc_rollouts=1), "no siblings"),
    (
        dict(spo__train_continuations=True, rollout__vllm_generate_batch_size=64),
        "does not go with --spo.train_continuations",
    ),
    (dict(spo__mode="group", spo__mc_rollouts=None, spo__train_continuations=True), "use --spo.mode chain"),
    (dict(spo__prob_threshold=1.5), "--spo.prob_threshold 1.5: must be above 0 and at most 1"),
    (dict(spo__skip_floor=0.5), "--spo.skip_floor has no meaning with --spo.prompts all"),
    (dict(spo__prompts="skip", spo__skip_floor=0), "--spo.skip_floor 0.0: must be above 0"),
    (
        dict(spo__mode="group", spo__mc_rollouts=None, spo__prompts="skip", algo__dynamic_filtering_enable=True),
        "--algo.dynamic_filtering_enable does not go with --spo.prompts skip",
    ),
    (dict(spo__mode="group", spo__mc_rollouts=None, spo__prompts="skip", reward__remote_url=None), "no reward model"),
    (dict(spo__hesitation="word"), "invalid choice: 'word'"),
    (
        dict(spo__mode="group", spo__mc_rollouts=None, spo__hesitation="state", data__max_images_per_prompt=1),
        "--spo.hesitation state needs the engine's most likely tokens",
    ),
    (dict(spo__reward_timeout=0), "--spo.reward_timeout 0.0: must be above 0"),
    (dict(vllm__num_engines=None), "--vllm.num_engines"),
    (dict(rollout__temperature=0), "--rollout.temperature 0: must be at least 0.01"),
    (dict(rollout__temperature=-1), "--rollout.temperature -1: must be at least 0.01"),
    (dict(rollout__temperature=1e-6), "--rollout.temperature 1e-06: must be at least 0.01 and at most 100"),
    (dict(rollout__top_p=0), "--rollout.top_p 0: must be above 0 and at most 1"),
    (dict(rollout__top_p=1.5), "--rollout.top_p 1.5: must be above 0 and at most 1"),
    (dict(actor__adam__lr="nan"), "--actor.adam.lr nan: must be a finite number above 0"),
    (dict(actor__adam__lr="inf"), "--actor.adam.lr inf: must be a finite number above 0"),
    (dict(actor__adam__lr=0), "--actor.adam.lr 0: must be above 0"),
    (dict(actor__adam__betas=(0.9, 1.5)), "--actor.adam.betas 1.5: must be at least 0 and below 1"),
    (dict(actor__adam__betas=(0.9, 1)), "--actor.adam.betas 1: must be at least 0 and below 1"),
    (dict(actor__adam__betas=(1, 0.95)), "--actor.adam.betas 1: must be at least 0 and below 1"),
    (dict(actor__muon__momentum=1), "--actor.muon.momentum 1: must be at least 0 and below 1"),
    (dict(algo__kl__init_coef="nan"), "--algo.kl.init_coef nan"),
    (dict(spo__reward_timeout="inf"), "--spo.reward_timeout inf: must be a finite number"),
    (dict(train__seed=-1), "--train.seed -1: must be at least 0 and at most 2147483647"),
    (dict(train__seed=5000000000), "--train.seed 5000000000: must be at least 0 and at most 2147483647"),
    (dict(train__seed="9" * 400), "9: must be at least 0 and at most 2147483647"),
    (dict(data__dataloader_num_workers=-3), "--data.dataloader_num_workers -3: must be at least 0"),
    (dict(data__max_samples=2**70), f"--data.max_samples {2**70}: no whole number of this size can be used"),
    (dict(ds__zpg=0), "--ds.zpg 0: must be at least 1"),
    (dict(actor__muon__ns_steps=-1), "--actor.muon.ns_steps -1: must be at least 1"),
    (dict(algo__kl__target=0), "--algo.kl.target 0: must be above 0"),
    (dict(algo__kl__target=-1), "--algo.kl.target -1: must be above 0"),
    (dict(reward__clip_range=(5, -5)), "--reward.clip_range 5 -5: give the lower end first"),
    (dict(algo__dynamic_filtering_range=(1, 0)), "--algo.dynamic_filtering_range 1 0: give the lower end first"),
    (dict(algo__advantage__is_correction_threshold=(5, 0.5)), "is_correction_threshold 5 0.5: give the lower end"),
    (dict(algo__advantage__is_correction_threshold=(-1, 5)), "is_correction_threshold -1: must be at least 0"),
    (dict(reward__overlong_buffer_len=-5), "--reward.overlong_buffer_len -5: must be above 0"),
    (
        dict(reward__stop_properly_penalty_coef=7),
        "--reward.stop_properly_penalty_coef 7: must be at least -1e+09 and at most 1",
    ),
    (dict(actor__entropy_coef=1e30), "--actor.entropy_coef 1e+30: must be at least -1 and at most 1"),
    (dict(actor__adam__lr=1e10), "--actor.adam.lr 1e+10: must be above 0 and at most 1"),
    (dict(actor__aux_loss_coef=1e30), "--actor.aux_loss_coef 1e+30: must be at least 0 and at most 100"),
    (dict(eval__temperature=0.005), "--eval.temperature 0.005: must be 0, or at least 0.01 and at most 100"),
    (dict(rollout__temperature=1e9), "--rollout.temperature 1e+09: must be at least 0.01 and at most 100"),
    (dict(spo__reward_timeout=1e30), "--spo.reward_timeout"),
    (dict(train__batch_size=0), "--train.batch_size 0: must be at least 1"),
    (dict(train__batch_size=-64), "--train.batch_size -64: must be at least 1"),
    (dict(train__micro_batch_size=0), "--train.micro_batch_size 0"),
    (dict(rollout__micro_batch_size=0), "--rollout.micro_batch_size 0"),
    (dict(rollout__batch_size=0), "--rollout.batch_size 0"),
    (dict(rollout__n_samples_per_prompt=0), "--rollout.n_samples_per_prompt 0"),
    (dict(rollout__max_new_tokens=0), "--rollout.max_new_tokens 0"),
    (dict(rollout__max_new_tokens=-5), "--rollout.max_new_tokens -5"),
    (dict(actor__num_gpus_per_node=2), "--vllm.num_engines x --vllm.tensor_parallel_size: 1"),
    (dict(actor__num_gpus_per_node=0), "--actor.num_gpus_per_node 0"),
    (dict(actor__num_nodes=0), "--actor.num_nodes 0"),
    (dict(train__num_episodes=0), "--train.num_episodes 0"),
    (dict(train__max_epochs=0), "--train.max_epochs 0"),
    (dict(data__max_len=0), "--data.max_len 0"),
    (dict(vllm__num_engines=-1), "--vllm.num_engines -1"),
    (dict(ckpt__save_steps=-2), "--ckpt.save_steps -2: must be at least -1"),
    (dict(ds__lora__rank=8), "--ds.lora.rank 8: the engines get no adapter's weights"),
    (dict(ds__param_dtype="fp16"), "--ds.param_dtype fp16: OpenRLHF's engines are bfloat16"),
    (dict(vllm__sync_backend="gloo"), "--vllm.sync_backend gloo does not go with --train.colocate_all"),
    (dict(train__batch_size=24), "--train.batch_size 24"),
    (dict(train__micro_batch_size=5), "--train.micro_batch_size"),
    (dict(rollout__micro_batch_size=3), "--rollout.micro_batch_size"),
    (dict(rollout__batch_size=32, train__batch_size=128), "do not fill"),
    (dict(ds__packing_samples=True), "flash-attn"),
    (dict(ds__attn_implementation="flash_attention_2"), "sdpa"),
    (dict(spo__mod="chain"), "did you mean --spo.mode"),
    (dict(spo__mode="tre"), "--spo.mode"),
    (dict(train__micro_batch_size="many"), "--train.micro_batch_size"),
    (dict(actor__model_name_or_path="/nowhere/model"), "--actor.model_name_or_path /nowhere/model"),
    (dict(actor__model_name_or_path=None), "--actor.model_name_or_path"),
    (dict(data__prompt_dataset="missing.jsonl"), "missing.jsonl"),
    (dict(data__label_key="solutions"), "row 1 has no 'solutions'"),
    (dict(data__input_key="question"), "row 1 has no 'question'"),
    (dict(data__max_len=20), "--data.max_len is 20"),
    (dict(data__max_len=4096), "takes 2048 tokens; lower it"),
    (dict(spo__run_dir=__file__ + "/run"), "test_train_options.py is a file; choose another folder"),
    (dict(ckpt__path=__file__ + "/a/b"), "--ckpt.path "),
    (dict(eval__dataset="missing.jsonl"), "--eval.dataset missing.jsonl"),
    (dict(reward__remote_url="missing.py"), "missing.py"),
]


@pytest.mark.parametrize(("changes", "says"), CONTRADICTIONS, ids=[says for _, says in CONTRADICTIONS])
def test_wrong_options_are_one_line(refused, changes, says):
    assert says in refused(**changes)


@pytest.mark.parametrize(
    ("changes", "resolved"),
    [
        ({}, ("token", (0.2, 0.2), None, "token-mean", 0.0)),
        (dict(spo__ratio_level="segment", spo__clip_high=0.3), ("segment", (0.2, 0.3), None, "token-mean", 0.0)),
        (
            dict(actor__eps_clip=0.1, spo__clip_low=0.05, spo__dual_clip=3),
            ("token", (0.05, 0.1), 3.0, "token-mean", 0.0),
        ),
        (dict(actor__policy_loss_type="gspo"), ("sequence", (0.2, 0.2), None, "seq-mean-token-mean", 0.0)),
        (
            dict(spo__ratio_level="subsentence", spo__entropy_clip=0.5),
            ("subsentence", (0.2, 0.2), None, "token-mean", 0.5),
        ),
    ],
)
def test_objective_options_are_settled_in_one_place(task, tmp_path, changes, resolved):
    args, _ = parse([*stack.options(task, tmp_path, **changes), "--dry-run"])
    actor = args.actor
    assert resolved == (
        args.spo.ratio_level,
        actor.eps_clip_low_high,
        actor.dual_clip,
        actor.loss_agg_mode,
        args.spo.entropy_clip,
    )


def test_no_steps_between_two_of_a_kind_means_never(task, tmp_path):
    changes = dict(ckpt__save_steps=0, eval__steps=0, logger__logging_steps=0)
    args, _ = parse([*stack.options(task, tmp_path, **changes), "--dry-run"])
    every = (args.ckpt.save_steps, args.eval.steps, args.logger.logging_steps)
    assert [step for step in range(1, 10_000) if any(step % steps == 0 for steps in every)] == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(zero_stage=0, enable_sleep=True), "--ds.zero_stage 0 has no states that --ds.enable_sleep"),
        (dict(ring_attn_size=2), "--ds.ring_attn_size 2 needs ring-flash-attn"),
    ],
)
def test_what_breaks_only_with_a_gpu_is_refused_there(task, tmp_path, options, says):
    args, _ = parse([*stack.options(task, tmp_path), "--dry-run"])
    gpu_rules.refuse_what_breaks(args)
    vars(args.ds).update(options)
    with pytest.raises(UserError, match=says):
        gpu_rules.refuse_what_breaks(args)
