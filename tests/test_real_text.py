"""What examples/scripts/smollm2_gsm8k.sh is made of, and a tokenizer in the manner of its model's: digits one by one, chat turns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from spo_rlhf.core.partition import cutpoint_boundaries
from spo_rlhf.errors import UserError
from spo_rlhf.host.files import read_jsonl
from spo_rlhf.rollout.prompts import PromptFormat
from spo_rlhf.rollout.texts import token_texts

SCRIPTS = Path(__file__).parents[1] / "examples" / "scripts"
sys.path.insert(0, str(SCRIPTS / "lib"))
import cut_places  # noqa: E402
import short_gsm8k  # noqa: E402
import smollm2_model  # noqa: E402

SOLUTION = "She sold 48+24 = 72 clips.\n#### 72"
TURNS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def tokenizer():
    """Byte-level pairs with a token for each digit and each end of a turn; its file names another end of text, as a GGUF's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=TURNS, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([SOLUTION] * 9, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=TURNS[0], bos_token=TURNS[0])
    made.chat_template = CHAT
    return made


def test_the_end_of_a_turn_is_the_end_of_text_and_no_padding(tokenizer):
    assert tokenizer.eos_token == "<|endoftext|>"
    smollm2_model.settle_ends(tokenizer)
    assert tokenizer.convert_ids_to_tokens([tokenizer.eos_token_id, tokenizer.pad_token_id]) == [TURNS[2], TURNS[0]]
    # Padded on the left, the only tokens that are masked are those of the padding, not the ends of turns in the prompt.
    texts = ["<|im_start|>user\nhow many<|im_end|>", "72<|im_end|>"]
    batch = tokenizer(texts, padding=True, padding_side="left")
    single = [tokenizer(text)["input_ids"] for text in texts]
    for ids, mask, alone in zip(batch["input_ids"], batch["attention_mask"], single, strict=True):
        assert [one for one, kept in zip(ids, mask) if kept] == alone and alone[-1] == tokenizer.eos_token_id


def test_another_vocabulary_is_refused(tokenizer):
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(UserError, match="not the model that is meant"):
        smollm2_model.settle_ends(plain)


def test_a_prompt_by_the_chat_template_is_tokenised_once(tokenizer):
    smollm2_model.settle_ends(tokenizer)
    [(text, ids)] = PromptFormat(chat=True).read(["how many clips?"], tokenizer)
    assert text == "<|im_start|>user\nhow many clips?<|im_end|>\n<|im_start|>assistant\n"
    starts = [tokenizer.convert_tokens_to_ids(one) for one in TURNS]
    assert [ids.count(one) for one in starts] == [0, 2, 1] and tokenizer.decode(ids) == text


def test_cutpoints_fall_inside_words_and_numbers_and_texts_still_add_up(tokenizer):
    smollm2_model.settle_ends(tokenizer)
    ids = [*tokenizer(SOLUTION)["input_ids"], tokenizer.eos_token_id]
    texts = token_texts(tokenizer, ids)
    assert "".join(texts).removesuffix(TURNS[2]) == SOLUTION
    hesitant = {
        texts.index("4") + 1: "inside a number",  # 4|8
        texts.index("7"): "before a result's first digit",
        len(ids) - 3: "before the answer's first digit",
        len(ids) - 1: "at the end of the response",
    }
    probs = [0.2 if t in {0, *hesitant} else 0.99 for t in range(len(ids))]  # the first segment begins with a cutpoint
    boundaries = cutpoint_boundaries(probs, 0.9, 1)
    assert boundaries[1:-1] == sorted(hesitant)
    assert cut_places.places(texts, boundaries[1:-1]) == [hesitant[t] for t in sorted(hesitant)]


@pytest.mark.parametrize(
    ("before", "behind", "where"),
    [
        ("48+2", "4 = 72", "inside a number"),
        ("$1,2", "34.50", "inside a number"),
        ("$1,", "234", "inside a number"),
        ("12", ".5 of", "inside a number"),
        ("She sold 12.", " Then", "before a word"),
        ("Bill", "ie has", "inside a word"),
        ("Weng'", "s 3", "inside a word"),
        ("48+24 =", " 72", "before a result's first digit"),
        ("48+24 = $", "72", "before a result's first digit"),
        ("clips.\n####", " 72", "before the answer's first digit"),
        ("clips.\n#### ", "72", "before the answer's first digit"),
        ("sold", " 48", "before another number"),
        ("48", "+24", "before an operator"),
        ("48 ", "x 24", "before an operator"),
        ("She", " xylophone", "before a word"),
        ("clips.", "\n####", "at the end of a line"),
        ("clips.\n", "####", "at the end of a line"),
        ("#### 72", "<|im_end|>", "at the end of the response"),
        ("#### 72", "", "at the end of the response"),
        ("clips", ".", "before another sign"),
    ],
)
def test_a_place_has_its_name(before, behind, where):
    assert cut_places.place(before, behind) == where


def test_places_are_counted_for_segments_cutpoints_and_tokens():
    row = {"token_texts": ["1", "2", " =", " 12", "\n"], "cuts": [1, 1, 0, 1, 0], "boundaries": [0, 3, 5]}
    found = cut_places.count([row, row])
    assert found["segments"] == {"before a result's first digit": 2}
    assert found["cutpoints"] == {"inside a number": 2, "before a result's first digit": 2}
    assert sum(found["tokens"].values()) == 8


