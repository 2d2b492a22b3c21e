"""A run of spo-sample from its start to its end: checks, prompts, samples, selection, summary."""

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spo_rlhf import upstream
from spo_rlhf.errors import RunStopped, UserError
from spo_rlhf.host import processes, ray_start
from spo_rlhf.host.console import Console, count, duration
from spo_rlhf.host.files import check_writable, is_local, only_writer, write_json, write_jsonl
from spo_rlhf.launch import preflight
from spo_rlhf.launch.output import attempt, output_to
from spo_rlhf.rollout.prompts import PromptFormat, standard_template
from spo_rlhf.rollout.reward import FileReward, RewardCounts, too_many
from spo_rlhf.sampling import selection
from spo_rlhf.sampling.collect import (
    SAMPLE_KEY,
    Limits,
    Progress,
    TokenizedPrompt,
    collect,
    has_grade,
    own_ids,
    sample_keys,
)
from spo_rlhf.sampling.engine import EngineSettings, start_engine
from spo_rlhf.sampling.graded_by import FILE as GRADED_BY
from spo_rlhf.sampling.graded_by import GradedBy
from spo_rlhf.sampling.manifest import claim, manifest_of, text_hash
from spo_rlhf.sampling.sample_log import SampleLog

PROGRAM = "spo-sample"
INTERRUPTED = "interrupted; what is finished is kept, the same command continues"
AGAIN = "their labels have changed, or the code that grades them, or their rewards took too long before, or --regrade"
# What decides a sample, beside its prompt, the model and the reward file.
DECIDING = ("temperature", "top_p", "max_new_tokens", "max_len", "seed")
# What is moved aside with samples of something else; the log is this run's.
HOLDS = (
    GRADED_BY,
    "summary.json",
    "settings.json",
    "correct.jsonl",
    "pairs.jsonl",
    "samples.unused.jsonl",
    "samples.jsonl",
)


@dataclass(frozen=True)
class SampleJob:
    """What is to be sampled: the options of spo-sample, whose help tells their meaning."""

    model: str
    data: str
    split: str
    rows: slice
    input_key: str
    label_key: str
    template: str | None
    chat_template: bool
    system: str | None
    reward: str
    reward_timeout: float  # seconds
    max_reward_failures: float  # share
    reward_workers: int
    samples: int  # of each prompt
    temperature: float
    top_p: float
    max_new_tokens: int | None  # None: what max_len leaves
    max_len: int  # tokens of prompt and response together
    seed: int
    select: str
    per_prompt: int | None  # None: that of the selection
    min_reward: float
    engines: int
    tensor_parallel: int
    max_num_seqs: int
    gpu_memory: float
    eager: bool
    trust_remote_code: bool
    output: Path
    fresh: bool  # move samples of something else aside
    regrade: bool  # grade all that is stored again

    def prompt_format(self) -> PromptFormat:
        """How rows become prompts. Raises UserError."""
        template = None if self.template is None else standard_template(self.template, "--template")
        form = PromptFormat(template, self.chat_template, self.system)
        form.check_system("--system", "set --chat-template, or write it into --template")
        return form

    def for_preflight(self) -> SimpleNamespace:
        """These options in the form of spo-train's, for the checks that both share."""
        return SimpleNamespace(
            actor=SimpleNamespace(model_name_or_path=self.model),
            data=SimpleNamespace(
                apply_chat_template=self.chat_template,
                input_key=self.input_key,
                label_key=self.label_key,
                max_len=self.max_len,
                max_samples=sys.maxsize,
                prompt_probs=None,
                disable_fast_tokenizer=False,
            ),
            reward=SimpleNamespace(remote_url=[self.reward]),
            spo=SimpleNamespace(reward_timeout=self.reward_timeout, prompt_format=lambda _: self.prompt_format()),
            train=SimpleNamespace(seed=self.seed),
            use_ms=False,
        )


def check_files(job: SampleJob) -> None:
    """What takes no libraries: model folder, reward file, every line of a local data file. Raises UserError."""
    preflight.check_model("actor", job.model, must_load=False)
    if not job.reward.endswith(".py"):
        raise UserError(f"--reward {job.reward}: not a .py file")
    preflight.check_reward(job.for_preflight())
    if is_local(job.data):
        if not Path(job.data).exists():
            raise UserError(f"--data {job.data}: no such file or folder")
        if job.data.endswith(".jsonl"):
            preflight.check_jsonl(
                "data", job.data, {"input_key": job.input_key, "label_key": job.label_key}, chat=job.chat_template
            )
    job.prompt_format()
    check_writable("--output", str(job.output))
    if job.select == "pairs" and job.samples < 2:
        raise UserError("--select pairs: a pair needs --samples 2 or more")


def run(job: SampleJob) -> int:
    """Sample into the output directory, libraries' output in its log; exit status. Raises UserError where another writes there."""
    with only_writer("--output", job.output):
        return run_in_folder(PROGRAM, job.output, "sample.log", lambda console: show(console, sample(job, console)))


