"""The `--spo.*` options: their parser group, their resolved form, and what contradicts what."""

import argparse
from dataclasses import dataclass
from types import SimpleNamespace

from spo_rlhf.cli.presets import PRESETS
from spo_rlhf.core.partition import CUTPOINT_INTERVAL, PARTITIONS, PROB_THRESHOLD, PartitionConfig
from spo_rlhf.core.tree import ADVANTAGES as TREE_ADVANTAGES
from spo_rlhf.core.tree import TreeShape
from spo_rlhf.core.units import RATIO_LEVELS
from spo_rlhf.errors import UserError

MODES = ("chain", "tree", "group")
SEGMENT_MODES = ("chain", "tree")  # segments have advantages of their own, which come with the samples
KL_SCOPES = ("all", "masked")
ADVANTAGE_NORMS = ("none", "batch")
GROUP_ESTIMATORS = ("gae", "group_norm", "rloo", "reinforce_baseline", "dr_grpo", "reinforce", "flash_reinforce")

DEFAULT_BRANCHING = "6,6,6"
REPLAY_MAX_AGE, REPLAY_PER_PROMPT = 8, 32  # as in the official runs: 8 x 32 is about the 258 nodes of a 6-6-6 tree

# Flags of OpenRLHF that shape a trajectory-level return, and so mean nothing where each segment has its own advantage.
SEGMENT_REFUSES = {
    "algo.advantage.estimator": "the advantages are those of the segments",
    "algo.advantage.gamma": "segment values are undiscounted",
    "algo.advantage.lambd": "there is no critic to trace back",
    "algo.advantage.no_std_norm": "use --spo.advantage_norm",
    "algo.dynamic_filtering_enable": "segments of an all-right or all-wrong group can still differ in value",
    "reward.overlong_buffer_len": "the values of segments would not carry the penalty",
    "reward.stop_properly_penalty_coef": "a truncated response already has reward 0",
    "reward.clip_range": "the values of segments would not be clipped",
    "reward.model_name_or_path": "segment values are graded on the engine: use --reward.remote_url",
    "train.agent_func_path": "segments of a multi-turn response are not defined",
    "critic.model_name_or_path": "there is no critic",
}

# Options of one partition are contradictory with the others.
PARTITION_OPTIONS = {"cutpoint_interval": "cutpoint", "segment_length": "fixed", "segment_count": "segments"}
# Options without which a partition is not defined.
PARTITION_NEEDS = {"fixed": "segment_length", "segments": "segment_count"}
# Options of one mode have no meaning in the others.
MODE_OPTIONS = {
    "chain": (
        "partition",
        "cutpoint_interval",
        "segment_length",
        "segment_count",
        "mc_rollouts",
        "train_continuations",
    ),
    "tree": ("tree_branching", "tree_segment_tokens", "tree_advantage", "replay_max_age", "replay_per_prompt"),
}


