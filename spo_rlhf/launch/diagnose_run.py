"""A run of spo-diagnose from its start to its end: checks, samples, what they say, as a table and as JSON."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spo_rlhf import upstream
from spo_rlhf.core.diagnosis import moments
from spo_rlhf.core.finite import speakable
from spo_rlhf.core.predictions import Interval
from spo_rlhf.core.recommendation import Diagnosis, diagnose
from spo_rlhf.errors import UserError
from spo_rlhf.host import processes
from spo_rlhf.host.console import Console, count, duration
from spo_rlhf.host.files import write_json
from spo_rlhf.launch.sample_run import SampleJob, engine_settings, load_prompts, run_in_folder
from spo_rlhf.rollout.reward import FileReward
from spo_rlhf.sampling.collect import Limits
from spo_rlhf.sampling.diagnosis import Diagnosing, EngineSampler, Plan, Sampled
from spo_rlhf.sampling.engine import start_engine

PROGRAM = "spo-diagnose"
INTERRUPTED = "interrupted; nothing was kept"
FILE = "diagnosis.json"
DRAWS = 2000  # resamplings of the prompts for an interval
FEWEST = 8  # prompts for an interval to mean anything


@dataclass(frozen=True)
class DiagnoseJob:
    """What is to be diagnosed: model, data and sampling as in spo-sample; `prompts` of the rows, drawn by the seed."""

    sampling: SampleJob
    plan: Plan
    prompts: int
    history: int


def run(job: DiagnoseJob) -> int:
    """Diagnose into the output directory, libraries' output in its log; exit status."""
    return run_in_folder(PROGRAM, job.sampling.output, "diagnose.log", lambda console: _run(job, console))


def _run(job: DiagnoseJob, console: Console) -> None:
    start = time.monotonic()
    console.line(f"{PROGRAM}: loading libraries")
    with processes.leaving_on_interrupt(f"{PROGRAM}: {INTERRUPTED}", console.stream):
        upstream.get_tokenizer  # noqa: B018  the first name that is asked of OpenRLHF loads the stack
    sampled = sample(job, console)
    try:
        found = diagnose(
            [moments(group, sampled.cut_C) for group in sampled.responses],
            sampled.cut_C,
            job.history,
            DRAWS,
            job.sampling.seed,
        )
    except ValueError as error:
        raise UserError(f"--model {job.sampling.model}: {error}") from None
    for line in table(found):
        console.line(line)
    cost = {"response_tokens": sampled.tokens, "continuation_tokens": sampled.continuation_tokens}
    path = job.sampling.output / FILE
    told = {**settings(job), **found.as_data(), **cost, "seconds": round(time.monotonic() - start, 1)}
    write_json(path, speakable(told))  # an interval may be unknown
    tokens = count(sampled.tokens + sampled.continuation_tokens)
    console.line(f"{PROGRAM}: {tokens} tokens, {duration(time.monotonic() - start)}; {path}")


def sample(job: DiagnoseJob, console: Console) -> Sampled:
    """Responses and continuations of the drawn prompts. Raises UserError."""
    mine = job.sampling
    prompts, tokenizer, _, notes = load_prompts(mine)
    if len(prompts) < FEWEST:
        raise UserError(f"--data {mine.data}: {len(prompts)} prompts; an interval needs {FEWEST} or more")
    for note in notes:
        console.line(f"{PROGRAM}: {note}")
    if len(prompts) > job.prompts:
        drawn = np.random.default_rng(mine.seed).choice(len(prompts), job.prompts, replace=False)
        prompts = [prompts[number] for number in sorted(drawn)]
    settings = engine_settings(mine, longest_prompt=max(len(prompt.token_ids) for prompt in prompts))
    # Probabilities of the policy that samples: after temperature and top-p.
    settings = replace(settings, engine_args={**settings.engine_args, "logprobs_mode": "processed_logprobs"})
    limits = Limits(job.plan.responses, mine.max_new_tokens or mine.max_len, mine.max_len)
    console.line(f"{PROGRAM}: {len(prompts)} prompts; engine log: {mine.output / 'diagnose.log'}")

    def report(what: str, number: int, total: int) -> None:
        console.status(f"{PROGRAM}: {what} {number}/{total}")

    with FileReward(mine.reward, mine.reward_workers, mine.reward_timeout) as reward:
        engine = start_engine(settings, mine.engines)
        try:
            decode = lambda token_ids: tokenizer.decode(token_ids, skip_special_tokens=False)  # noqa: E731
            sampler = EngineSampler(prompts, engine, reward, decode)
            return Diagnosing(prompts, limits, job.plan, sampler, report).sample()
        finally:
            engine.close()


def settings(job: DiagnoseJob) -> dict[str, Any]:
    """What the numbers depend on, for the JSON."""
    mine, plan = job.sampling, job.plan
    names = ("model", "data", "temperature", "top_p", "max_new_tokens", "max_len", "seed")
    own = {name: getattr(plan, name) for name in ("responses", "continuations", "probes", "threshold")}
    return {"settings": {**{name: getattr(mine, name) for name in names}, **own, "history": job.history}}


def table(found: Diagnosis) -> list[str]:
    """The diagnosis for people."""
    lines = [
        f"{found.prompts} prompts: reward {_of(found.reward)}, {_of(found.tokens, 0)} tokens a response",
        f"decided prompts (all responses alike) {_of(found.decided)}, truncated responses {_of(found.truncated)}",
        f"calibration: the outcome rises by {_of(found.calibration)} with the mean of the other responses (perfect: 1)",
        "",
        f"{'token':>6}  {'score energy before it':26}outcome settled before it",
    ]
    for cut, before, settled in zip(found.cuts, found.energy_before, found.settled_before, strict=True):
        lines.append(f"{cut:>6}  {_of(before):26}{_of(settled)}")
    oracle = found.oracle
    lines += [
        "",
        "what would be left of RLOO's noise with a free and exact ...",
        f"  value of each state as baseline      {_of(oracle['value'])}",
        f"  advantage of each token              {_of(oracle['advantage'])}   <- the oracle ratio",
        "the same with one response a prompt, times tokens, RLOO with 8 responses = 1",
        f"  {_of(oracle['value_tokens'])} and {_of(oracle['advantage_tokens'])}",
        "",
        "predicted noise x tokens, RLOO with 8 responses = 1",
        f"  {'':54}  {'':24}over the best RLOO",
    ]
    for number, choice in enumerate(found.choices):
        known = f", history of {choice.history}" if choice.history else ""
        mark = ">" if number == found.recommended else " "
        lines.append(f"{mark} {choice.what + known:54}  {_of(choice.price):24}{_of(choice.over_group)}")
    lines += ["", f"recommended: {found.verdict}", f"  {found.choices[found.recommended].options}"]
    return lines


def _of(value: Interval, digits: int = 2) -> str:
    return f"{value.value:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"
