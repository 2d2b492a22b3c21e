"""Checks of everything that can be known before an engine starts. Each raises UserError with one line."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spo_rlhf import cpu, flash_attn_stand_in, upstream
from spo_rlhf.errors import UserError
from spo_rlhf.host import device, model_class, model_folder
from spo_rlhf.host.files import check_writable, is_local
from spo_rlhf.host.rows import RowFaults
from spo_rlhf.launch import cpu_memory, gpu_rules
from spo_rlhf.launch.bounds import NEVER
from spo_rlhf.launch.raw_labels import RawLabels
from spo_rlhf.launch.rows import PromptRow, PromptRows, check_jsonl, row_fault
from spo_rlhf.rollout.reward import FileReward
from spo_rlhf.rollout.texts import check_tokenizer


def check_options(args: SimpleNamespace, explicit: set[str]) -> list[str]:
    """Options against each other and against this machine; settles what the machine decides. Returns lines to show."""
    notes = []
    for name in ("actor.model_name_or_path", "data.prompt_dataset"):
        section, option = name.split(".")
        if not getattr(getattr(args, section), option):
            raise UserError(f"--{name} is missing")
    if not args.vllm.num_engines:
        raise UserError(
            "--vllm.num_engines is missing: responses and Monte Carlo continuations are sampled by vLLM; give 1 or more"
        )
    rollout, train = args.rollout, args.train
    samples = rollout.batch_size * rollout.n_samples_per_prompt
    if samples % train.batch_size:
        raise UserError(
            f"--train.batch_size {train.batch_size} does not divide --rollout.batch_size x --rollout.n_samples_per_prompt "
            f"= {samples}: the rest would leak into the next step"
        )
    ranks = upstream.policy_ranks(args)
    if not train.dynamic_batch_enable and train.batch_size % (train.micro_batch_size * ranks):
        raise UserError(
            f"--train.batch_size {train.batch_size} is not a multiple of --train.micro_batch_size x policy ranks "
            f"= {train.micro_batch_size} x {ranks}"
        )
    if (samples // rollout.micro_batch_size) % ranks or samples % rollout.micro_batch_size:
        raise UserError(
            f"--rollout.micro_batch_size {rollout.micro_batch_size} does not spread {samples} samples evenly over {ranks} policy ranks"
        )
    args.spo.method.check_batch(args, ranks)
    policy = args.actor.num_nodes * args.actor.num_gpus_per_node
    engines = args.vllm.num_engines * args.vllm.tensor_parallel_size
    if train.colocate_all and ranks and policy != engines:
        raise UserError(
            "--train.colocate_all needs as many engine devices (--vllm.num_engines x --vllm.tensor_parallel_size: "
            f"{engines}) as policy devices (--actor.num_nodes x --actor.num_gpus_per_node: {policy})"
        )
    if (
        args.critic.model_name_or_path
        and train.colocate_all
        and (
            args.critic.num_nodes * args.critic.num_gpus_per_node != args.actor.num_nodes * args.actor.num_gpus_per_node
        )
    ):
        raise UserError(
            "--train.colocate_all needs as many critic devices (--critic.num_gpus_per_node) as policy devices"
        )
    notes += settle_correction(args, explicit)
    check_objective(args)
    notes += check_attention(args, explicit)
    check_old_logprobs(args)
    notes += settle_packing(args)
    if cpu.is_cpu():
        notes += cpu.settle(args)
    notes += gpu_rules.settle(args, explicit)
    return notes + (cpu_memory.settle(args, device.machine_memory_bytes()) if cpu.is_cpu() else [])


def check_attention(args: SimpleNamespace, explicit: set[str]) -> list[str]:
    """Settle which attention runs where flash-attn is not installed. Returns lines to show."""
    if flash_attn_stand_in.is_installed():
        return []
    if args.ds.packing_samples:
        raise UserError(
            "--ds.packing_samples (also set by dynamic batches and ring attention) needs flash-attn, which is not installed"
        )
    if args.ds.attn_implementation != "flash_attention_2":
        return []
    if "ds.attn_implementation" in explicit:
        raise UserError("--ds.attn_implementation flash_attention_2: flash-attn is not installed; use sdpa")
    args.ds.attn_implementation = "sdpa"
    return ["--ds.attn_implementation sdpa: flash-attn is not installed"]


def settle_packing(args: SimpleNamespace) -> list[str]:
    """What `--spo.pack_trees` comes to. Returns lines to show. Raises UserError where it is on and cannot be."""
    if not args.spo.packs:
        return []
    from spo_rlhf.trainer.packed import ATTENTION, WINDOWED, attends_to_all, obstacle

    found, name = obstacle(args), args.actor.model_name_or_path
    reason = f"{found} does not go with it" if found else None
    folder = Path(name)
    if not reason and (folder / "config.json").is_file() and not attends_to_all(model_folder.read_config(folder)):
        reason = WINDOWED
    if reason is None:
        return []
    if args.spo.pack_trees == "on":
        needs = f"it needs --ds.attn_implementation {' or '.join(ATTENTION)} and samples that nothing else packs"
        raise UserError(f"--spo.pack_trees on: {reason}; {needs}")
    args.spo = dataclasses.replace(args.spo, pack_trees="off")
    return [f"--spo.pack_trees off: {reason}"]


def check_objective(args: SimpleNamespace) -> None:
    """Clip bounds and mismatch correction, by building the loss as the actor will."""
    from spo_rlhf.trainer.policy_loss import SegmentPolicyLoss

    try:
        SegmentPolicyLoss(args)
    except ValueError as error:
        flags = "--spo.clip_low, --spo.clip_high, --spo.dual_clip and --algo.advantage.is_correction_*"
        raise UserError(f"{error}; see {flags}") from None


def settle_correction(args: SimpleNamespace, explicit: set[str]) -> list[str]:
    """Where sampling runs ahead, what tells the policy that sampled from the one that trains. Returns lines to show.

    The ratio is measured from the engine's log-probs where it can be. Elsewhere it is measured from the policy at the beginning of
    the step, and OpenRLHF's correction stands for what lies between.
    """
    level, correction = "algo.advantage.is_correction_level", args.algo.advantage
    if not args.spo.max_staleness or args.spo.old_logprobs == "engine":
        return []
    if args.rollout.top_p < 1 and correction.is_correction_level == "off" and level not in explicit:
        raise UserError(
            "--train.async_enable: under --rollout.top_p the engine's log-probs are those of the tokens that it leaves, so nothing tells "
            f"how old a sample is; sample with top_p 1, or train it as if it were new, which is biased, with --{level} off"
        )
    if "spo.old_logprobs" not in explicit and correction.is_correction_level == "off" and not engine_fault(args):
        args.spo = dataclasses.replace(args.spo, old_logprobs="engine")
        return ["--spo.old_logprobs engine: the policy is ahead of what was sampled, and the ratio says by how much"]
    if level not in explicit:
        correction.is_correction_level = "token"
        return [f"--{level} token: the policy is ahead of what was sampled"]
    if correction.is_correction_level == "off":
        return [f"--{level} off: what an older policy sampled is trained as if the present one had, which is biased"]
    return []


def engine_fault(args: SimpleNamespace) -> str | None:
    """Why the engine's log-probs cannot be the old ones; None where they can."""
    from spo_rlhf.trainer.trained import wanted_by

    if args.rollout.top_p < 1:
        return (
            "--spo.old_logprobs engine: the engine's log-probs are those of the tokens that --rollout.top_p leaves, the "
            "actor's of all; sample with top_p 1, or leave it out"
        )
    if reason := wanted_by(args) or ("--spo.mode probe" if args.spo.method.hidden_features else None):
        return f"--spo.old_logprobs engine spares the forward pass that {reason} needs; leave one of them out"
    return None


