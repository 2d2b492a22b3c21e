"""Rewards from a server on this machine, asked as OpenRLHF does: what hangs, fails or answers nonsense is limited and told."""

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from openrlhf.utils.agent import SingleTurnAgentExecutor

from spo_rlhf.errors import UserError
from spo_rlhf.rollout import reward
from spo_rlhf.rollout.protocol import Grade
from spo_rlhf.rollout.reward import NOT_GRADED, AddressReward, RewardCounts


class Server(ThreadingHTTPServer):
    """Answers as the query says."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            [query] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["query"]
            if query == "hang":
                self.server.released.wait(30)
            body = {
                "none": b'{"scores": 1}',
                "words": b'{"rewards": "good"}',
                "huge": b'{"rewards": [1%s]}' % (400 * b"0"),
            }.get(query, b'{"rewards": [0.5], "scores": [1]}')
            self.send_response(500 if query == "fail" else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.released = threading.Event()


@pytest.fixture
def asked(monkeypatch):
    """Asks a server, which is there for the test, with a limit of 2 s."""
    monkeypatch.setattr(reward, "ADDRESS_LIMIT_S", 2.0)
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/reward"
    executor = SingleTurnAgentExecutor([address])

    async def fetch(query, prompt, label):
        return (await executor._fetch_rewards_via_http([query], [prompt], [label]))[0]

    yield AddressReward(fetch, address, timeout_s=1.0)
    server.released.set()
    server.shutdown()
    server.server_close()


def test_what_hangs_or_fails_is_0_counted_and_costs_no_other(asked):
    async def grades():
        return await asyncio.gather(*(asked(query, "", "7") for query in ("hang", "right", "fail", "right")))

    began = time.monotonic()
    hung, one, failed, two = asyncio.run(grades())
    assert time.monotonic() - began < 10
    assert hung is NOT_GRADED and failed is NOT_GRADED and one == two == Grade(0.5, 1.0)
    assert asked.counts == RewardCounts(rewards=4, timeouts=2)


def test_a_server_that_is_gone_is_counted(asked, monkeypatch):
    monkeypatch.setattr(reward, "ADDRESS_LIMIT_S", 20.0)
    executor = SingleTurnAgentExecutor(["http://127.0.0.1:9/"])

    async def fetch(query, prompt, label):
        return (await executor._fetch_rewards_via_http([query], [prompt], [label]))[0]

    gone = AddressReward(fetch, "http://127.0.0.1:9/", timeout_s=1.0)
    assert asyncio.run(gone("right", "", "7")) is NOT_GRADED
    assert gone.counts == RewardCounts(rewards=1, crashes=1)


@pytest.mark.parametrize(
    ("query", "says"),
    [("none", 'an object that has "rewards"'), ("words", "'g' as rewards|'good'"), ("huge", "0 as rewards")],
)
def test_an_answer_that_is_none_is_told_in_one_line(asked, query, says):
    with pytest.raises(UserError, match=f"^--reward.remote_url http://127.0.0.1:.*({says})"):
        asyncio.run(asked(query, "", "7"))
