"""The command `run`: sample, grade while sampling, store each sample as it finishes, resume where a run stopped."""

import functools
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evaluation.contexts import check_graded, response_budget
from evaluation.prompts import choose_prompt, load_examples, prompt_format, published_match, question
from evaluation.recorder import Prompted, Recorder, graded_by, update
from evaluation.settings import (
    DECIDING,
    HOLDS,
    SAMPLE_KEY,
    RunOptions,
    RunSettings,
    graded_contexts,
    write_settings,
)
from evaluation.stored import write_results
from evaluation.tasks import LoadedTask, data_hash, load_tasks
from spo_rlhf.errors import UserError
from spo_rlhf.graders.parallel import Grader
from spo_rlhf.host import model_class, model_folder, ray_start
from spo_rlhf.host.files import check_writable, is_local, only_writer
from spo_rlhf.sampling.engine import EngineSettings, Request, Response, start_engine
from spo_rlhf.sampling.graded_by import GradedBy
from spo_rlhf.sampling.manifest import Manifest, claim, manifest_of, prompt_keys, request_seed, text_hash
from spo_rlhf.sampling.sample_log import SampleLog
from spo_rlhf.tasks.task import Prompt


def run(settings: RunSettings, options: RunOptions) -> dict[str, Any]:
    """Evaluate and write DIR/results.json; returns what it holds.

    Raises:
        UserError: wrong settings, data or model, or another command writes into DIR; nothing has been sampled then.
    """
    _check_folders(settings, options)
    for note in ray_start.settle_temp_dir():
        _say(note)
    tasks = load_tasks(settings.tasks, options.data_dir, settings.limit)
    for note in (note for task in tasks for note in task.notes):
        _say(note)
    tokenizer, limit = _load_tokenizer(settings, options)
    prompted = [item for task in tasks for item in _prompts(task, settings, tokenizer)]
    engine = _engine_settings(
        settings, options, _model_length(settings, prompted, limit), _stop_strings(tasks, settings)
    )
    manifest = _manifest(tasks, settings, tokenizer)
    with only_writer("--output", options.output):
        if aside := claim(options.output, manifest, HOLDS, options.fresh):
            _say(f"samples of something else moved to {aside}")
        write_settings(settings, options.output)
        logs = {task.name: SampleLog(options.output / "samples" / f"{task.name}.jsonl", SAMPLE_KEY) for task in tasks}
        requests, items = _requests(settings, prompted, logs)
        for name, log in logs.items():
            stored = [log.rows[key[1:]] for key in items if key[0] == name and key[1:] in log.rows]
            check_graded(log.path, stored, graded_contexts(settings), settings.separate_contexts)
        if requests:  # until they are answered the results are those of other samples than the folder's
            (options.output / "results.json").unlink(missing_ok=True)
        decode = functools.partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        with Grader(options.grade_workers) as grader:
            code = graded_by(options.output, grader)
            _update(grader, logs, items, code)
            recorder = Recorder(grader, code, settings, graded_contexts(settings), logs, items, decode, options.quiet)
            _sample(requests, recorder, engine, options)
            recorder.finish()
            for log in logs.values():
                code.settle(log)
        rows = {name: log.close([key[1:] for key in items if key[0] == name]) for name, log in logs.items()}
        return write_results(settings, options.output, tasks_known(prompted), rows)


def _check_folders(settings: RunSettings, options: RunOptions) -> None:
    """The output can be written, and a local model is whole and runs no code unasked. Raises UserError."""
    check_writable("--output", str(options.output))
    model_folder.trust_code(options.trust_remote_code)
    if is_local(settings.model):
        if not Path(settings.model).is_dir():
            raise UserError(f"--model {settings.model}: no such folder")
        model_folder.check_code(settings.model, "--model", "--trust-remote-code")
        model_folder.check_folder(Path(settings.model), "--model")


def _say(line: str) -> None:
    print(f"spo-eval run: {line}", file=sys.stderr)


