"""spo-sample: n responses to each prompt, with rewards, as JSON lines; selected for supervised training or DPO."""

import argparse
import hashlib
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from spo_rlhf import upstream
from spo_rlhf.cli.sample_options import PROGRAM, build_parser, check_files, training_arguments
from spo_rlhf.errors import UserError
from spo_rlhf.host import processes
from spo_rlhf.host.console import Console, count, duration
from spo_rlhf.host.files import read_json, write_json, write_jsonl
from spo_rlhf.launch import preflight
from spo_rlhf.launch.output import explain, output_to, root_cause
from spo_rlhf.sampling import selection

INTERRUPTED = f"{PROGRAM}: interrupted; what is finished is kept, the same command continues"


def load_prompts(args: argparse.Namespace) -> tuple[list, Any]:
    """Prompts of the chosen rows, and the tokenizer. Tries the reward on an empty response. Raises UserError."""
    from transformers import AutoConfig

    from spo_rlhf.sampling.collect import TokenizedPrompt

    training = training_arguments(args)
    preflight.check_model("actor", args.model, must_load=True)
    pairs = preflight.check_dataset(training, "data.prompt_dataset", args.data, args.split, must_load=True)
    limit = getattr(AutoConfig.from_pretrained(args.model, trust_remote_code=True), "max_position_embeddings", None)
    if limit is not None and args.max_len > limit:
        raise UserError(f"--max-len {args.max_len}: the model takes {limit} tokens")
    chosen = list(enumerate(pairs))[args.rows]
    if not chosen:
        raise UserError(f"--rows: the data have {len(pairs)} rows and none of these")
    preflight.try_reward(training, *chosen[0][1])
    tokenizer = preflight.load_tokenizer(training)
    ids = tokenizer([prompt for _, (prompt, _) in chosen], add_special_tokens=False)["input_ids"]
    return [
        TokenizedPrompt(row, *pair, token_ids) for (row, pair), token_ids in zip(chosen, ids, strict=True)
    ], tokenizer


def check_folder(args: argparse.Namespace, prompts: list) -> dict[str, Any]:
    """Everything that decides the samples; refuses a folder that holds samples of something else. Raises UserError."""
    content = hashlib.sha256("\0".join(f"{prompt.id}\1{prompt.text}\1{prompt.label}" for prompt in prompts).encode())
    reward = hashlib.sha256(Path(args.reward).read_bytes())
    names = ("model", "samples", "temperature", "top_p", "max_new_tokens", "max_len", "seed")
    settings = {name: getattr(args, name) for name in names}
    settings |= {"data": content.hexdigest()[:16], "reward": reward.hexdigest()[:16]}
    path = args.output / "settings.json"
    if path.exists():
        before = read_json(path)
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            raise UserError(
                f"--output {args.output} holds samples made with another {', '.join(changed)}: choose another folder"
            )
    elif (args.output / "samples.jsonl").exists():
        raise UserError(f"--output {args.output} holds samples.jsonl and no settings.json: choose another folder")
    else:
        write_json(path, settings)
    return settings