def run_in_folder(program: str, output: Path, log_name: str, work: Callable[[Console], None]) -> int:
    """Do `work` in a folder, libraries' output in its log, and end all processes that it started; exit status."""
    notes = ray_start.settle_temp_dir()
    output.mkdir(parents=True, exist_ok=True)
    log = output / log_name
    started = set(processes.descendants())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with output_to(log) as console:
        for note in notes:
            console.line(f"{program}: {note}")
        try:
            status, reason = attempt(lambda: work(console), log, INTERRUPTED)
        finally:
            for name in (signal.SIGINT, signal.SIGTERM):
                signal.signal(name, signal.SIG_IGN)
            processes.end([process for process in processes.descendants() if process not in started])
        if status:
            console.line(f"{program}: {reason}")
    return status


def sample(job: SampleJob, console: Console) -> dict[str, Any]:
    """Sample, grade, select; returns what summary.json holds. Raises UserError."""
    start = time.monotonic()
    console.line(f"{PROGRAM}: loading libraries")
    with processes.leaving_on_interrupt(f"{PROGRAM}: {INTERRUPTED}", console.stream):
        upstream.get_tokenizer  # noqa: B018  the first name that is asked of OpenRLHF loads the stack
    prompts, tokenizer, files, notes = load_prompts(job)
    for note in notes:
        console.line(f"{PROGRAM}: {note}")
    claim_folder(job, tokenizer.chat_template, console)
    limits = Limits(job.samples, job.max_new_tokens or job.max_len, job.max_len)
    engine = engine_settings(job, longest_prompt=max(len(prompt.token_ids) for prompt in prompts))
    log = SampleLog(job.output / "samples.jsonl", SAMPLE_KEY)
    if job.regrade:
        log.rows = {key: {**row, "grader": None} for key, row in log.rows.items()}
    keys = sample_keys(prompts, limits)
    there = sum(key in log.rows for key in keys)
    if there < len(keys):  # until they are there the summary is that of other samples than the folder's
        (job.output / "summary.json").unlink(missing_ok=True)
    console.line(
        f"{PROGRAM}: {len(prompts)} prompts x {job.samples} responses, {there} of them there; engine log: "
        f"{job.output / 'sample.log'}"
    )
    with FileReward(job.reward, job.reward_workers, job.reward_timeout) as reward:
        graded_by = GradedBy(job.output, files, reward.files)
        progress = collect(
            prompts,
            limits,
            job.seed,
            start_engine=lambda: start_engine(engine, job.engines),
            decode=lambda token_ids: tokenizer.decode(token_ids, skip_special_tokens=False),
            reward=reward,
            grader=graded_by.name,
            log=log,
            report=lambda progress: report(console, progress),
            check=lambda: check_rewards(job, reward.counts),
        )
    if progress.graded_again:
        console.line(f"{PROGRAM}: {progress.graded_again} stored responses graded again: {AGAIN}")
    graded_by.settle(log)
    rows = log.close(list(keys))
    this_run = {
        "samples": progress.new,
        "graded_again": progress.graded_again,
        "reward_timeouts": reward.counts.timeouts,
        "seconds_sampling": round(progress.seconds, 3),
        "seconds_total": round(time.monotonic() - start, 3),
    }
    summary = summarize(job, rows, prompts=len(prompts)) | {"this_run": this_run}
    write_json(job.output / "summary.json", summary)
    return summary


def check_rewards(job: SampleJob, counts: RewardCounts) -> None:
    """Raise RunStopped where too many rewards of this run had no answer."""
    if too_many(counts, job.max_reward_failures):
        raise RunStopped(
            f"{counts.timeouts} of {counts.rewards} rewards took longer than --reward-timeout {job.reward_timeout:g}: more "
            f"than --max-reward-failures {job.max_reward_failures:g}. Mend the reward file, or raise one of the two; the "
            "samples are kept and graded again"
        )


def load_prompts(job: SampleJob) -> tuple[list[TokenizedPrompt], Any, set[Path], list[str]]:
    """Prompts of the chosen rows, the tokenizer, what grades (`FileReward.files`), and lines to show.

    Tries the reward on an empty response.

    Raises UserError.
    """
    options, notes = job.for_preflight(), []
    if job.template and job.chat_template:
        notes.append("--template is not used: --chat-template makes the prompts")
    elif r"\n" in (job.template or ""):
        notes.append(r"--template: \n is a backslash and an n in it; a shell makes a line feed of it within $'...'")
    preflight.check_model("actor", job.model, must_load=True)
    notes += preflight.check_weights("actor", job.model, trains=False)
    preflight.check_fit(options)
    if not is_local(job.model):
        limit = getattr(preflight.model_config(job.model), "max_position_embeddings", None)
        if limit is not None and job.max_len > limit:
            raise UserError(f"--max-len {job.max_len}: the model takes {limit} tokens")
    rows = preflight.check_dataset(options, "data.prompt_dataset", job.data, job.split, must_load=True, notes=notes)
    chosen = list(zip(own_ids(row.id for row in rows), rows, strict=True))[job.rows]
    if not chosen:
        raise UserError(f"--rows: the data have {len(rows)} rows and none of these")
    files = preflight.try_reward(options, chosen[0][1].prompt, chosen[0][1].label)
    tokenizer = preflight.load_tokenizer(options)
    ids = job.prompt_format().token_ids(tokenizer)([row.prompt for _, row in chosen])
    prompts = [
        TokenizedPrompt(own, row.prompt, row.label, token_ids)
        for (own, row), token_ids in zip(chosen, ids, strict=True)
    ]
    return prompts, tokenizer, files, notes