PUBLISHED = {"question": "How many? ", "answer": "48/2 = <<48/2=24>>24 clips.\n#### 72"}
TAKEN_APART = {"problem": "How many?", "answer": "72", "solution": "48/2 = <<48/2=24>>24 clips.\n#### 72"}


@pytest.mark.parametrize("row", [PUBLISHED, TAKEN_APART])
def test_rows_of_gsm8k_in_either_form_lose_the_calculators_notes(row):
    assert short_gsm8k.worked(row, "row 1") == {
        "problem": "How many?",
        "solution": "48/2 = 24 clips.\n#### 72",
        "answer": "72",
    }


@pytest.mark.parametrize("row", [{"problem": "How many?", "answer": "72"}, {"question": 3, "answer": "#### 3"}, {}])
def test_a_row_without_a_worked_solution_is_named(row):
    with pytest.raises(UserError, match="^data.jsonl: row 7: give "):
        short_gsm8k.worked(row, "data.jsonl: row 7")


def write_rows(path: Path, number: int) -> Path:
    rows = [{"question": f"a {i}?", "answer": f"{i}\n#### {i}"} for i in range(number)]
    rows += [{"question": "a" * 99, "answer": "1\n#### 1"}, {"question": "a 0?", "answer": "5\n#### 5"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_short_problems_are_in_one_file_each(tokenizer, tmp_path, capsys):
    tokenizer.save_pretrained(tmp_path / "model")
    data, sizes = write_rows(tmp_path / "data.jsonl", 12), ("--train", "4", "--test", "3", "--warm-up", "5")
    arguments = [str(data), str(tmp_path / "out"), "--model", str(tmp_path / "model"), "--question-tokens", "9", *sizes]
    assert short_gsm8k.main(arguments) == 0
    files = {name: list(read_jsonl(tmp_path / "out" / f"{name}.jsonl")) for name in ("train", "test", "sft")}
    problems = [row["problem"] for rows in files.values() for row in rows]
    assert len(set(problems)) == len(problems) == 12 and "a" * 99 not in problems
    assert set(files["sft"][0]) == {"problem", "solution"} and set(files["test"][0]) == {"problem", "answer"}
    assert short_gsm8k.main([*arguments[:-1], "6"]) == 2
    assert "12 short problems, 13 wanted" in capsys.readouterr().err
    arguments[arguments.index("--model") + 1] = str(tmp_path / "none")
    assert short_gsm8k.main(arguments) == 2
    assert capsys.readouterr().err.endswith("none: no such folder; smollm2_gsm8k.sh's stage model makes it\n")


def script(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in ("DATA", "STEPS")}
    return subprocess.run(
        ["bash", str(SCRIPTS / "smollm2_gsm8k.sh"), *arguments],
        env={**environment, "PYTHON": sys.executable, **variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        ((), {}, "set DATA=FILE.jsonl"),
        ((), {"DATA": "/nowhere/a.jsonl"}, "DATA=/nowhere/a.jsonl: no such file"),
        (("trian",), {}, "stage 'trian': choose from model data"),
        (("--smoke",), {}, "unknown option --smoke"),
        ((), {"DATA": __file__, "STEPS": "many"}, "STEPS=many: give a whole number"),
        ((), {"DATA": __file__, "STEPS": "13"}, "STEPS=13: give up to 12, or a multiple"),
        ((), {"DATA": __file__, "REWARD": "/nowhere/r.py"}, "REWARD=/nowhere/r.py: no such .py file"),
    ],
)
def test_wrong_usage_of_the_script_is_one_line(arguments, variables, says):
    done = script(*arguments, **variables)
    assert done.returncode == 2 and done.stdout == "", done
    assert done.stderr.startswith("smollm2_gsm8k.sh: error: ") and says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["not JSON"], "line 1: not JSON"),
        (['{"problem": "1+1?", "answer": "2"}'], 'row 1: give "question" and "answer"'),
        ([], ": 0 rows, and 163 are drawn; ask for fewer"),
    ],
)
def test_wrong_data_is_one_line_before_the_model_is_fetched(dry_run, rows, says, tmp_path):
    (tmp_path / "data.jsonl").write_text("".join(f"{row}\n" for row in rows))
    variables = {"DATA": str(tmp_path / "data.jsonl"), "OUTPUT": str(tmp_path / "run"), "WARM_UP_ROWS": "3"}
    done = script(*dry_run, **variables)
    assert done.returncode == 2 and done.stdout == "" and says in done.stderr, done
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_the_script_tells_its_stages_and_runs_none(tmp_path):
    asked = script("--help")
    assert asked.returncode == 0 and "examples:" in asked.stdout
    data = write_rows(tmp_path / "data.jsonl", 161)
    done = script("--dry-run", DATA=str(data), OUTPUT=str(tmp_path / "run"), WARM_UP_ROWS="3")
    assert done.returncode == 0, done.stderr
    stages = [line.rstrip(":") for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert stages == ["model", "data", "warm_up", "before", "train", "after", "result"]
    assert all(f"  {stage}" in asked.stdout for stage in stages) and not (tmp_path / "run").exists()