def select(args: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the selected rows; what summary.json says of them."""
    path, kept = args.output / "samples.jsonl", rows
    if args.select == "correct":
        per_prompt = args.per_prompt or selection.CORRECT_PER_PROMPT
        path, kept = args.output / "correct.jsonl", selection.correct(rows, args.min_reward, per_prompt)
    elif args.select == "pairs":
        per_prompt = args.per_prompt or selection.PAIRS_PER_PROMPT
        path, kept = args.output / "pairs.jsonl", selection.pairs(rows, args.min_reward, per_prompt, args.seed)
    if args.select != "all":
        write_jsonl(path, kept)
    return {
        "select": args.select,
        "selected": len(kept),
        "selected_prompts": len({row["id"] for row in kept}),
        "file": str(path),
    }


def sample(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Sample, grade, select; returns what summary.json holds. Raises UserError."""
    from spo_rlhf.rollout.reward import FileReward
    from spo_rlhf.sampling.collect import SAMPLE_KEY, Limits, Progress, collect
    from spo_rlhf.sampling.engine import EngineSettings, start_engine
    from spo_rlhf.sampling.sample_log import SampleLog

    start = time.monotonic()
    console.line(f"{PROGRAM}: loading libraries")
    with processes.leaving_on_interrupt(INTERRUPTED, console.stream):
        upstream.get_tokenizer  # noqa: B018  the first name that is asked of OpenRLHF loads the stack
    prompts, tokenizer = load_prompts(args)
    settings = check_folder(args, prompts)
    limits = Limits(args.samples, args.max_new_tokens or args.max_len, args.max_len)
    longest = min(args.max_len, max(len(prompt.token_ids) for prompt in prompts) + limits.max_new_tokens)
    engine = EngineSettings(
        args.model,
        longest,
        args.temperature,
        args.top_p,
        seed=args.seed,
        tensor_parallel=args.tensor_parallel,
        gpu_memory_utilization=args.gpu_memory,
        trust_remote_code=True,
        engine_args={"max_num_seqs": args.max_num_seqs},
    )
    log = SampleLog(args.output / "samples.jsonl", SAMPLE_KEY)
    console.line(
        f"{PROGRAM}: {len(prompts)} prompts x {args.samples} responses, {len(log.rows)} of them there; engine log: "
        f"{args.output / 'sample.log'}"
    )

    def report(progress: Progress) -> None:
        mean = progress.reward_sum / max(progress.new, 1)
        rate = count(progress.tokens / max(progress.seconds, 1e-3))
        console.status(
            f"{PROGRAM}: {progress.stored}/{progress.total}  reward {mean:.3f}  {rate} tokens/s  "
            f"{duration(progress.seconds_left)} left"
        )

    def decode(token_ids) -> str:
        return tokenizer.decode(token_ids, skip_special_tokens=False)

    with FileReward(args.reward, args.reward_workers, args.reward_timeout) as reward:
        progress = collect(
            prompts, limits, args.seed, lambda: start_engine(engine, args.engines), decode, reward, log, report
        )
        timeouts = reward.timeouts
    log.close([prompt.id for prompt in prompts])
    rows = sorted(log.rows.values(), key=log.key_of)
    summary = {
        "finished": True,
        "prompts": len(prompts),
        "samples": len(rows),
        "reward_mean": sum(row["reward"] for row in rows) / len(rows),
        "solved_prompts": len({row["id"] for row in rows if row["reward"] >= args.min_reward}),
        "truncated": sum(row["truncated"] for row in rows),
        "tokens": sum(row["tokens"] for row in rows),
        **select(args, rows),
        "settings": settings,
        "this_run": {
            "samples": progress.new,
            "reward_timeouts": timeouts,
            "seconds_sampling": round(progress.seconds, 3),
            "seconds_total": round(time.monotonic() - start, 3),
        },
    }
    write_json(args.output / "summary.json", summary)
    return summary


def show(console: Console, summary: dict[str, Any]) -> None:
    console.line(
        f"{PROGRAM}: reward {summary['reward_mean']:.3f} over {summary['samples']} responses, "
        f"{summary['solved_prompts']} of {summary['prompts']} prompts solved, {summary['truncated']} truncated, "
        f"{count(summary['tokens'])} tokens, {duration(summary['this_run']['seconds_total'])}"
    )
    what = {"all": "responses", "correct": "right responses", "pairs": "pairs"}[summary["select"]]
    kept = f"{summary['selected']} {what} of {summary['selected_prompts']} prompts"
    console.line(f"{PROGRAM}: {kept}: {summary['file']}")


def run(args: argparse.Namespace) -> int:
    """Sample into the output directory, libraries' output in its log; exit status."""
    args.output.mkdir(parents=True, exist_ok=True)
    log = args.output / "sample.log"
    status, message = 0, ""
    started = set(processes.descendants())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with output_to(log) as console:
        try:
            show(console, sample(args, console))
        except KeyboardInterrupt:
            status, message = 130, INTERRUPTED
        except Exception as error:
            traceback.print_exc()
            status, reason = explain(root_cause(error), log)
            message = f"{PROGRAM}: {reason}"
        finally:
            for name in (signal.SIGINT, signal.SIGTERM):
                signal.signal(name, signal.SIG_IGN)
            processes.end([process for process in processes.descendants() if process not in started])
        if status:
            console.line(message)
    return status


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage or input, 1 for a failed run, 130 when interrupted."""
    try:
        args = build_parser().parse_args(argv)
        check_files(args)
        if args.dry_run:
            print("\n".join(f"  {name} = {value}" for name, value in sorted(vars(args).items())))
            print("dry run: nothing was started")
            return 0
        return run(args)
    except (UserError, OSError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
