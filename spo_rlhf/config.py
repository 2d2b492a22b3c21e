"""The configuration of a run: the options that belong to no single part, and the method with its own."""

from dataclasses import dataclass
from typing import Any

from spo_rlhf.core.advantages import NORMALIZERS, Normalizer
from spo_rlhf.core.options import LONGEST_WAIT, check, choice, option
from spo_rlhf.core.partition import HESITATIONS, PROB_THRESHOLD
from spo_rlhf.core.prompts import PROMPT_CHOICES, PromptChoice
from spo_rlhf.core.units import RATIO_LEVELS
from spo_rlhf.host import device
from spo_rlhf.methods import METHODS
from spo_rlhf.methods.base import Method
from spo_rlhf.rollout.prompts import PromptFormat

KL_SCOPES = ("all", "masked")
SWITCH = ("auto", "on", "off")
OLD_LOGPROBS = ("actor", "engine")
#: Float32 logits of a chunk, where --spo.logits_chunk_tokens says nothing.
CHUNK_BYTES = 1 << 30


def default_chunk(vocabulary: int) -> int:
    """Tokens whose float32 logits take CHUNK_BYTES."""
    return max(1, CHUNK_BYTES // (4 * vocabulary))


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
        help="settings by name, for what the command does not set itself; paper: those of the paper's runs for this mode; short, "
        "long: what took the fewest tokens in our measurements on responses of tens and of a hundred tokens and more, which is "
        "--spo.mode group, and is so by itself (docs/when-spo-pays.md)",
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
    hesitation: str = option(
        "token",
        choices=HESITATIONS,
        help="whose probability that is: the sampled token's, or the most likely one's, whichever was sampled; the latter "
        "is decided by the state alone, so mask and cutpoints leave the gradient unbiased (docs/credit.md)",
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
    prompts: PromptChoice = choice("prompts", PROMPT_CHOICES, "all", help="which prompts of the data are sampled")
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
        parse=float, at_most=1, default_text="--actor.eps_clip", metavar="EPS", help="ratios are clipped below 1 - EPS"
    )
    clip_high: float | None = option(
        parse=float,
        at_most=100,
        default_text="--actor.eps_clip",
        metavar="EPS",
        help="ratios are clipped above 1 + EPS",
    )
    dual_clip: float | None = option(
        parse=float,
        at_most=1000,
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
    old_logprobs: str = option(
        "actor",
        choices=OLD_LOGPROBS,
        help="what the ratio is measured from: log-probs of a forward pass of the actor before training, or those that the "
        "engine sampled with, which spares the pass and corrects for what tells engine from actor",
    )
    max_staleness: int = option(
        0,
        default_text="1 with --train.async_enable, 2 with --train.partial_rollout_enable, else 0",
        at_least=0,
        at_most=1000,
        metavar="N",
        help="policy updates that may lie between sampling a batch and training it, with --train.async_enable: so many batches "
        "are sampled ahead while the policy trains (docs/async.md); 0: sampling and training alternate",
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
    reward_timeout: float = option(
        10.0, above=0, at_most=LONGEST_WAIT, metavar="S", help="seconds a reward may take; then it is 0"
    )
    max_reward_failures: float = option(
        0.05,
        at_least=0,
        at_most=1,
        metavar="SHARE",
        help="a run in which more than this share of the rewards, of a step or since the start, take too long or end "
        "their process stops; until then they are 0",
    )
    reward_workers: int = option(2, at_least=1, metavar="N", help="reward processes per engine")
    engine_timeout: float = option(
        300.0,
        above=0,
        at_most=LONGEST_WAIT,
        metavar="S",
        help="an engine that gives no sign of life for so many seconds, at work or while it takes weights, counts as dead",
    )
    stall_timeout: float = option(
        7200.0,
        above=0,
        at_most=LONGEST_WAIT,
        metavar="S",
        help="a run of which nothing is heard for so many seconds, at its start, in a training step or while it saves, is stopped",
    )
    max_engine_restarts: int = option(
        3,
        at_least=0,
        metavar="N",
        help="a dead engine is started again, and its requests are sent again; a run in which more than N die within an hour "
        "stops",
    )
    max_num_seqs: int = option(512, at_least=1, metavar="N", help="sequences in flight per vLLM engine")
    system_prompt: str | None = option(
        parse=str,
        default_text="none",
        metavar="TEXT",
        help="system message before each prompt that is one text; needs --data.apply_chat_template",
    )
    trust_remote_code: bool = option(False, help="run Python code that comes with a model")
    request_seeds: str = option(
        "auto",
        choices=SWITCH,
        help="a seed for each request, so that what is sampled does not depend on what else the engine does, and a run "
        "repeats exactly (on GPUs: as far as their arithmetic does, and sampling is a fifth slower: docs/gpu.md); off: "
        "runs do not repeat; auto: on without a GPU",
    )
    logits_chunk_tokens: int | None = option(
        parse=int,
        default_text="as many as 1 GiB of float32 logits",
        at_least=0,
        metavar="N",
        help="tokens whose logits exist at a time: a larger micro-batch gets its log-probs in chunks, computed again for "
        "the gradient; 0: all at once",
    )
    sleep: bool | None = option(
        parse=bool,
        default_text="on where policy and engines share GPUs",
        help="engine and optimizer leave the GPU while the other works: --vllm.enable_sleep and --ds.enable_sleep",
    )
    weight_bucket_mib: int = option(
        0,
        at_least=0,
        at_most=65_536,
        metavar="N",
        help="new weights go to engines on GPUs in buckets of N MiB, one call and one transfer each, where OpenRLHF makes one for every "
        "parameter; a larger parameter is a bucket of its own, and policy and engine each need room for one bucket; 0: OpenRLHF's way "
        "(docs/gpu.md)",
    )
    eval_ends: bool = option(
        True, help="evaluate before the first and after the last step, where --eval.dataset is given"
    )
    diagnose_every: int = option(
        0,
        at_least=0,
        metavar="N",
        help="every N steps, sample what spo-diagnose does from prompts of the data and log what credit assignment could win on "
        "the policy of that time (docs/credit.md); these tokens count in no budget; 0: never",
    )
    diagnose_prompts: int = option(
        32, at_least=8, metavar="N", help="prompts of a diagnosis; each takes some 40 responses' tokens"
    )
    save_rollouts: int = option(
        4,
        at_least=0,
        metavar="N",
        help="prompts of every step whose rollouts are kept in the run folder (docs/rollouts.md); 0: none",
    )
    save_rollouts_mb: int = option(
        256, at_least=1, metavar="MB", help="room on the disk that kept rollouts may take; older steps are thinned out"
    )
    push_to_hub: str | None = option(
        parse=str,
        default_text="off",
        metavar="NAME",
        help="upload the trained model, with its card, to this repository of the Hugging Face hub (private where it is "
        "new); a failure is told and loses nothing",
    )
    resume: str = option(
        "never",
        choices=("never", "auto"),
        help="auto: a finished run says so and ends, one that was broken off goes on from its newest whole checkpoint, and "
        "none is there yet: it starts (docs/resuming.md)",
    )
    grace: float = option(
        60.0,
        at_least=0,
        at_most=LONGEST_WAIT,
        metavar="S",
        help="seconds that a step may still take after SIGTERM, SIGHUP or SIGUSR1; then it is abandoned. The checkpoint that "
        "follows may take as long again",
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

    def prompt_format(self, data: Any) -> PromptFormat:
        """How rows become prompts, with OpenRLHF's `--data.*`."""
        return PromptFormat(data.input_template, bool(data.apply_chat_template), self.system_prompt)

    @property
    def seeded(self) -> bool:
        """Each request has a seed of its own."""
        return device.is_cpu() if self.request_seeds == "auto" else self.request_seeds == "on"

    def chunk_of(self, vocabulary: int) -> int:
        """Tokens whose logits exist at a time, of a model with that many words; 0: no limit."""
        return default_chunk(vocabulary) if self.logits_chunk_tokens is None else self.logits_chunk_tokens

    @property
    def masked(self) -> bool:
        """The loss is that of the tokens below the threshold."""
        return self.method.masks_by_default if self.prob_mask is None else self.prob_mask

    @property
    def by_state(self) -> bool:
        """The probability of the most likely token decides where the policy hesitates."""
        return self.hesitation == "state"

    @property
    def mask_threshold(self) -> float | None:
        """Probability below which a token passes the mask; None without the mask. The same threshold makes cutpoints."""
        return self.prob_threshold if self.masked else None

    @property
    def packs(self) -> bool:
        """Samples are packed; what `auto` comes to is settled before the start."""
        return self.pack_trees != "off"