@dataclass(frozen=True)
class SpoConfig:
    """Resolved `--spo.*` options. Travels with the arguments to every actor."""

    mode: str
    partition: PartitionConfig
    prob_mask: bool
    mc_rollouts: int
    kl_scope: str
    advantage_norm: str
    reward_timeout: float
    reward_workers: int
    max_num_seqs: int
    eval_ends: bool
    run_dir: str | None
    verbose: bool
    ratio_level: str = "token"
    entropy_clip: float = 0.0
    token_budget: int | None = None
    train_continuations: bool = False
    # mode tree:
    tree: TreeShape | None = None
    tree_advantage: str = "mean"
    replay_max_age: int = REPLAY_MAX_AGE  # iterations; 1: what an iteration does not train is dropped
    replay_per_prompt: int = REPLAY_PER_PROMPT  # nodes of a prompt in one iteration; 0: no limit

    @property
    def mask_threshold(self) -> float | None:
        """Probability below which a token passes the mask; None without the mask. The same threshold makes cutpoints."""
        return self.partition.threshold if self.prob_mask else None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the `--spo.*` group and `--dry-run` to OpenRLHF's parser. None stands for a default that depends on other options."""
    group = parser.add_argument_group("Segment Policy Optimization (--spo.*)")

    def option(name: str, **kwargs) -> None:
        group.add_argument(f"--spo.{name}", **kwargs)

    option(
        "mode",
        choices=MODES,
        default="chain",
        help="chain: segment advantages from Monte Carlo values, no critic; "
        "tree: segment advantages from a tree of responses, whose nodes are all trained; "
        "group: one advantage per response by --algo.advantage.estimator (GRPO unless set)",
    )
    option(
        "preset",
        choices=sorted(PRESETS),
        default=None,
        help="settings by name, for what the command does not set itself; paper: those of the paper's runs (spo_rlhf/presets.py)",
    )
    option("partition", choices=sorted(PARTITIONS), default="cutpoint", help="how a response is cut into segments")
    option(
        "cutpoint_interval",
        type=int,
        default=None,
        metavar="I",
        help=f"cutpoints per segment, --spo.partition cutpoint (default: {CUTPOINT_INTERVAL})",
    )
    option(
        "prob_threshold",
        type=float,
        default=PROB_THRESHOLD,
        metavar="RHO",
        help="a token is a cutpoint, and passes the probability mask, where the policy gave it less than this",
    )
    option("segment_length", type=int, default=None, metavar="L", help="tokens per segment, --spo.partition fixed")
    option("segment_count", type=int, default=None, metavar="N", help="segments per response, --spo.partition segments")
    option("mc_rollouts", type=int, default=9, metavar="R", help="Monte Carlo continuations per segment boundary")
    option(
        "train_continuations",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="train on the Monte Carlo continuations as well, each against its siblings from the same state; they fill up the "
        "batch, in place of responses without an advantage; --spo.mode chain",
    )
    option(
        "tree_branching",
        type=_whole_numbers,
        default=None,
        metavar="B1,B2,..",
        help=f"children of a node by level, --spo.mode tree (default: {DEFAULT_BRANCHING})",
    )
    option(
        "tree_segment_tokens",
        type=_whole_numbers,
        default=None,
        metavar="M[,M2,..]",
        help="tokens of a segment, one number or one for each level but the last, which goes on to the end; --spo.mode tree",
    )
    option(
        "tree_advantage",
        choices=sorted(TREE_ADVANTAGES),
        default="mean",
        help="against the value of the parent, against the other siblings, or over the siblings' standard deviation",
    )
    option(
        "replay_max_age",
        type=int,
        default=REPLAY_MAX_AGE,
        metavar="N",
        help="iterations that a tree's nodes may wait to be trained, --spo.mode tree; 1: no replay",
    )
    option(
        "replay_per_prompt",
        type=int,
        default=REPLAY_PER_PROMPT,
        metavar="N",
        help="nodes of one prompt in an iteration, --spo.mode tree; 0: no limit. All prompts together: "
        "--rollout.batch_size x --rollout.n_samples_per_prompt",
    )
    option(
        "prob_mask",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="train only tokens below the threshold (default: on with chain and tree, off with group)",
    )
    option(
        "kl_scope",
        choices=KL_SCOPES,
        default="all",
        help="tokens under the KL loss: all trained tokens, or only those that pass the probability mask",
    )
    option(
        "advantage_norm",
        choices=ADVANTAGE_NORMS,
        default="none",
        help="batch: whiten advantages over the unmasked tokens of the whole rollout batch",
    )
    option(
        "ratio_level",
        choices=RATIO_LEVELS,
        default="token",
        help="tokens that share one importance ratio, the geometric mean of theirs: each its own, those of a segment, of a "
        "subsentence, or of the whole sample (GSPO)",
    )
    option(
        "clip_low",
        type=float,
        default=None,
        metavar="EPS",
        help="ratios are clipped below 1 - EPS (default: --actor.eps_clip)",
    )
    option(
        "clip_high",
        type=float,
        default=None,
        metavar="EPS",
        help="ratios are clipped above 1 + EPS (default: --actor.eps_clip)",
    )
    option(
        "dual_clip",
        type=float,
        default=None,
        metavar="C",
        help="above 1: bound the loss at -C x advantage where the advantage is negative",
    )
    option(
        "entropy_clip",
        type=float,
        default=0.0,
        metavar="ALPHA",
        help="0 to 1: clip bounds times 1 + ALPHA z, z in [-1, 1] from the unit's entropy (wider where it is high)",
    )
    option(
        "token_budget",
        type=int,
        default=None,
        metavar="N",
        help="stop after the step in which the tokens generated for training, Monte Carlo included, reach N",
    )
    option("reward_timeout", type=float, default=10.0, metavar="S", help="seconds a reward may take; then it is 0")
    option("reward_workers", type=int, default=2, metavar="N", help="reward processes per engine")
    option("max_num_seqs", type=int, default=512, metavar="N", help="sequences in flight per vLLM engine")
    option(
        "eval_ends",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="evaluate before the first and after the last step, where --eval.dataset is given",
    )
    option(
        "run_dir",
        default=None,
        metavar="DIR",
        help="where metrics.jsonl, config.json, summary.json and train.log go (default: runs/<date>-<time>)",
    )
    option("verbose", action="store_true", help="leave the log of Ray, vLLM and DeepSpeed on the terminal as well")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        dest="dry_run",
        help="parse, validate, print the resolved configuration and the placement; start nothing",
    )


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 6,6,6") from None


