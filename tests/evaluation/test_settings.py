"""What of the settings is written down."""

from evaluation.settings import DECIDING, RunSettings, write_settings
from evaluation.stored import stored_run
from spo_rlhf.host.files import write_json


def test_settings_come_back_as_they_were_asked_for(tmp_path):
    asked = RunSettings("model", ("arithmetic",), (64, 256), samples=2, few_shot_file="shots.jsonl", few_shot=2)
    write_settings(asked, tmp_path)
    write_json(tmp_path / "results.json", {"tasks": {}})
    assert stored_run(tmp_path)[0] == asked


def test_neither_paths_nor_which_problems_nor_how_many_samples_decide_a_sample():
    fields = set(RunSettings.__dataclass_fields__)
    # The prompt is told by its own content.
    assert fields - set(DECIDING) == {
        *("model", "tasks", "samples", "limit"),
        *("prompt", "system", "chat_template", "few_shot", "few_shot_file"),
    }