def check_old_logprobs(args: SimpleNamespace) -> None:
    """What compares the engine's log-probs with the actor's, `--spo.old_logprobs engine` and corrections, needs them of the
    whole distribution; and the former nothing that wants a pass of its own. Raises UserError.
    """
    corrects = args.algo.advantage.is_correction_level != "off"
    if corrects and args.rollout.top_p < 1:
        raise UserError(
            f"--algo.advantage.is_correction_level {args.algo.advantage.is_correction_level}: the engine's log-probs are those of the "
            "tokens that --rollout.top_p leaves, the actor's of all, so it would correct for that; sample with top_p 1, or leave it out"
        )
    if args.spo.old_logprobs == "actor":
        return
    if fault := engine_fault(args):
        raise UserError(fault)
    if corrects:
        raise UserError(
            "--spo.old_logprobs engine measures the ratio from the engine, so --algo.advantage.is_correction_level has "
            "nothing to correct; leave one of them out"
        )


def load_tokenizer(args: SimpleNamespace, role: str = "actor"):
    """The tokenizer of a role's model, as OpenRLHF loads it. Raises UserError."""
    name, use_fast = getattr(args, role).model_name_or_path, not args.data.disable_fast_tokenizer
    try:
        tokenizer = upstream.get_tokenizer(name, None, "left", use_fast=use_fast)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"--{role}.model_name_or_path {name}: its tokenizer cannot be loaded ({type(error).__name__}: {reason})"
        ) from None
    model_folder.check_tokenizer(tokenizer, f"--{role}.model_name_or_path", name)
    return tokenizer