def explicit_options(parser: argparse.ArgumentParser, argv: list[str]) -> set[str]:
    """Names (dots, no dashes) of the options that `argv` really names, as opposed to defaults."""
    defaults = {action.dest: action.default for action in parser._actions}
    try:
        for action in parser._actions:
            action.default = argparse.SUPPRESS
        return set(vars(parser.parse_args(argv)))
    finally:
        for action in parser._actions:
            action.default = defaults[action.dest]


def settle(flat: argparse.Namespace, explicit: set[str]) -> list[str]:
    """Settle OpenRLHF's options that the mode decides, in place, before OpenRLHF validates them.

    Returns the decisions as lines to show. Raises UserError for contradictory options.
    """
    options = vars(flat)
    notes = []

    def set_option(name: str, value, why: str) -> None:
        if options[name] != value:
            options[name] = value
            notes.append(f"--{name} {value}: {why}")

    mode = options["spo.mode"]
    if options["train.async_enable"]:
        raise UserError(
            "--train.async_enable does not go with --spo.mode: rollouts and training alternate; leave it out"
        )
    for other, names in MODE_OPTIONS.items():
        for name in names if other != mode else ():
            if f"spo.{name}" in explicit:
                raise UserError(
                    f"--spo.{name} has no meaning with --spo.mode {mode}; leave it out or use --spo.mode {other}"
                )
    if mode in SEGMENT_MODES:
        for name in sorted(explicit & set(SEGMENT_REFUSES)):
            raise UserError(f"--{name} has no meaning with --spo.mode {mode} ({SEGMENT_REFUSES[name]}); leave it out")
        if not options["reward.remote_url"]:
            raise UserError(
                f"--spo.mode {mode} needs --reward.remote_url (a .py file with reward_func, or an HTTP address)"
            )
        if options["data.max_images_per_prompt"] > 0:
            raise UserError(
                f"--data.max_images_per_prompt does not go with --spo.mode {mode}: states are token ids only"
            )
        if options["spo.train_continuations"] and "rollout.vllm_generate_batch_size" in explicit:
            raise UserError(
                "--rollout.vllm_generate_batch_size does not go with --spo.train_continuations; set --rollout.batch_size"
            )
        if mode == "tree":
            if "rollout.vllm_generate_batch_size" in explicit:
                raise UserError(
                    "--rollout.vllm_generate_batch_size has no meaning with --spo.mode tree; set --rollout.batch_size"
                )
            if "rollout.n_samples_per_prompt" not in explicit:
                set_option(
                    "rollout.n_samples_per_prompt",
                    max(options["spo.replay_per_prompt"], 1),
                    "nodes trained per prompt and iteration",
                )
        # Any name but "gae" keeps OpenRLHF from building a critic; this one is handled by trainer/experience.py.
        options["algo.advantage.estimator"] = f"spo_{mode}"
        # A KL penalty in the reward would be missing from Monte Carlo returns: it is a term of the loss.
        if options["algo.kl.init_coef"] > 0:
            set_option("algo.kl.use_loss", True, "Monte Carlo returns carry no KL penalty, so it is a loss term")
            if "algo.kl.estimator" not in explicit:
                set_option("algo.kl.estimator", "k3", "the KL loss of the paper")
        set_option("vllm.enable_prefix_caching", True, "continuations share their prefix")
    else:
        estimator = options["algo.advantage.estimator"]
        if "algo.advantage.estimator" not in explicit:
            set_option("algo.advantage.estimator", "group_norm", "GRPO")
        elif estimator not in GROUP_ESTIMATORS:
            raise UserError(f"--algo.advantage.estimator {estimator}: use one of {', '.join(GROUP_ESTIMATORS)}")
        if options["algo.advantage.estimator"] != "gae":
            for name in sorted(name for name in explicit if name.startswith("critic.")):
                raise UserError(f"--{name} needs a critic: add --algo.advantage.estimator gae, or leave it out")
        if options["spo.ratio_level"] == "segment":
            raise UserError(
                "--spo.ratio_level segment needs segments, and --spo.mode group has none; use subsentence or sequence"
            )
    _settle_objective(options, explicit, set_option)
    if options["spo.kl_scope"] == "masked":
        if mode == "group" and not options["algo.kl.use_loss"]:
            raise UserError("--spo.kl_scope masked needs a KL loss: add --algo.kl.use_loss")
        if options["spo.prob_mask"] is False or (mode == "group" and options["spo.prob_mask"] is None):
            raise UserError("--spo.kl_scope masked needs the probability mask: add --spo.prob_mask")
    return notes