def claim_folder(job: SampleJob, chat_template: Any, console: Console) -> None:
    """Go on with the folder's samples where they are of the same. Raises UserError where it holds others."""
    settings = {name: getattr(job, name) for name in DECIDING}
    reward = text_hash(Path(job.reward).read_text(encoding="utf-8"))
    asked = {
        "prompt template": job.template,
        "chat template": text_hash(repr(chat_template)) if job.chat_template else None,
        "system prompt": job.system,
    }
    decides = {**asked, **settings, "reward file": reward}
    manifest = manifest_of(PROGRAM, job.model, decides, say=lambda line: console.line(f"{PROGRAM}: {line}"))
    if aside := claim(job.output, manifest, HOLDS, job.fresh):
        console.line(f"{PROGRAM}: samples of something else moved to {aside}")


def engine_settings(job: SampleJob, longest_prompt: int) -> EngineSettings:
    """What the engines are built from; the cache is sized by the longest sequence there can be, not by --max-len."""
    return EngineSettings(
        model=job.model,
        max_model_len=min(job.max_len, longest_prompt + (job.max_new_tokens or job.max_len)),
        temperature=job.temperature,
        top_p=job.top_p,
        seed=job.seed,
        tensor_parallel=job.tensor_parallel,
        gpu_memory_utilization=job.gpu_memory,
        trust_remote_code=job.trust_remote_code,
        eager=job.eager,
        engine_args={"max_num_seqs": job.max_num_seqs},
    )


def summarize(job: SampleJob, rows: list[dict[str, Any]], prompts: int) -> dict[str, Any]:
    """What summary.json says of the samples; the selected ones are written."""
    path, kept = select(job, rows)
    return {
        "finished": True,
        "prompts": prompts,
        "samples": len(rows),
        "reward_mean": sum(row["reward"] for row in rows) / len(rows),
        "solved_prompts": len({row["id"] for row in rows if row["reward"] >= job.min_reward}),
        "truncated": sum(row["truncated"] for row in rows),
        "reward_timeouts": sum(not has_grade(row) for row in rows),
        "tokens": sum(row["tokens"] for row in rows),
        "select": job.select,
        "selected": len(kept),
        "selected_prompts": len({row["id"] for row in kept}),
        "file": str(path),
    }


def select(job: SampleJob, rows: list[dict[str, Any]]) -> tuple[Path, list[dict[str, Any]]]:
    """The file of the selected rows, and these; it is written unless all are selected.

    A response whose reward took too long is neither right nor wrong.
    """
    if job.select == "all":
        return job.output / "samples.jsonl", rows
    graded = [row for row in rows if has_grade(row)]
    if job.select == "correct":
        kept = selection.correct(graded, job.min_reward, job.per_prompt or selection.CORRECT_PER_PROMPT)
    else:
        kept = selection.pairs(graded, job.min_reward, job.per_prompt or selection.PAIRS_PER_PROMPT, job.seed)
    path = job.output / f"{job.select}.jsonl"
    write_jsonl(path, kept)
    return path, kept


def report(console: Console, progress: Progress) -> None:
    """The line that shows how far a run is."""
    mean = progress.reward_sum / max(progress.new, 1)
    rate = count(progress.tokens / max(progress.seconds, 1e-3))
    console.status(
        f"{PROGRAM}: {progress.stored}/{progress.total}  reward {mean:.3f}  {rate} tokens/s  "
        f"{duration(progress.seconds_left)} left"
    )


def show(console: Console, summary: dict[str, Any]) -> None:
    """The lines that end a run."""
    console.line(
        f"{PROGRAM}: reward {summary['reward_mean']:.3f} over {summary['samples']} responses, "
        f"{summary['solved_prompts']} of {summary['prompts']} prompts solved, {summary['truncated']} truncated, "
        f"{count(summary['tokens'])} tokens, {duration(summary['this_run']['seconds_total'])}"
    )
    if late := summary["reward_timeouts"]:
        console.line(
            f"{PROGRAM}: {late} rewards took too long and are 0; the same command, with a longer --reward-timeout, grades them "
            "again"
        )
    what = {"all": "responses", "correct": "right responses", "pairs": "pairs"}[summary["select"]]
    kept = f"{summary['selected']} {what} of {summary['selected_prompts']} prompts"
    console.line(f"{PROGRAM}: {kept}: {summary['file']}")