def check_token_texts(args: SimpleNamespace) -> None:
    """The tokenizer gives the text of each token where partition or ratio level look at text."""
    by_level = "--spo.ratio_level subsentence" if args.spo.ratio_level == "subsentence" else None
    flag = by_level or args.spo.method.text_flag()
    if flag:
        tokenizer = load_tokenizer(args)
        check_tokenizer(tokenizer, args.actor.model_name_or_path, flag)


def check_model(role: str, name: str, *, must_load: bool) -> None:
    """The model's configuration can be read, runs no code unasked, and its files are whole.

    A name on a hub is looked at only where `must_load`.

    Raises UserError.
    """
    flag = f"--{role}.model_name_or_path"
    if is_local(name):
        if not (Path(name) / "config.json").is_file():
            raise UserError(
                f"{flag} {name}: no such folder with a config.json; give a Hugging Face model folder or name"
            )
        model_folder.check_code(name, flag)
        model_folder.check_folder(Path(name), flag)
        check_kind(name, flag)
    elif must_load:
        try:
            model_folder.check_code(name, flag)
            model_config(name)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{flag} {name}: no such folder, and the hub gave {type(error).__name__}; give a local folder"
            ) from None


def model_config(name: str) -> Any:
    """The configuration of a model, a folder or on the hub. Raises what transformers raises."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(name, trust_remote_code=model_folder.code_is_trusted())


def check_weights(role: str, name: str, *, trains: bool = True) -> list[str]:
    """The weights of a local model are those of the model that its configuration makes. Lines to show. Raises UserError."""
    flag = f"--{role}.model_name_or_path"
    return model_class.check_weights(Path(name), flag, role=role, trains=trains) if is_local(name) else []


def check_kind(name: str, flag: str) -> None:
    """transformers knows the kind of model that a folder's config.json names. Raises UserError."""
    if "model_type" not in model_folder.read_config(Path(name)):
        return  # the library that loads it finds out by other means, or says so
    try:
        model_config(name)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:150]
        raise UserError(f"{flag} {name}: its config.json cannot be used ({type(error).__name__}: {reason})") from None


def check_fit(args: SimpleNamespace, role: str = "actor") -> None:
    """A local model takes as many tokens as a sample may have, and knows all tokens of its tokenizer. Raises UserError."""
    name = getattr(args, role).model_name_or_path
    if not is_local(name):
        return
    config = model_folder.read_config(Path(name))
    limit = model_folder.positions(config)
    if limit is not None and args.data.max_len > limit:
        raise UserError(
            f"--data.max_len {args.data.max_len}: {name} takes {limit} tokens; lower it, or stretch the model"
        )
    model_folder.check_vocabulary(config, load_tokenizer(args, role), f"--{role}.model_name_or_path", name)