def _settle_objective(options: dict, explicit: set[str], set_option) -> None:
    """Ratio level and clip bounds: `--spo.*` and OpenRLHF's options for the same thing. Its own options hold the outcome."""
    if options["actor.policy_loss_type"] == "gspo":
        if "spo.ratio_level" in explicit and options["spo.ratio_level"] != "sequence":
            level = options["spo.ratio_level"]
            raise UserError(f"--actor.policy_loss_type gspo is --spo.ratio_level sequence, not {level}; leave one out")
        if "actor.loss_agg_mode" in explicit and options["actor.loss_agg_mode"] != "seq-mean-token-mean":
            raise UserError(
                "--actor.policy_loss_type gspo averages over each response: leave out --actor.loss_agg_mode, "
                "or use --spo.ratio_level sequence"
            )
        set_option("spo.ratio_level", "sequence", "--actor.policy_loss_type gspo")
        set_option("actor.loss_agg_mode", "seq-mean-token-mean", "--actor.policy_loss_type gspo")
    low, high = options["spo.clip_low"], options["spo.clip_high"]
    if low is not None or high is not None:
        if "actor.eps_clip_low_high" in explicit:
            raise UserError(
                "--actor.eps_clip_low_high says what --spo.clip_low and --spo.clip_high say; leave one of them out"
            )
        both = tuple(options["actor.eps_clip"] if bound is None else bound for bound in (low, high))
        set_option(
            "actor.eps_clip_low_high",
            both,
            "--spo.clip_low and --spo.clip_high, --actor.eps_clip for the one not given",
        )
    if options["spo.dual_clip"] is not None:
        if "actor.dual_clip" in explicit:
            raise UserError("--actor.dual_clip says what --spo.dual_clip says; leave one of them out")
        set_option("actor.dual_clip", options["spo.dual_clip"], "--spo.dual_clip")


