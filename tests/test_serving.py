"""The server, spoken to with OpenAI's own client: whole answers, limits, hang-ups, and nothing left behind."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import psutil
import pytest
from exported import with_adapters

from labkit import LabError, data
from labkit.profiles import COURSE
from labkit.serving import Limits, running
from labkit.widgets.serve import NONE, AdapterChat

ASKED = list(data.ticket_task("tone").test["prompt"])[:50]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return with_adapters(tmp_path_factory.mktemp("served"))[1]


@pytest.fixture(scope="module")
def url(model):
    with running(model, Limits(running=2, waiting=100, tokens=64, body=20_000)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def user(text):
    return [{"role": "user", "content": text}]


def health(url):
    with urllib.request.urlopen(url.removesuffix("/v1") + "/health") as answer:
        return json.load(answer)


def settled(url, seconds=10.0):
    """Health once nothing runs or waits any more."""
    deadline = time.monotonic() + seconds
    while (found := health(url))["running"] or found["waiting"]:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def test_adapters_are_model_names_and_answer_as_the_model_does(client, model):
    names = [found.id for found in client.models.list()]
    assert names == ["base", "one", "two", "three"]
    for name in names:
        said = client.chat.completions.create(model=name, messages=user(ASKED[0]), max_tokens=16)
        adapter = None if name == "base" else name
        assert said.choices[0].message.content == model.generate(ASKED[0], 16, adapter=adapter)
        assert said.usage.prompt_tokens == len(model.prompt_ids(ASKED[0])) and said.model == name
        assert said.choices[0].finish_reason in ("stop", "length")


def test_a_stream_makes_up_the_same_answer(client, model):
    stream = client.chat.completions.create(model="two", messages=user(ASKED[1]), max_tokens=16, stream=True,
                                            stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip() == model.generate(ASKED[1], 16, adapter="two")
    assert chunks[-1].usage.completion_tokens >= 1 and chunks[-2].choices[0].finish_reason in ("stop", "length")


def test_turns_parts_and_stop_texts_are_understood(client, model):
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"},
             {"role": "user", "content": [{"type": "text", "text": "Where is my parcel?"}]}]
    plain = [*turns[:2], {"role": "user", "content": "Where is my parcel?"}]
    said = client.chat.completions.create(model="one", messages=turns, max_tokens=16).choices[0].message.content
    assert said == model.generate([plain], 16, adapter="one")[0]
    whole = model.generate("Tell me a story.", 24)
    stop = whole[3:6]
    cut = client.chat.completions.create(model="base", messages=user("Tell me a story."), max_tokens=24, stop=stop)
    assert cut.choices[0].message.content == whole[: whole.index(stop)].strip()
    assert cut.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("options, kind, said", [
    ({"model": "none such"}, openai.NotFoundError, "base, one, two, three"),
    ({"messages": user("  ")}, openai.BadRequestError, "empty"),
    ({"messages": user("tent " * 2000)}, openai.BadRequestError, "1024"),
    ({"messages": []}, openai.BadRequestError, "messages"),
    ({"max_tokens": 65}, openai.BadRequestError, "64 are the most"),
    ({"temperature": 9}, openai.BadRequestError, "temperature"),
    ({"n": 2}, openai.BadRequestError, "n:"),
    ({"logprobs": True}, openai.BadRequestError, "logprobs: not supported"),
    ({"messages": [{"role": "robot", "content": "x"}]}, openai.BadRequestError, "role"),
    ({"messages": user("x" * 30_000)}, openai.APIStatusError, "20,000 bytes"),
])
def test_what_it_cannot_do_is_refused_with_a_sentence(client, url, options, kind, said):
    with pytest.raises(kind, match=said):
        client.chat.completions.create(**{"model": "base", "messages": user("Hello"), **options})
    assert settled(url)["waiting"] == 0


def test_a_body_that_is_no_json_or_lies_about_its_length_is_refused(url):
    for body, head in ((b"{", {}), (b"[1]", {}), (b"x" * 50_000, {"Transfer-Encoding": "chunked"})):
        request = urllib.request.Request(f"{url}/chat/completions", body if not head else iter([body]),
                                         {"Content-Type": "application/json", **head})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code in (400, 413)


def test_fifty_clients_at_once_get_each_its_own_answer(client, model):
    names = [None, *model.adapters]
    asks = [(prompt, names[i % 4]) for i, prompt in enumerate(ASKED)]

    def ask(what):
        prompt, name = what
        said = client.chat.completions.create(model=name or "base", messages=user(prompt), max_tokens=12)
        return said.choices[0].message.content

    with ThreadPoolExecutor(50) as pool:
        said = list(pool.map(ask, asks))
    assert said == [model.generate(prompt, 12, adapter=name) for prompt, name in asks]


def test_those_over_the_limit_are_told_to_come_back_and_the_others_are_answered_whole(model):
    with running(model, Limits(running=2, waiting=6, tokens=64)) as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        said, sent_away = [], []

        def ask(prompt):
            try:
                found = client.chat.completions.create(model="two", messages=user(prompt), max_tokens=40)
                said.append((prompt, found.choices[0].message.content))
            except openai.RateLimitError as error:
                sent_away.append(error.response.headers["retry-after"])

        with ThreadPoolExecutor(50) as pool:
            list(pool.map(ask, ASKED))
        assert len(said) + len(sent_away) == 50 and len(said) >= 8 and sent_away
        assert all(float(after) > 0 for after in sent_away)
        assert all(text == model.generate(prompt, 40, adapter="two") for prompt, text in said)
        patient = openai.OpenAI(base_url=url, api_key="none", max_retries=8)  # the client comes back by itself
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda p: patient.chat.completions.create(model="base", messages=user(p),
                                                                              max_tokens=4), ASKED[:12]))
        assert len(answers) == 12 and settled(url)["waiting"] == 0


def test_a_client_that_hangs_up_in_the_middle_leaves_nothing_running(model):
    with running(model, Limits(running=1, waiting=4, tokens=900)) as url:
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        for stream in (True, False):
            body = json.dumps({"model": "two", "messages": user("Tell me a story."), "stream": stream,
                               "max_tokens": 900, "temperature": 2.0}).encode()
            with socket.create_connection((host, int(port))) as wire:
                wire.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                             b"Content-Length: %d\r\n\r\n" % len(body) + body)
                if stream:
                    wire.recv(200)
                else:
                    time.sleep(0.2)
        assert settled(url)["done"] <= 2
        with urllib.request.urlopen(f"{url}/models") as answer:
            assert answer.status == 200


def test_nothing_is_left_behind_by_a_thousand_requests(url, client, model):
    process = psutil.Process()
    windows = sys.platform == "win32"
    handles, more = (process.num_handles, 100) if windows else (process.num_fds, 4)  # there, threads have some too
    body = json.dumps({"model": "one", "messages": user("Hi"), "max_tokens": 1}).encode()

    def ask(_):
        request = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return answer.status

    def ask_many(n):
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(ask, range(n)))

    ask_many(200)  # caches and threads are there now
    settled(url)
    before = process.memory_info().rss, handles(), threading.active_count()
    assert ask_many(1000) == [200] * 1000
    settled(url)
    time.sleep(0.2)
    assert process.memory_info().rss - before[0] < 30e6
    assert handles() <= before[1] + more and threading.active_count() <= before[2] + 1


def test_the_command_serves_until_it_is_told_to_end_and_names_a_port_that_is_taken(model):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "labkit", "serve", str(model.folder), "--port", str(port)]
    server = subprocess.Popen(words, cwd=COURSE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert "one, two, three" in server.stdout.readline() + server.stdout.readline()
        deadline = time.monotonic() + 20
        while True:
            try:
                assert health(f"http://127.0.0.1:{port}/v1")["status"] == "ok"
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        second = subprocess.run(words, cwd=COURSE, capture_output=True, text=True)
        assert second.returncode == 2 and "--port" in second.stderr
        server.terminate()
        assert server.wait(15) in (0, 1 if sys.platform == "win32" else -signal.SIGTERM)
        assert server.stderr.read() == ""
    finally:
        server.kill()


def test_a_folder_that_holds_no_model_is_told_in_a_sentence(tmp_path):
    from labkit.serving import serve

    with pytest.raises(LabError, match="no exported model"):
        serve(tmp_path)


def test_the_chat_window_leaves_a_table_of_answers_where_there_are_no_widgets(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as where it is not installed
    chat = AdapterChat(model, "<script>alert(1)</script>", tokens=4)
    left = chat._repr_mimebundle_()
    assert set(left) == {"text/plain", "text/html"} and "<script" not in left["text/html"]
    assert [row["adapter"] for row in chat.table().rows] == [NONE, *model.adapters]
    assert "the prompt has" in chat.ask("x " * 5000, "one")