def check_split(args: SimpleNamespace) -> None:
    """The heads of a local model can be split among the devices of an engine. Raises UserError."""
    name, size = args.actor.model_name_or_path, args.vllm.tensor_parallel_size
    if size == 1 or not is_local(name):
        return
    config = model_folder.read_config(Path(name))
    heads = (config.get("text_config") or config).get("num_attention_heads")
    if isinstance(heads, int) and heads % size:
        raise UserError(
            f"{name}: its {heads} attention heads cannot be split among --vllm.tensor_parallel_size {size} devices; give a divisor"
        )


def check_reward(args: SimpleNamespace) -> None:
    """The reward file exists (its function is tried by `check_rows`)."""
    for address in args.reward.remote_url or []:
        if address == "agent":
            if not Path(args.train.agent_func_path).is_file():
                raise UserError(f"--train.agent_func_path {args.train.agent_func_path}: no such file")
        elif not address.startswith(("http://", "https://")):
            if not (address.endswith(".py") and Path(address).is_file()):
                raise UserError(f"--reward.remote_url {address}: no such .py file, and no HTTP address")


def check_dataset(
    args: SimpleNamespace, flag: str, names: str, split: str, *, must_load: bool, notes: list[str] | None = None
) -> list[PromptRow]:
    """Prompts and labels of the dataset that `flag` names, every row checked. Empty for a hub name unless `must_load`.

    Labels that are numbers, true or false become texts. What is to be shown is added to `notes`. Raises UserError.
    """
    files = [name.strip().split("@")[0] for name in names.split(",")]
    for name in files:
        if is_local(name) and not Path(name).exists():
            raise UserError(f"--{flag} {name}: no such file or folder")
    if not (must_load or all(map(is_local, files))):
        return []
    keys = {option: key for option in ("input_key", "label_key") if (key := getattr(args.data, option))}
    chat, tokenizer = bool(args.data.apply_chat_template), load_tokenizer(args)
    form = args.spo.prompt_format(args.data)
    form.check(tokenizer, args.actor.model_name_or_path, "--data.apply_chat_template")
    lines = [name for name in files if is_local(name) and name.endswith(".jsonl")]
    for name in lines:
        check_jsonl(flag, name, keys, chat=chat, prompts=prompt_rows(args, tokenizer), most=args.data.max_samples)
    rows, prompts, faults = load_rows(args, flag, names, split), prompt_rows(args, tokenizer), RowFaults()
    mixed = flag == "data.prompt_dataset" and bool(args.data.prompt_probs)
    labels = RawLabels(files, label, mixed=mixed) if (label := keys.get("label_key")) else None
    for number, row in enumerate(rows, start=1):
        changed = labels.fault(number, row.get(label)) if labels else None
        if fault := changed or row_fault(row, keys, chat=chat) or prompts.take(number, row):
            faults.add(number, fault)
    if lines != files:
        prompts.add_unfit(faults, args.data.max_samples)
    faults.refuse(f"--{flag} {names}")
    pairs = list(prompts.pairs.values())
    if notes is not None and prompts.token_ids.is_doubled(pairs[0][0]):
        notes.append(f"--{flag}: prompts spell the beginning-of-text token that is added to each; they get it once")
    return pairs


def prompt_rows(args: SimpleNamespace, tokenizer: Any) -> PromptRows:
    """What makes prompts and labels of rows, as the run will."""
    data, form = args.data, args.spo.prompt_format(args.data)

    def to_pair(row: Any) -> tuple[str, Any]:
        return form.pair(row, tokenizer, data.input_key, data.label_key)

    return PromptRows(to_pair, form.token_ids(tokenizer), data.max_len)


#: The option with the split of each option with a data set.
SPLITS = {
    "data.prompt_dataset": "data.prompt_split",
    "data.dataset": "data.dataset_split",
    "eval.dataset": "eval.split",
}