def _update(
    grader: Grader, logs: dict[str, SampleLog], items: dict[tuple[object, ...], Prompted], code: GradedBy
) -> None:
    """Make stored samples say what their problems are now, and tell how many were graded again for it."""
    again = {
        name: update(grader, log, {key[1:]: item for key, item in items.items() if key[0] == name}, code)
        for name, log in logs.items()
    }
    for name, count in again.items():
        if count:
            _say(
                f"{name}: {count} stored samples graded again, their right answers have changed, or the code that grades them"
            )


def _manifest(tasks: list[LoadedTask], settings: RunSettings, tokenizer: Any) -> Manifest:
    """What decides this run's samples, beside the problems."""
    decides = {name: getattr(settings, name) for name in DECIDING}
    for task in tasks:
        prompt, examples, template = _asked(task, settings, tokenizer)
        chat = repr(template or tokenizer.chat_template) if prompt.chat else None
        decides |= {
            f"prompt template of {task.name}": asdict(prompt),
            f"chat template of {task.name}": None if chat is None else text_hash(chat),
            f"few-shot examples of {task.name}": text_hash(repr(examples)) if examples else None,
        }
    return manifest_of("spo-eval", settings.model, decides, _say)


def _sample(requests: list[Request], recorder: Recorder, settings: EngineSettings, options: RunOptions) -> None:
    """Hand a response to every request to the recorder; the engine starts only where there is something to sample."""
    for request in requests:
        if request.max_tokens < 1:  # the prompt alone fills the context
            recorder.add(Response(request.key, (), "", False))
    requests = [request for request in requests if request.max_tokens >= 1]
    if not requests:
        return
    if not options.quiet:
        print(f"Starting vLLM for {settings.model} ...", file=sys.stderr)
    engine = start_engine(settings, options.data_parallel)
    recorder.start()
    try:
        for response in engine.generate(requests):
            recorder.add(response)
    finally:
        engine.close()


def _engine_settings(
    settings: RunSettings, options: RunOptions, model_length: int, stop: tuple[str, ...]
) -> EngineSettings:
    return EngineSettings(
        model=settings.model,
        max_model_len=model_length,
        temperature=settings.temperature,
        top_p=settings.top_p,
        stop=stop,
        seed=settings.seed,
        tensor_parallel=options.tensor_parallel,
        gpu_memory_utilization=options.gpu_memory_utilization,
        dtype=settings.dtype,
        trust_remote_code=options.trust_remote_code,
        eager=options.eager,
    )


def tasks_known(prompted: list[Prompted]) -> dict[str, dict[str, Any]]:
    """What is known of each task beside its scores.

    Answer kind, number of problems, a hash of questions and answers, and which published prompts its own reproduce.
    """
    known = {}
    for task in dict.fromkeys(item.task.name for item in prompted):
        mine = [item for item in prompted if item.task.name == task]
        data = data_hash([item.problem for item in mine])
        known[task] = {
            "kind": mine[0].task.task.kind,
            "problems": len(mine),
            "data": data,
            "published_prompts": published_match(task, [item.question for item in mine], [item.text for item in mine]),
        }
    return known


def _load_tokenizer(settings: RunSettings, options: RunOptions) -> tuple[Any, int | None]:
    """The model's tokenizer and the longest sequence it takes (None: unknown)."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        model_folder.check_code(settings.model, "--model", "--trust-remote-code")
        config = AutoConfig.from_pretrained(settings.model, trust_remote_code=options.trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(settings.model, trust_remote_code=options.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:150]
        raise UserError(
            f"--model {settings.model}: neither a folder here nor loaded from the hub ({reason}); "
            "give a folder with config.json, weights and tokenizer, or download the model first"
        ) from error
    model_folder.check_tokenizer(tokenizer, "--model", settings.model)
    model_folder.check_vocabulary(config.to_dict(), tokenizer, "--model", settings.model)
    for note in model_class.check_weights(Path(settings.model), "--model") if is_local(settings.model) else ():
        _say(note)
    return tokenizer, model_folder.positions(config.to_dict())


def _prompt_of(task: LoadedTask, settings: RunSettings) -> Prompt:
    return choose_prompt(settings.prompt, settings.system, settings.chat_template, own=task.task.asked)


def _stop_strings(tasks: list[LoadedTask], settings: RunSettings) -> tuple[str, ...]:
    """The stop strings of all tasks' prompts: an engine has one set of them."""
    stops = {_prompt_of(task, settings).stop for task in tasks}
    if len(stops) > 1:
        raise UserError(
            "--tasks: these tasks' prompts end differently (stop strings); run them apart, or give one --prompt"
        )
    return stops.pop()