def resolve(args: SimpleNamespace, explicit: set[str]) -> SpoConfig:
    """Nested arguments -> SpoConfig. Raises UserError for values out of range and contradictory options."""
    spo = args.spo
    for option, partition in PARTITION_OPTIONS.items():
        if f"spo.{option}" in explicit and spo.partition != partition:
            raise UserError(f"--spo.{option} belongs to --spo.partition {partition}, not to {spo.partition}")
    needed = PARTITION_NEEDS.get(spo.partition)
    if needed and getattr(spo, needed) is None:
        raise UserError(f"--spo.partition {spo.partition} needs --spo.{needed}")
    for name, value, low in (
        ("cutpoint_interval", spo.cutpoint_interval, 1),
        ("segment_length", spo.segment_length, 1),
        ("segment_count", spo.segment_count, 1),
        ("mc_rollouts", spo.mc_rollouts, 1),
        ("reward_workers", spo.reward_workers, 1),
        ("max_num_seqs", spo.max_num_seqs, 1),
        ("token_budget", spo.token_budget, 1),
        ("replay_max_age", spo.replay_max_age, 1),
        ("replay_per_prompt", spo.replay_per_prompt, 0),
    ):
        if value is not None and value < low:
            raise UserError(f"--spo.{name} {value}: must be at least {low}")
    if not 0 < spo.prob_threshold <= 1:
        raise UserError(f"--spo.prob_threshold {spo.prob_threshold}: a probability in (0, 1]")
    if not 0 <= spo.entropy_clip <= 1:
        raise UserError(
            f"--spo.entropy_clip {spo.entropy_clip}: a number from 0 to 1; above 1 a clip range could be empty"
        )
    if not spo.reward_timeout > 0:
        raise UserError(f"--spo.reward_timeout {spo.reward_timeout}: seconds, more than 0")
    if spo.train_continuations and spo.mc_rollouts < 2:
        raise UserError(
            "--spo.train_continuations needs --spo.mc_rollouts of at least 2: a continuation alone has no siblings"
        )
    partition_options = {
        "interval": CUTPOINT_INTERVAL if spo.cutpoint_interval is None else spo.cutpoint_interval,
        "segment_length": spo.segment_length,
        "segment_count": spo.segment_count,
    }
    return SpoConfig(
        mode=spo.mode,
        partition=PartitionConfig(
            kind=spo.partition,
            threshold=spo.prob_threshold,
            **{name: value for name, value in partition_options.items() if value is not None},
        ),
        prob_mask=spo.mode in SEGMENT_MODES if spo.prob_mask is None else spo.prob_mask,
        mc_rollouts=spo.mc_rollouts,
        tree=_tree_shape(spo) if spo.mode == "tree" else None,
        tree_advantage=spo.tree_advantage,
        replay_max_age=spo.replay_max_age,
        replay_per_prompt=spo.replay_per_prompt,
        kl_scope=spo.kl_scope,
        advantage_norm=spo.advantage_norm,
        reward_timeout=spo.reward_timeout,
        reward_workers=spo.reward_workers,
        max_num_seqs=spo.max_num_seqs,
        eval_ends=spo.eval_ends,
        run_dir=spo.run_dir,
        verbose=spo.verbose,
        ratio_level=spo.ratio_level,
        entropy_clip=spo.entropy_clip,
        token_budget=spo.token_budget,
        train_continuations=spo.train_continuations,
    )


def _tree_shape(spo: SimpleNamespace) -> TreeShape:
    branching = spo.tree_branching or _whole_numbers(DEFAULT_BRANCHING)
    if spo.tree_segment_tokens is None and len(branching) > 1:
        raise UserError(
            "--spo.mode tree needs --spo.tree_segment_tokens (tokens per segment, e.g. 600 for responses of 2000)"
        )
    try:
        return TreeShape(branching, spo.tree_segment_tokens or ())
    except ValueError as error:
        given = f"--spo.tree_branching {','.join(map(str, branching))}"
        if spo.tree_segment_tokens is not None:
            given += f" --spo.tree_segment_tokens {','.join(map(str, spo.tree_segment_tokens))}"
        raise UserError(f"{given}: {error}") from None
