"""One vLLM engine as the project sets it up: its probabilities against the actor's, and its speed; prints JSON.

python tests/gpu/engine_check.py --model DIR --new-model DIR [--prompts 64] [--samples 8] [--tokens 128] [--attention TRITON_ATTN]
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time

import sending_policy
import torch

TEMPERATURE = 0.6
THRESHOLD = 0.9
BUCKET = 64 << 20  # bytes; the embedding is larger


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--new-model", required=True, help="the same shape with other weights, which are sent in buckets"
    )
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--attention")
    parser.add_argument("--utilization", type=float, default=0.3)
    return parser.parse_args()


class Engine:
    """vLLM's offline engine with the options of `spo_rlhf.rollout.engine`."""

    def __init__(self, options: argparse.Namespace):
        from vllm import LLM

        more = {"attention_backend": options.attention} if options.attention else {}
        start = time.monotonic()
        self.llm = LLM(
            model=options.model,
            dtype="bfloat16",
            enforce_eager=True,
            gpu_memory_utilization=options.utilization,
            max_model_len=1024,
            max_num_seqs=512,
            enable_prefix_caching=True,
            enable_sleep_mode=True,
            logprobs_mode="processed_logprobs",
            max_logprobs=1,
            skip_tokenizer_init=True,
            seed=0,
            worker_extension_cls="spo_rlhf.upstream_worker.BucketWorker",
            **more,
        )
        self.start_s = time.monotonic() - start

    def sample(
        self, prompts: list[list[int]], n: int, tokens: int, *, seeded: bool, temperature: float = TEMPERATURE
    ) -> tuple[list, float]:
        """vLLM's outputs and tokens a second."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=temperature,
                n=n,
                max_tokens=tokens,
                min_tokens=0,
                ignore_eos=True,
                seed=1000 + i if seeded else None,
                logprobs=0,
                detokenize=False,
            )
            for i in range(len(prompts))
        ]
        start = time.monotonic()
        outputs = self.llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        return outputs, len(prompts) * n * tokens / (time.monotonic() - start)

    def halve_embeddings(self) -> None:
        """New weights through the model's own loader, as OpenRLHF's worker extension hands them over."""

        def halve(worker):
            model = worker.model_runner.model
            [weight] = [p for name, p in model.named_parameters() if name.endswith("embed_tokens.weight")]
            model.load_weights(weights=[("model.embed_tokens.weight", weight.data[: worker.vocabulary].clone() * 0.5)])

        self.llm.collective_rpc(halve)
        self.llm.reset_prefix_cache()

    def take_buckets(self, model: str) -> dict[str, float]:
        """The weights of a model's folder from a process of the policy, in buckets by CUDA IPC: their number and seconds."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        with tempfile.TemporaryDirectory() as folder:
            policy = context.Process(target=sending_policy.policy_on_gpu, args=(theirs, folder, model, BUCKET))
            policy.start()
            arrived: list[float] = []

            def call(method: str, args: tuple) -> None:
                if method == "reset_prefix_cache":
                    self.llm.reset_prefix_cache()
                    return
                arrived.append(time.monotonic())
                self.llm.collective_rpc(method, args=args)

            *_, end = sending_policy.take(ours, call)
            took = time.monotonic() - arrived[0] if arrived else 0.0
            policy.join()
        assert end == ("sent", ([],)), end
        return {"buckets": len(arrived), "buckets_s": took}


def gaps(
    model: str, dtype: torch.dtype, prompts: list[list[int]], outputs: list, temperature: float = TEMPERATURE
) -> dict[str, float]:
    """The engine's log-probs of what it sampled, less those of a forward pass in transformers, as absolute values."""
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="sdpa").cuda()
    found, crossed = [], 0
    with torch.no_grad():
        for prompt, output in zip(prompts, outputs):
            for one in output.outputs[:2]:
                ids = torch.tensor([prompt + list(one.token_ids)], device="cuda")
                logits = plain(ids).logits[0, len(prompt) - 1 : -1].float() / temperature
                chosen = ids[0, len(prompt) :, None]
                ours = torch.log_softmax(logits, -1).gather(1, chosen)[:, 0].double().cpu()
                theirs = torch.tensor([at[t].logprob for t, at in zip(one.token_ids, one.logprobs)]).double()
                found.append((ours - theirs).abs())
                crossed += int(((ours.exp() < THRESHOLD) != (theirs.exp() < THRESHOLD)).sum())
    gap = torch.cat(found)
    return {
        "mean": float(gap.mean()),
        "p50": float(gap.quantile(0.5)),
        "p99": float(gap.quantile(0.99)),
        "max": float(gap.max()),
        "mask_differs": crossed / len(gap),
    }


def main() -> None:
    options = arguments()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    from transformers import AutoConfig

    vocabulary = AutoConfig.from_pretrained(options.model).vocab_size
    engine = Engine(options)
    print(f"engine ready after {engine.start_s:.0f} s", flush=True)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, vocabulary, (24,), generator=generator).tolist() for _ in range(options.prompts)]

    engine.sample(prompts, 1, options.tokens, seeded=True)  # kernels are compiled
    rates: dict[bool, list[float]] = {True: [], False: []}
    outputs = again = []
    for _ in range(3):  # in alternation
        for seeded in (True, False):
            sampled, rate = engine.sample(prompts, options.samples, options.tokens, seeded=seeded)
            rates[seeded].append(rate)
            if seeded:
                outputs, again = sampled, outputs
        print(f"round {len(rates[True])}: {rates}", flush=True)
    pairs = [(a.token_ids, b.token_ids) for x, y in zip(outputs, again) for a, b in zip(x.outputs, y.outputs)]
    figures = {
        "start_s": engine.start_s,
        "tokens_per_s_seeded": rates[True],
        "tokens_per_s_unseeded": rates[False],
        "same_again": sum(a == b for a, b in pairs) / len(pairs),
        "gap_float32": gaps(options.model, torch.float32, prompts, outputs),
        "gap_bfloat16": gaps(options.model, torch.bfloat16, prompts, outputs),
    }
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info()[0]
    start = time.monotonic()
    engine.llm.sleep(level=1)
    figures["sleep_s"] = time.monotonic() - start
    figures["sleep_frees_gib"] = (torch.cuda.mem_get_info()[0] - before) / 2**30
    start = time.monotonic()
    engine.llm.wake_up()
    figures["wake_s"] = time.monotonic() - start
    first = [one.outputs[0].token_ids for one in engine.sample(prompts, 1, options.tokens, seeded=True)[0]]

    def remember(worker, words=vocabulary):
        worker.vocabulary = words

    engine.llm.collective_rpc(remember)
    engine.halve_embeddings()
    changed = [one.outputs[0].token_ids for one in engine.sample(prompts, 1, options.tokens, seeded=True)[0]]
    figures["weights_change_seen"] = changed != first

    def greedy_gap() -> dict[str, float]:  # of a greedy token the engine gives the log-prob at temperature 1
        greedy, _ = engine.sample(prompts, 1, options.tokens, seeded=False, temperature=0.0)
        return gaps(options.new_model, torch.float32, prompts, greedy, temperature=1.0)

    figures["gap_before_buckets"] = greedy_gap()
    figures |= engine.take_buckets(options.new_model)
    figures["gap_after_buckets"] = greedy_gap()
    print(json.dumps(figures), flush=True)
    os._exit(0)  # vLLM's threads would keep the process for a while


if __name__ == "__main__":
    main()
