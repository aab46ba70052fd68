"""Shards on a server: the same samples as of local ones, and runs that are killed and go on."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from polymask import Run, RunConfig, UserError
from polymask.checkpoints import read_checkpoint
from polymask.data import findings, open_data
from polymask.training import fit
from polymask.training.digest import digest
from polymask_vision.datasets import remote

pytest.importorskip("aiohttp")

SAMPLES = 20


class Server(http.server.ThreadingHTTPServer):
    """Files of a folder, also in parts.

    Attributes:
        asked: paths and ranges of what was read.
        failures: how many of the next reads to fail.
        wait: seconds that each takes.
        whole: give no parts.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.asked = folder, list[tuple[str, str]]()
        self.failures, self.wait, self.whole = 0, 0.0, False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        file = self.server.folder / self.path.partition("?")[0].lstrip("/")
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        content, status = b"", 404
        if body and self.server.failures > 0:
            self.server.failures -= 1
            status = 503
        elif file.is_file():
            content, status = file.read_bytes(), 200
        self.send_response(206 if status == 200 and span and not self.server.whole else status)
        if status == 200:
            self.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
            if span and not self.server.whole:
                start, last = int(span[1]), min(int(span[2]), len(content) - 1)
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
                content = content[start : last + 1]
            if body:
                self.server.asked.append((file.name, self.headers.get("Range", "")))
                time.sleep(self.server.wait)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Two shards of ten pictures of two classes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAIT", 0)
    monkeypatch.setattr(remote, "BLOCK", 4096)
    folder = tmp_path / "shards"
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    for s in range(2):
        write(folder / f"{s}.tar", torch.randint(256, (SAMPLES // 2, 16, 16, 3), generator=draw))
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def write(path: Path, pictures: torch.Tensor) -> None:
    with tarfile.open(path, "w") as tar:
        for i, pixels in enumerate(pictures):
            file = io.BytesIO()
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(file, "PNG")
            for name, content in ((f"{i}.png", file.getvalue()), (f"{i}.cls", str(i % 2).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def images(data: Any) -> torch.Tensor:
    return torch.stack([data.split("train")[i]["image"] for i in range(len(data.split("train")))])


@pytest.mark.slow
def test_far_shards_hold_what_local_ones_hold(server: Server) -> None:
    local = open_data(f"wds:{server.folder}/{{0..1}}.tar")
    far = open_data(f"wds:{server.url}/{{0..1}}.tar?signature=secret")
    assert torch.equal(images(far), images(local)) and far.classes == local.classes == ["0", "1"]
    assert far.split("test").names() == local.split("test").names()  # type: ignore[attr-defined]
    assert digest(far) == digest(local)
    parts = [span for _, span in server.asked]
    assert all(parts) and max(map(length, parts)) <= 4096


def length(span: str) -> int:
    start, last = span.removeprefix("bytes=").split("-")
    return int(last) - int(start) + 1


@pytest.mark.slow
def test_a_shard_is_indexed_once_and_again_where_it_changed(server: Server) -> None:
    source = f"wds:{server.url}/{{0..1}}.tar"
    first = images(open_data(source, test=0))
    assert torch.equal(images(open_data(source, test=0)), first)
    server.asked.clear()
    open_data(source, test=0)
    # the pictures that are looked at for their size, and no more
    assert len(server.asked) == SAMPLES
    write(server.folder / "1.tar", torch.zeros(SAMPLES // 2, 16, 16, 3))
    changed = images(open_data(source, test=0))
    assert len(changed) == SAMPLES and changed[-1][0].std() < 1e-6 < changed[0][0].std()
    (path,) = (findings.cache_folder("indexes")).glob("shards-*.npz")
    path.write_bytes(path.read_bytes()[:-30])
    assert torch.equal(images(open_data(source, test=0)), changed)


def test_a_server_that_fails_for_a_moment_changes_nothing(server: Server) -> None:
    expected = images(open_data(f"wds:{server.folder}/0.tar"))
    server.failures = 3
    data = open_data(f"wds:{server.url}/0.tar")
    server.failures = 3
    assert torch.equal(images(data), expected) and data.skipped == []
    server.failures = 100
    with pytest.raises(UserError, match=r"0\.tar cannot be read, in 5 tries: .*503"):
        images(data)
    assert data.skipped == []


def test_what_cannot_be_read_in_parts_is_refused(server: Server) -> None:
    with pytest.raises(UserError, match=rf"there is no file {server.url}/2\.tar"):
        open_data(f"wds:{server.url}/{{0..99999999999}}.tar")
    server.whole = True
    with pytest.raises(UserError, match="whole files only"):
        open_data(f"wds:{server.url}/0.tar")


def test_samples_of_a_batch_are_read_side_by_side(server: Server) -> None:
    from polymask.training.loader import Keyed

    samples = open_data(f"wds:{server.url}/{{0..1}}.tar", test=0).split("train")
    together, most, lock = 0, 0, threading.Lock()
    answer = Handler.answer

    def counted(self: Handler, body: bool) -> None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        answer(self, body)
        with lock:
            together -= 1

    server.wait = 0.05
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "answer", counted)
        server.asked.clear()
        batch = Keyed(samples, seed=0).__getitems__([(0, i) for i in (3, 17, 5, 0)])
    assert most > 1 and len(server.asked) == 4
    assert torch.equal(batch[1]["image"], samples[17]["image"])


OPTIONS = {"system": "vision/mae", "preset": "tiny", "steps": 30, "batch_size": 8, "checkpoint_every": 3}
OPTIONS |= {"workers": 1, "data.augment": "crop-flip"}

KILLED = """
import json, sys, torch
from polymask import Run, RunConfig
from polymask.training import fit
torch.set_num_threads(1)
fit(Run.create(RunConfig.resolve(json.loads(sys.argv[1])), sys.argv[2]))
"""


@pytest.mark.slow
def test_a_run_on_far_shards_that_is_killed_goes_on_to_the_same_bits(server: Server, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    local = Run.create(RunConfig.resolve({**OPTIONS, "data": f"wds:{server.folder}"}), tmp_path / "local")
    fit(local)
    options = {**OPTIONS, "data": f"wds:{server.url}/{{0..1}}.tar"}
    server.wait = 0.3
    process = subprocess.Popen([sys.executable, "-c", KILLED, json.dumps(options), str(tmp_path / "far")])
    last = tmp_path / "far" / "checkpoints" / "last.ckpt"
    while process.poll() is None and not (last.is_file() and read_checkpoint(last)["global_step"]):
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < read_checkpoint(last)["global_step"] < OPTIONS["steps"]  # type: ignore[operator]
    server.wait = 0
    fit(Run.open(tmp_path / "far"), resume=True)
    expected, found = (
        read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("local", "far")
    )
    assert found["global_step"] == expected["global_step"] == OPTIONS["steps"]
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value), name
