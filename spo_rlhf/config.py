"""The configuration of a run: the options that belong to no single part, and the method with its own."""

from dataclasses import dataclass

from spo_rlhf.core.advantages import NORMALIZERS, Normalizer
from spo_rlhf.core.options import check, choice, option
from spo_rlhf.core.partition import PROB_THRESHOLD
from spo_rlhf.core.units import RATIO_LEVELS
from spo_rlhf.methods import METHODS
from spo_rlhf.methods.base import Method

KL_SCOPES = ("all", "masked")


def mask_by_mode() -> str:
    """The default of --spo.prob_mask in words."""
    on, off = ([name for name, one in METHODS.items() if one.masks_by_default is wanted] for wanted in (True, False))
    return f"on with {', '.join(on)}; off with {', '.join(off)}"


@dataclass(frozen=True, kw_only=True)
class SpoConfig:
    """The `--spo.*` options, resolved. Travels with the arguments to every actor. Raises OptionError."""

    method: Method = choice(
        "mode",
        METHODS,
        "chain",
        help="how responses are sampled and credited",
    )
    preset: str | None = option(
        parse=str,
        default_text="none",
        metavar="NAME",
        help="settings by name, for what the command does not set itself; paper: those of the paper's runs for this mode",
    )
    plugin: tuple[str, ...] = option(
        (),
        parse=str,
        repeated=True,
        default_text="none",
        metavar="FILE.py",
        help="a file of your own that adds a partition, an estimator, a tree advantage, a norm, a task or a metric "
        "(docs/extending.md); may be given several times",
    )
    prob_threshold: float = option(
        PROB_THRESHOLD,
        above=0,
        at_most=1,
        metavar="RHO",
        help="a token is a cutpoint, and passes the probability mask, where the policy gave it a probability below this",
    )
    prob_mask: bool | None = option(
        parse=bool,
        default_text=mask_by_mode,
        help="train only tokens below the threshold",
    )
    kl_scope: str = option(
        "all",
        choices=KL_SCOPES,
        help="tokens under the KL loss: all trained tokens, or only those that pass the probability mask (masked, as "
        "the official code)",
    )
    advantage_norm: Normalizer = choice(
        "advantage_norm",
        NORMALIZERS,
        "none",
        help="what is done to the advantages of a whole rollout batch",
    )
    ratio_level: str = option(
        "token",
        choices=RATIO_LEVELS,
        help="tokens that share one importance ratio, the geometric mean of theirs: each its own, those of a segment, of "
        "a subsentence, or of the whole sample (sequence: GSPO); docs/ratio-levels.md",
    )
    clip_low: float | None = option(
        parse=float, default_text="--actor.eps_clip", metavar="EPS", help="ratios are clipped below 1 - EPS"
    )
    clip_high: float | None = option(
        parse=float, default_text="--actor.eps_clip", metavar="EPS", help="ratios are clipped above 1 + EPS"
    )
    dual_clip: float | None = option(
        parse=float,
        default_text="none",
        metavar="C",
        help="above 1: bound the loss at -C x advantage where the advantage is negative",
    )
    entropy_clip: float = option(
        0.0,
        at_least=0,
        at_most=1,  # above 1 a clip range could be empty
        metavar="ALPHA",
        help="clip bounds times 1 + ALPHA z, z in [-1, 1] from the unit's entropy (wider where it is high)",
    )
    pack_trees: str = option(
        "off",
        choices=("off", "on", "auto"),
        help="compute each prefix that samples share once, as one sequence with attention to ancestors alone; auto: where "
        "the attention takes such a mask and it saves something",
    )
    pack_tokens: int = option(
        4096, at_least=1, metavar="N", help="packed tokens of a micro-batch; a tree too large is cut between subtrees"
    )
    token_budget: int | None = option(
        parse=int,
        default_text="none",
        at_least=1,
        metavar="N",
        help="stop after the step in which the tokens generated for training, Monte Carlo included, reach N",
    )
    reward_timeout: float = option(10.0, above=0, metavar="S", help="seconds a reward may take; then it is 0")
    reward_workers: int = option(2, at_least=1, metavar="N", help="reward processes per engine")
    max_num_seqs: int = option(512, at_least=1, metavar="N", help="sequences in flight per vLLM engine")
    eval_ends: bool = option(
        True, help="evaluate before the first and after the last step, where --eval.dataset is given"
    )
    run_dir: str | None = option(
        parse=str,
        default_text="runs/<date>-<time>",
        metavar="DIR",
        help="where metrics.jsonl, config.json, summary.json and train.log go",
    )
    verbose: bool = option(False, help="leave the log of Ray, vLLM and DeepSpeed on the terminal as well")

    def __post_init__(self) -> None:
        check(self)

    @property
    def masked(self) -> bool:
        """The loss is that of the tokens below the threshold."""
        return self.method.masks_by_default if self.prob_mask is None else self.prob_mask

    @property
    def mask_threshold(self) -> float | None:
        """Probability below which a token passes the mask; None without the mask. The same threshold makes cutpoints."""
        return self.prob_threshold if self.masked else None

    @property
    def packs(self) -> bool:
        """Samples are packed; what `auto` comes to is settled before the start."""
        return self.pack_trees != "off"
