"""OpenRLHF's loggers with the real wandb, offline, and the real TensorBoard: numbers, and the sample of a step with its advantages."""

import json
import time
from types import SimpleNamespace

import pytest
from made_up import rows
from openrlhf.utils.logging_utils import TensorboardLogger, WandbLogger

from spo_rlhf import upstream
from spo_rlhf.rollouts.rows import marked

WANDB = SimpleNamespace(key="0" * 40, org=None, project="offline", group=None, run_name="run")


@pytest.fixture
def logs():
    """What a step gives its loggers."""
    return {"policy_loss": 0.5, **upstream.logged_sample(*marked(rows(steps=1, prompts=1)))}


@pytest.mark.timeout(300)
def test_wandb_keeps_numbers_and_a_table_of_samples_without_a_network(logs, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    settings = {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true", "API_KEY": "0" * 40}
    patience = {"_SERVICE_WAIT": "300", "INIT_TIMEOUT": "300"}  # its own process may start late on a busy machine
    for name, value in {**settings, **patience}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    logger = WandbLogger(SimpleNamespace(logger=SimpleNamespace(wandb=WANDB)))
    for step in (1, 2):
        logger.log_train(step, logs)
    logger.log_eval(2, {"eval_default_pass1": 0.25})
    logger.close()
    [folder] = tmp_path.glob("wandb/offline-run-*")
    tables = [json.loads(path.read_text()) for path in folder.rglob("*.table.json")]
    longest = max(tables, key=lambda table: len(table["data"]))
    assert longest["columns"] == ["global_step", "text", "reward"]
    text, reward = logs["generated_samples"]
    assert longest["data"] == [[1, text, reward], [2, text, reward]] and "[+" in text
    [record] = folder.glob("*.wandb")
    names, deadline = (b"train/policy_loss", b"eval/eval_default_pass1"), time.monotonic() + 60
    # Its own process writes the file, on a busy machine some time after the run has ended.
    while not all(name in record.read_bytes() for name in names):
        assert time.monotonic() < deadline, f"{names} are not in {record.name}"
        time.sleep(0.2)


def test_tensorboard_keeps_numbers_and_the_text_of_a_sample(logs, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorboardLogger(SimpleNamespace(logger=SimpleNamespace(tensorboard_dir=str(tmp_path), wandb=WANDB)))
    logger.log_train(1, logs)
    logger.close()
    board = accumulator.EventAccumulator(str(tmp_path / "run"))
    board.Reload()
    [said] = board.Tensors("train/generated_samples/text_summary")
    assert logs["generated_samples"][0] in said.tensor_proto.string_val[0].decode()
    assert [event.value for event in board.Scalars("train/policy_loss")] == [0.5]
