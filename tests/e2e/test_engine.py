"""New weights in a running vLLM engine: its log-probabilities of a fixed text are those of the new weights, after every sync."""

import asyncio

import pytest
import stack
import torch

from spo_rlhf import cpu

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not cpu.is_cpu(), reason="the sync without a GPU"),
]
TEXT = [5, 6, 7, 8, 9, 10, 11, 12] * 6


async def gaps_after_syncs(model_dir: str, syncs: int) -> list[float]:
    import vllm
    from transformers import AutoModelForCausalLM
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    arguments = vllm.AsyncEngineArgs(
        model=model_dir,
        max_model_len=256,
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",
        max_num_seqs=8,
        **cpu.engine_kwargs(256),
    )
    llm = vllm.AsyncLLMEngine.from_engine_args(arguments)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    params = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY)

    async def gap(request_id: str) -> float:
        async for output in llm.generate(TokensPrompt(prompt_token_ids=TEXT), params, request_id=request_id):
            engine_T = [at[token].logprob for token, at in zip(TEXT[1:], output.prompt_logprobs[1:])]
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([TEXT])).logits[0, :-1].float(), -1)
        actor_T = logp.gather(1, torch.tensor(TEXT[1:])[:, None])[:, 0]
        return (actor_T - torch.tensor(engine_T)).abs().max().item()

    try:
        gaps = [await gap("initial")]
        for sync in range(syncs):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
            gaps.append(await gap(f"stale{sync}"))
            await cpu.load_weights(llm, {name: p.detach().numpy().copy() for name, p in model.named_parameters()})
            gaps.append(await gap(f"synced{sync}"))
        return gaps
    finally:
        llm.shutdown()


def test_fixed_text_after_every_sync(tmp_path, monkeypatch):
    for name, value in cpu.worker_environment().items():
        monkeypatch.setenv(name, value)
    task = stack.make_task(tmp_path, train=16, test=8)
    initial, *after = asyncio.run(gaps_after_syncs(str(task / "model"), syncs=3))
    stale, synced = after[::2], after[1::2]
    assert initial < 1e-3 and max(synced) < 1e-3
    assert min(stale) > 1e-2, "the weights changed too little for the test to see a missed sync"