def _asked(
    task: LoadedTask, settings: RunSettings, tokenizer: Any
) -> tuple[Prompt, list[dict[str, str]] | None, str | None]:
    """How a task's problems are asked: prompt, solved examples, and the chat template that is not the model's own."""
    prompt = _prompt_of(task, settings)
    examples = None
    if settings.few_shot:
        if not settings.few_shot_file:
            raise UserError("--few-shot needs --few-shot-file with solved examples")
        examples = load_examples(settings.few_shot_file, settings.few_shot)
    template = None
    if settings.chat_template not in ("auto", "model", "none"):
        try:
            template = Path(settings.chat_template).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"--chat-template: {settings.chat_template!r} is neither auto, model, none nor a file"
            ) from error
    is_base_model = not tokenizer.chat_template and template is None
    if is_base_model and settings.chat_template == "auto" and settings.prompt is None:
        prompt = replace(prompt, chat=False, system=settings.system)
    return prompt, examples, template


def _prompts(task: LoadedTask, settings: RunSettings, tokenizer: Any) -> list[Prompted]:
    prompt, examples, template = _asked(task, settings, tokenizer)
    system_by = f"--prompt {settings.prompt} with a system message" if settings.system is None else "--system"
    form = prompt_format(prompt, settings.model, tokenizer, template, system_by)
    questions = [question(prompt, problem.text, examples) for problem in task.problems]
    rendered = form.read(questions, tokenizer)
    if form.token_ids(tokenizer).is_doubled(rendered[0][0]):
        _say(f"{task.name}: prompts spell the beginning-of-text token that is added to each; they get it once")
    if empty := [problem.id for problem, (_, ids) in zip(task.problems, rendered, strict=True) if not ids]:
        raise UserError(f"--tasks {task.name}: problem {empty[0]} is a prompt of no tokens; drop it")
    keys = prompt_keys(token_ids for _, token_ids in rendered)
    return [
        Prompted(task, problem, asked, text, token_ids, key)
        for problem, asked, (text, token_ids), key in zip(task.problems, questions, rendered, keys)
    ]


def _model_length(settings: RunSettings, prompted: list[Prompted], limit: int | None) -> int:
    longest = max(settings.contexts)
    if settings.budget == "response":
        longest += max(len(item.token_ids) for item in prompted)
    if limit is not None and longest > limit:
        raise UserError(f"--contexts: {longest} tokens are needed, the model takes {limit}")
    return longest


def _requests(
    settings: RunSettings, prompted: list[Prompted], logs: dict[str, SampleLog]
) -> tuple[list[Request], dict[tuple[object, ...], Prompted]]:
    """The requests still to be made, and every key of the run with its prompt."""
    items, requests = {}, []
    for context in settings.contexts if settings.separate_contexts else [max(settings.contexts)]:
        for item in prompted:
            for sample in range(settings.samples or item.task.task.samples):
                key = (item.task.name, item.key, sample, context)
                items[key] = item
                if key[1:] not in logs[item.task.name].rows:
                    budget = response_budget(context, len(item.token_ids), settings.budget)
                    requests.append(Request(key, item.token_ids, budget, request_seed(settings.seed, item.key, sample)))
    return requests, items
