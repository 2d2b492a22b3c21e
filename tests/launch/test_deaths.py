"""The one line of a run that ends because one of its processes died: which, why, and where its last words are."""

import pytest
from ray.exceptions import RayActorError

from spo_rlhf.launch.deaths import dead_process
from spo_rlhf.launch.output import explain

RAYS = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: {name}\n\tactor_id: 4f1e\n\tpid: 549\n"
    "\tnamespace: 7e6\n\tip: 127.0.0.1\nThe actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR "
    "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file. There are some causes."
)


@pytest.mark.parametrize(("name", "who"), [("SegmentPolicyActor", "the policy"), ("Other", "Other")])
def test_the_process_its_end_and_its_last_line_are_named(tmp_path, name, who):
    log = tmp_path / "train.log"
    log.write_text("start\n(SegmentPolicyActor pid=549) one\n(SegmentPolicyActor pid=549) two\n(X pid=5490) three\n")
    status, line = explain(RayActorError(error_msg=RAYS.format(name=name)), log)
    why = "Worker unexpectedly exits with a connection error code 2"
    assert status == 1 and line == f"error: {who} (process 549) died: {why} (its last line is {log}:3)"


def test_without_words_of_it_the_log_is_named():
    line = dead_process("died\n\tclass_name: EventLog\n\tpid: 7\n", "train.log")
    assert line == "the log of events (process 7) died (log: train.log)"
    assert dead_process("died\n  class_name: EventLog", "train.log") == "the log of events died (log: train.log)"
    assert dead_process("pid: 7 is no such error", "train.log") is None