def load_rows(args: SimpleNamespace, flag: str, names: str, split: str) -> Any:
    """The rows of the dataset that the run will use, loaded as OpenRLHF does. Raises UserError."""
    strategy = SimpleNamespace(args=args, print=lambda *_: None, is_rank_0=lambda: False)
    probabilities = {"data.prompt_dataset": "prompt_probs", "data.dataset": "dataset_probs"}.get(flag)
    probabilities = probabilities and getattr(args.data, probabilities)
    try:
        rows = upstream.blending_datasets(names, probabilities, strategy, args.train.seed, dataset_split=split)
    except Exception as error:
        if "DatasetDict" in str(error):  # all splits together, which OpenRLHF takes where the one asked for is missing
            raise UserError(f"--{flag} {names}: it has no split {split!r}; set --{SPLITS[flag]}") from None
        raise UserError(
            f"--{flag} {names}: cannot be read ({type(error).__name__}); give a dataset name or a local .jsonl file"
        ) from None
    rows = rows.select(range(min(args.data.max_samples, len(rows))))
    if len(rows) == 0:
        raise UserError(f"--{flag} {names}: it has no rows")
    return rows


def try_reward(args: SimpleNamespace, prompt: str, label: str) -> set[Path]:
    """Grade an empty response to the first prompt: a reward function that raises or returns the wrong shape fails here.

    Returns what `FileReward.files` says then; of another reward than a file nothing.
    """
    addresses = args.reward.remote_url or []
    if not (addresses and addresses[0].endswith(".py")):
        return set()
    with FileReward(addresses[0], workers=1, timeout_s=args.spo.reward_timeout) as reward:
        reward.submit(prompt, prompt, label).result()
        files = reward.files()
    if reward.counts.timeouts:
        raise UserError(
            f"--reward.remote_url {addresses[0]}: grading an empty response took more than --spo.reward_timeout "
            f"{args.spo.reward_timeout:g} s; make it faster or raise the limit"
        )
    return files


def check_inputs(args: SimpleNamespace, *, must_load: bool, notes: list[str] | None = None) -> list[PromptRow]:
    """Model, datasets and reward. Names on a hub are read only where `must_load` (a dry run leaves them).

    What is to be shown is added to `notes`. Returns the prompts to train on, none where they are not read.
    """
    train_rows: list[PromptRow] = []
    shown = []
    for role in ("actor", "critic", "reward"):
        names = getattr(args, role).model_name_or_path
        for name in map(str.strip, names.split(",") if names else []):
            check_model(role, name, must_load=must_load)
            shown += check_weights(role, name)
    if notes is not None:
        notes += shown
    weights = model_folder.weights_size(args.actor.model_name_or_path)
    saves = 0 < args.ckpt.save_steps < NEVER
    check_writable("--spo.run_dir", args.spo.run_dir or ".")
    check_writable("--ckpt.output_dir", args.ckpt.output_dir, weights)
    check_writable("--ckpt.path", args.ckpt.path, weights * saves)
    check_reward(args)
    readable = must_load or is_local(args.actor.model_name_or_path)
    datasets = [("data.prompt_dataset", args.data.prompt_dataset, args.data.prompt_split)]
    if args.eval.dataset:
        datasets.append(("eval.dataset", args.eval.dataset, args.eval.split))
    if readable:
        check_token_texts(args)
        check_fit(args)
        check_split(args)
    for flag, names, split in datasets if readable else []:
        pairs = check_dataset(args, flag, names, split, must_load=must_load, notes=notes)
        if pairs and flag == "data.prompt_dataset":
            train_rows = pairs
            if len(pairs) < args.rollout.batch_size:
                raise UserError(
                    f"--data.prompt_dataset {names}: {len(pairs)} rows do not fill one --rollout.batch_size of {args.rollout.batch_size}"
                )
            try_reward(args, pairs[0].prompt, pairs[0].label)
    return train_rows
