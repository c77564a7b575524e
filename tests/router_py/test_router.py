"""The `Router` class inside a Python program."""

from __future__ import annotations

import re
import socket
import threading
import time

import httpx
import pytest

from router_py import Router


def wait_until_healthy(router: Router) -> None:
    while httpx.get(f"{router.url}/health").status_code != 200:
        time.sleep(0.01)


def test_it_routes_to_its_workers(worker_url: str) -> None:
    with Router(worker_urls=[worker_url], port=0, prometheus_port=0) as router:
        wait_until_healthy(router)
        assert router.url == f"http://127.0.0.1:{router.port}"
        body = {"text": "Grüße", "unknown": 1}
        answer = httpx.post(f"{router.url}/generate", json=body)
        assert answer.json() == {"path": "/generate", "asked": body}
        assert answer.headers["x-radixfleet-worker"] == worker_url
        assert httpx.get(f"{router.url}/list_workers").json() == {"urls": [worker_url]}
        url = router.url
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_workers_can_be_added_and_removed(worker_url: str) -> None:
    with Router(port=0, prometheus_port=0) as router:
        assert httpx.get(f"{router.url}/health").status_code == 503
        added = httpx.post(f"{router.url}/add_worker", params={"url": worker_url})
        assert added.text == f"Successfully added worker: {worker_url}"
        assert httpx.get(f"{router.url}/get_server_info").json() == {"path": "/get_server_info"}
        removed = httpx.post(f"{router.url}/remove_worker", params={"url": worker_url})
        assert removed.text == f"Successfully removed worker: {worker_url}"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"polcy": "random"}, "unknown field `polcy`"),
        ({"policy": "best"}, "choose from expected_cost, cache_aware, consistent_hash"),
        ({"port": "x"}, '--port: invalid type: string "x", expected u16'),
        ({"max_tree_size": 0}, "--max-tree-size 0: must be at least 1"),
        ({"worker_urls": ["http://a:1", "A:1"]}, "http://a:1 is given twice"),
        ({"host": object()}, "not JSON serializable"),
    ],
)
def test_a_bad_option_is_refused_with_the_reason(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        Router(**options)


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="the port is taken by another program") as error:
            Router(port=port, prometheus_port=0).start()
        assert str(error.value).startswith(f"cannot listen on 127.0.0.1:{port}: ")
        with pytest.raises(OSError, match=f"cannot serve metrics on 127.0.0.1:{port}: the port is"):
            Router(port=0, prometheus_port=port).start()


def test_it_runs_between_start_and_stop_only() -> None:
    router = Router(port=0, prometheus_port=0)
    for use in (lambda: router.url, lambda: router.port, router.wait):
        with pytest.raises(RuntimeError, match="not running"):
            use()
    router.stop()
    router.start()
    with pytest.raises(RuntimeError, match="started already"):
        router.start()
    router.stop()
    router.start()
    assert httpx.get(f"{router.url}/list_workers").json() == {"urls": []}
    router.stop()


def test_wait_ends_when_another_thread_stops_the_router() -> None:
    router = Router(port=0, prometheus_port=0)
    router.start()
    waiting = threading.Thread(target=router.wait)
    waiting.start()
    # The GIL is free meanwhile: this thread goes on.
    assert httpx.get(f"{router.url}/list_workers").status_code == 200
    assert waiting.is_alive()
    router.stop()
    waiting.join(timeout=30)
    assert not waiting.is_alive()


def test_a_bad_timeout_stops_nothing() -> None:
    with Router(port=0, prometheus_port=0) as router:
        with pytest.raises(ValueError, match="timeout_seconds -1"):
            router.stop(-1)
        assert httpx.get(f"{router.url}/list_workers").status_code == 200


def test_clients_need_the_key_when_there_is_one(worker_url: str) -> None:
    with Router(worker_urls=[worker_url], port=0, api_key="sesame") as router:
        wait_until_healthy(router)
        assert httpx.post(f"{router.url}/generate", json={}).status_code == 401
        headers = {"authorization": "Bearer sesame"}
        assert httpx.post(f"{router.url}/generate", json={}, headers=headers).status_code == 200
