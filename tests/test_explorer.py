"""The server of the page: who may talk to it, what it answers, and that nobody holds up another."""

import asyncio
import gc
import io
import json
import os
import re
import shutil
import signal
import socket as sockets
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus

from command import call
from lowerbound.explorer import registry, uploads
from lowerbound.explorer.explore import newest
from lowerbound.explorer.lanes import Lanes
from lowerbound.explorer.messages import Answer, Question
from lowerbound.explorer.panels.base import Panel, action
from lowerbound.explorer.safety import kept_token
from lowerbound.explorer.server import SOCKETS, bound
from lowerbound.runs.inputs import user_images
from lowerbound.runs.run import Run
from pages import TOKEN, Page, ask, read, serving, tiny


@pytest.fixture(scope="module")
def run(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def page(run: Run) -> Iterator[Page]:
    with serving([run]) as found:
        yield found


def png(size: tuple[int, int] = (8, 8), value: int = 90) -> bytes:
    return saved("PNG", size, value)


def saved(kind: str, size: tuple[int, int] = (8, 8), value: int = 90, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 30, 60)).save(file, kind)
    return file.getvalue()


# ---- who may talk to it


def test_the_token_of_the_address_becomes_a_cookie_that_only_this_server_is_sent(page: Page):
    status, headers, body = page.request("GET", f"/?token={TOKEN}", cookie="")
    assert status == 200
    assert b"<main" in body
    cookie = headers["set-cookie"]
    assert f"lowerbound-{page.port}={TOKEN}" in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert page.request("GET", "/", cookie=cookie.partition(";")[0])[0] == 200


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/socket", "/images"])
@pytest.mark.parametrize("cookie", ["", "lowerbound-PORT=" + "b" * 40, "lowerbound-1=" + TOKEN])
def test_nothing_is_had_without_the_token(page: Page, path: str, cookie: str):
    status, _, body = page.request("GET", path, cookie=cookie.replace("PORT", str(page.port)))
    assert status == 403
    assert b"token" in body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "a@127.0.0.1", ""])
def test_a_name_that_somebody_pointed_here_is_refused(page: Page, host: str):
    assert page.request("GET", f"/?token={TOKEN}", host=host or "\0".strip("\0"))[0] in (400, 403)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_pages_of_other_sites_may_neither_send_nor_listen(page: Page, origin: str):
    assert page.request("POST", "/images", png(), origin=origin, content_type="image/png")[0] == 403
    with pytest.raises(InvalidStatus, match="403"):
        page.socket(origin=origin)


def test_a_request_that_acts_must_say_where_it_comes_from(page: Page):
    assert page.request("POST", "/images", png(), origin="", content_type="image/png")[0] == 403


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/nothing", "/images"])
def test_every_answer_bears_the_policy(page: Page, path: str):
    _, headers, _ = page.request("GET", path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_page_needs_nobody_else():
    """No address of another machine stands in what is sent, and no script stands in the document."""
    static = Path(registry.__file__).parent / "static"
    for path in static.rglob("*"):
        if path.suffix in (".js", ".css", ".html"):
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
            assert "https://" not in text, path
            assert "http://" not in text, path
    document = (static / "index.html").read_text(encoding="utf-8")
    assert document.count("<script") == document.count('<script type="module" src=')
    assert "style=" not in document


@pytest.mark.parametrize(
    "path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static//etc/passwd", "/etc/passwd"]
)
def test_no_path_leads_out_of_the_pages_files(page: Page, path: str):
    assert page.request("GET", path)[0] == 404


def test_the_token_is_kept_for_the_same_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("platformdirs.user_state_dir", lambda _: str(tmp_path / "state"))
    first = kept_token()
    (file,) = (tmp_path / "state").iterdir()
    assert len(first) >= 32
    assert file.stat().st_mode & 0o077 == 0
    assert kept_token() == first
    file.chmod(0o644)
    assert kept_token() != first, "a token that others could read is used on"


# ---- uploads


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp"])
def test_images_are_taken(page: Page, kind: str):
    status, said = page.upload(saved(kind.upper(), (20, 30)), f"image/{kind}")
    assert status == 200, said
    answer = page.ask("latent", "encode", image=said["image"])
    assert answer.arrays["original"].shape == (8, 8, 1)
    assert answer.arrays["z"].shape == (len(answer.arrays["z"]),)


def test_what_the_model_sees_of_an_upload_is_what_the_verbs_see(page: Page, run: Run, tmp_path: Path):
    data = saved("JPEG", (40, 30))
    (tmp_path / "a.jpg").write_bytes(data)
    x = user_images(run, [tmp_path / "a.jpg"]).x
    z = run.load().encode(x).mean[0]
    answer = page.ask("latent", "encode", image=page.upload(data, "image/jpeg")[1]["image"])
    np.testing.assert_allclose(answer.arrays["z"], z.detach().numpy(), rtol=1e-5, atol=1e-6)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("data", "kind", "status", "why"),
    [
        (SVG, "image/svg+xml", 415, "is not taken"),
        (SVG, "image/png", 415, "SVG"),
        (png(), "text/html", 415, "is not taken"),
        (png(), "", 415, "no content type"),
        (png(), "image/jpeg", 415, "not JPEG"),
        (b"", "image/png", 422, "empty"),
        (png()[:40], "image/png", 422, "damaged"),
        (png() + b"<script>alert(1)</script>", "image/png", 422, "bytes follow the end"),
        (saved("JPEG") + b"PK\x03\x04zip", "image/jpeg", 422, "bytes follow the end"),
        (saved("GIF") + b"/*js*/", "image/gif", 422, "bytes follow the end"),
        (b"GIF89a/*" + b"\0" * 60 + b"*/=1;alert(1)", "image/gif", 422, ""),
        (b"BM" + b"<html><script></script></html>" * 9, "image/bmp", 422, ""),
    ],
)
def test_what_is_no_plain_image_is_refused(page: Page, data: bytes, kind: str, status: int, why: str):
    found, said = page.upload(data, kind)
    assert found == status, said
    assert why in said["error"]


def test_bombs_are_refused_before_they_are_decoded(page: Page, monkeypatch: pytest.MonkeyPatch):
    """A PNG of 50 kB that says it is 20,000 x 20,000."""
    whole = bytearray(saved("PNG", (1, 1), mode="L"))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    whole[16:24] = struct.pack(">II", 20_000, 20_000)
    whole[29:33] = struct.pack(">I", zlib.crc32(bytes(whole[12:29])))
    status, said = page.upload(bytes(whole))
    assert status == 413
    assert "pixels" in said["error"]


def test_more_bytes_than_it_takes_are_not_read(page: Page):
    status, _, body = page.request("POST", "/images", b"x", content_type="image/png", content_length=str(2**40))
    assert status == 413
    assert b"MiB" in body


def test_a_length_that_was_not_said_is_no_way_around(page: Page):
    """Chunks, one after another, until it is too much."""
    with sockets.create_connection(("127.0.0.1", page.port), timeout=30) as line:
        head = f"POST /images HTTP/1.1\r\nhost: {page.host}\r\norigin: http://{page.host}\r\n"
        head += (
            f"cookie: lowerbound-{page.port}={TOKEN}\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        line.sendall(head.encode())
        chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
        answer = b""
        try:
            for _ in range(uploads.MAX_BYTES // 2**20 + 2):
                line.sendall(chunk)
            answer = line.recv(400)
        except OSError:
            answer = answer or b"HTTP/1.1 413"  # it was closed while more came
        assert b" 413" in answer


def test_images_that_were_not_asked_for_longest_go_first(tmp_path: Path):
    kept = uploads.Uploads(tmp_path)
    names = [kept.keep(png(value=i), "image/png") for i in range(uploads.KEPT)]
    kept.path(names[0])
    kept.keep(png(value=200), "image/png")
    assert kept.path(names[0]).is_file()
    with pytest.raises(uploads.Gone):
        kept.path(names[1])
    assert len([*tmp_path.iterdir()]) == uploads.KEPT


def test_an_image_that_is_gone_is_asked_for_again(page: Page):
    answer = page.ask("latent", "encode", image="upload:" + "0" * 32)
    assert answer.document["error"]["kind"] == "gone"


# ---- questions


def test_the_runs_and_the_panels_that_fit(page: Page, run: Run):
    (said,) = page.ask("", "runs").said["runs"]
    assert said["name"] == "digits"
    assert said["shape"] == [1, 8, 8]
    assert said["parameters"] == sum(p.numel() for p in run.load().parameters())
    assert "latent" in [p["name"] for p in said["panels"]]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not understood"),
        ('{"id": -1, "panel": "latent", "do": "about"}', "id"),
        ('{"id": 1, "panel": "latent", "do": "about", "more": 1}', "more"),
        ('{"id": 1, "panel": "latent", "do": "about", "slot": 16}', "slot"),
    ],
)
def test_what_is_no_question_is_answered(page: Page, text: str, why: str):
    with page.socket() as socket:
        socket.send(text)
        assert why in read(socket.recv(20)).error  # pyright: ignore[reportArgumentType]
        assert "size" in ask(socket, "latent", "about").said, "the socket is of no use afterwards"


@pytest.mark.parametrize(
    ("panel", "do", "given", "why"),
    [
        ("latent", "nothing", {}, "no latent.nothing"),
        ("latent", "fits", {}, "no latent.fits"),
        ("nothing", "about", {}, "no nothing.about"),
        ("latent", "decode", {}, "latent.decode: z"),
        ("latent", "decode", {"z": [0.0]}, "the code has 1 numbers"),
        ("latent", "decode", {"z": ["a"]}, "z.0"),
        ("latent", "decode", {"z": [0.0], "path": "/etc"}, "path"),
        ("latent", "draw", {"seed": -1}, "seed"),
        ("latent", "draw", {"seed": 0, "count": 1000}, "count"),
        ("latent", "draw", {"seed": 0, "temperature": -1}, "temperature"),
        ("latent", "draw", {"seed": 0, "given": {"label": "3"}}, "not conditional"),
        ("latent", "encode", {"image": "../../etc/passwd"}, "no image"),
        ("latent", "encode", {"image": "valid:99999999"}, "expected a number below"),
        ("latent", "encode", {"image": "valid:-1"}, "expected a number below"),
        ("latent", "encode", {"image": "upload:../x"}, "send it again"),
        ("latent", "teach", {"name": "../a", "positive": ["valid:0"], "negative": ["valid:1"]}, "can't name"),
        ("latent", "teach", {"name": "a", "positive": ["valid:0"], "negative": ["valid:0"]}, "both sides"),
    ],
)
def test_what_can_not_be_done_is_said_in_a_sentence(page: Page, panel: str, do: str, given: dict, why: str):
    assert why in page.ask(panel, do, **given).error


def test_a_run_that_there_is_not(page: Page):
    assert "no run 7" in page.ask("latent", "about", run=7).error


def test_messages_are_bounded(page: Page):
    with page.socket() as socket:
        socket.send("x" * 2**19)
        with pytest.raises(ConnectionClosed):
            socket.recv(20)


# ---- threads


class _Slow(Panel):
    """Answers when it is told to."""

    title = "Slow"
    go = threading.Event()
    begun: list[int] = []  # noqa: RUF012
    steps: list[int] = []  # noqa: RUF012

    @property
    def name(self) -> str:
        return "slow"

    def fits(self, shown) -> bool:
        return True

    @action
    def wait(self, shown, *, n: int) -> Answer:
        self.begun.append(n)
        self.go.wait(20)
        return Answer({"n": n})

    @action
    def count(self, shown, *, to: int):
        for i in range(to):
            self.steps.append(i)
            yield Answer({"i": i})
            time.sleep(0.005)

    @action
    def flood(self, shown):
        for i in range(1000):
            self.steps.append(i)
            yield Answer(arrays={"x": np.zeros(2**20, np.uint8)})


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Slow]:
    panel = _Slow()
    _Slow.go.clear()
    _Slow.begun.clear()
    _Slow.steps.clear()
    panels = {**registry.all_panels(), "slow": panel}
    monkeypatch.setattr("lowerbound.explorer.server.all_panels", lambda: panels)
    yield panel
    _Slow.go.set()


def test_the_latest_position_wins_and_nothing_queues(page: Page, slow: _Slow):
    """Of a hundred positions that come while the first is decoded, the last alone is decoded too."""
    with page.socket() as socket:
        for i in range(100):
            socket.send(json.dumps({"id": i, "panel": "slow", "do": "wait", "given": {"n": i}}))
        dropped = [read(socket.recv(20)).document for _ in range(98)]  # pyright: ignore[reportArgumentType]
        assert all(d["dropped"] for d in dropped)
        slow.go.set()
        found = [read(socket.recv(20)) for _ in range(2)]  # pyright: ignore[reportArgumentType]
    assert len(slow.begun) == 2
    assert slow.begun[-1] == 99
    assert [f.said["n"] for f in found] == slow.begun


def test_slots_are_lanes_of_their_own(page: Page, slow: _Slow):
    with page.socket() as socket:
        for slot in (0, 1):
            socket.send(json.dumps({"id": slot, "panel": "slow", "do": "wait", "slot": slot, "given": {"n": slot}}))
        deadline = time.monotonic() + 10
        while len(slow.begun) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sorted(slow.begun) == [0, 1]
        slow.go.set()
        assert {read(socket.recv(20)).said["n"] for _ in (0, 1)} == {0, 1}  # pyright: ignore[reportArgumentType]


def test_several_answers_end_where_a_newer_question_comes(page: Page, slow: _Slow):
    with page.socket() as socket:
        socket.send(json.dumps({"id": 1, "panel": "slow", "do": "count", "given": {"to": 2000}}))
        assert read(socket.recv(20)).document["more"]  # pyright: ignore[reportArgumentType]
        socket.send(json.dumps({"id": 2, "panel": "slow", "do": "count", "given": {"to": 3}}))
        found = []
        while not found or found[-1]["id"] != 2 or found[-1].get("more"):
            found.append(read(socket.recv(20)).document)  # pyright: ignore[reportArgumentType]
    assert {"id": 1, "dropped": True} in found
    assert len(slow.steps) < 1000
    assert [f["said"]["i"] for f in found if f["id"] == 2 and f["more"]] == [0, 1, 2]


def test_one_page_that_waits_or_does_not_listen_holds_up_no_other(page: Page, slow: _Slow):
    with page.socket() as busy, page.socket() as other:
        for slot in range(4):
            busy.send(json.dumps({"id": slot, "panel": "slow", "do": "wait", "slot": slot, "given": {"n": slot}}))
        size = ask(other, "latent", "about").said["size"]
        assert ask(other, "latent", "decode", z=[0.0] * size).arrays["picture"].shape == (8, 8, 1)
        assert len(slow.begun) <= 2, "one page has more threads than its own"
        slow.go.set()


def test_what_a_page_is_sent_that_is_gone_is_no_failure():
    """It may leave between two answers, or before the last."""

    async def gone(_: bytes) -> None:
        raise ConnectionError

    async def asked() -> list[dict]:
        failures: list[dict] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        with ThreadPoolExecutor(1) as pool:
            for found in (Answer(), iter([Answer()])):
                lanes = Lanes(lambda _, found=found: found, gone, pool)
                await lanes.put(Question(id=1, panel="any", do="any"))
                await asyncio.sleep(0.05)
        gc.collect()
        return failures

    assert asyncio.run(asked()) == []


def test_a_page_that_does_not_listen_makes_nobody_compute(page: Page, slow: _Slow):
    """Its answers fill the line, and then no more are found."""
    slow.go.set()
    with page.socket() as deaf, page.socket() as other:
        deaf.send(json.dumps({"id": 1, "panel": "slow", "do": "flood", "given": {}}))
        seen = [-1, 0]
        deadline = time.monotonic() + 20
        while seen[-1] != seen[-2] and time.monotonic() < deadline:
            time.sleep(0.3)
            seen.append(len(slow.steps))
        assert 0 < seen[-1] < 1000
        assert ask(other, "latent", "about").said["size"] == 20


def test_pages_are_bounded(page: Page):
    with ExitStack() as opened:
        for _ in range(SOCKETS):
            opened.enter_context(page.socket())
        more = opened.enter_context(page.socket())
        with pytest.raises(ConnectionClosed) as closed:
            more.recv(20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4429
    assert page.ask("", "runs").said["runs"], "their places are not given back"


# ---- the latent panel


def test_a_slider_moves_the_picture_as_the_model_decodes(page: Page, run: Run):
    model = run.load()
    about = page.ask("latent", "about")
    z = torch.zeros(about.said["size"])
    z[about.said["order"][0]] = 2.5
    picture = page.ask("latent", "decode", z=z.tolist()).arrays["picture"]
    mean = model.decode(z[None]).mean[0]
    expected = (mean.clamp(0, 16) * (255 / 16)).round().byte().movedim(0, -1)
    assert np.abs(picture.astype(int) - expected.numpy().astype(int)).max() <= 1
    assert sorted(about.said["order"]) == list(range(about.said["size"]))
    assert about.said["use"] == sorted(about.said["use"], reverse=True)


def test_a_seed_draws_the_same(page: Page):
    a, b = (page.ask("latent", "draw", seed=7, count=3) for _ in range(2))
    c = page.ask("latent", "draw", seed=8, count=3)
    np.testing.assert_array_equal(a.arrays["z"], b.arrays["z"])
    assert not np.array_equal(a.arrays["z"], c.arrays["z"])
    cold = page.ask("latent", "draw", seed=7, count=3, temperature=0)
    np.testing.assert_allclose(cold.arrays["z"], np.zeros_like(cold.arrays["z"]), atol=1e-6)


def test_a_direction_that_was_taught_is_the_runs(page: Page, run: Run):
    """From the code of one image to that of another: strength 1 carries the one onto the other."""
    a, b = (page.ask("latent", "encode", image=name).arrays["z"] for name in ("valid:0", "valid:1"))
    said = page.ask("latent", "teach", name="other", positive=["valid:1"], negative=["valid:0"]).said
    assert [d["name"] for d in said["directions"]] == ["other"]
    step = run.directions(run.load())["other"].step.numpy()
    np.testing.assert_allclose(a + step, b, atol=1e-5)
    moved = page.ask("latent", "decode", z=a.tolist(), strengths={"other": 1.0}).arrays["picture"]
    there = page.ask("latent", "decode", z=b.tolist()).arrays["picture"]
    assert np.abs(moved.astype(int) - there.astype(int)).max() <= 1
    assert "already" in page.ask("latent", "teach", name="other", positive=["valid:1"], negative=["valid:0"]).error


def test_the_way_is_an_animation_there_and_back(page: Page):
    a, b = (page.ask("latent", "encode", image=name).arrays["z"].tolist() for name in ("valid:0", "valid:1"))
    gif = page.ask("latent", "way", z=a, to=b, frames=6).arrays["gif"].tobytes()
    with Image.open(io.BytesIO(gif)) as image:
        assert image.n_frames == 10  # pyright: ignore[reportAttributeAccessIssue]
        assert image.width == 256


def test_a_run_that_was_trained_on_is_opened_anew(run: Run, tmp_path: Path):
    shutil.copytree(run.path, tmp_path / "run")
    copy = Run.open(tmp_path / "run")
    with serving([copy]) as page:
        size = page.ask("latent", "about").said["size"]
        before = page.ask("latent", "decode", z=[0.5] * size).arrays["picture"]
        model = copy.load()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.7)
        copy.save_model(model)
        after = page.ask("latent", "decode", z=[0.5] * size).arrays["picture"]
    assert not np.array_equal(before, after)


def test_a_run_without_weights_says_so(run: Run, tmp_path: Path):
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    with serving([Run.open(tmp_path / "run")]) as page:
        (said,) = page.ask("", "runs").said["runs"]
        assert "no weights yet" in page.ask("latent", "about").error
    assert "no weights yet" in said["problem"]
    assert "latent" not in [p["name"] for p in said["panels"]]


def test_a_model_that_is_too_large_says_so(run: Run, tmp_path: Path):
    shutil.copytree(run.path, tmp_path / "run")
    large = Run.open(tmp_path / "run")
    hidden = large.recipe.model.decoder.model_copy(update={"hidden": (2**40,)})
    large.recipe = large.recipe.model_copy(update={"model": large.recipe.model.model_copy(update={"decoder": hidden})})
    large.save_config()
    with serving([Run.open(tmp_path / "run"), run]) as page:
        said, other = page.ask("", "runs").said["runs"]
        assert "the memory of cpu is not enough" in said["problem"]
        assert not other["problem"]


# ---- the command


def test_a_taken_port_is_followed_by_the_next():
    with bound(18860) as first, bound(first.getsockname()[1]) as second:
        assert second.getsockname()[1] > first.getsockname()[1]


def test_the_newest_run_is_shown(run: Run, tmp_path: Path):
    for name, age in (("old", 100), ("new", 10)):
        shutil.copytree(run.path, tmp_path / name)
        at = time.time() - age
        os.utime(tmp_path / name / "model.safetensors", (at, at))
    assert newest(tmp_path).path.name == "new"
    with serving([newest(tmp_path / "nothing"), newest(tmp_path)]) as page:  # what comes with the package
        assert page.ask("latent", "about").said
        assert [said["name"] for said in page.ask("", "runs").said["runs"]] == ["pretrained:vae-mnist", "new"]


@pytest.mark.parametrize(("words", "why"), [(["--port", "0"], "1 to 65535"), (["nowhere"], "no such run")])
def test_mistakes_are_answered(here: Path, words: list[str], why: str):
    done = call("explore", *words)
    assert done.status == 2
    assert why in done.err


def test_a_run_of_a_newer_version_is_refused(run: Run, tmp_path: Path):
    shutil.copytree(run.path, tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"format": 1', '"format": 99'))
    assert "newer" in call("explore", tmp_path / "run").err


def test_it_begins_says_where_and_ends(run: Run, tmp_path: Path):
    """As a user starts it, in a process of its own: the address that it says is answered, and Ctrl-C ends it well."""
    own = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    words = [
        sys.executable,
        "-c",
        "from lowerbound.cli import main; main()",
        "explore",
        str(run.path),
        "--port",
        "19860",
    ]
    process = subprocess.Popen(words, env=own, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = re.search(r"http://127.0.0.1:(\d+)/\?token=(\w+)", process.stderr.readline())
    assert found, process.stderr.read()
    status, _, body = Page(int(found[1])).request("GET", f"/?token={found[2]}", cookie="")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (status, process.returncode) == (200, 0), err
    assert b"<main" in body
    assert "has ended" in out
    assert "Traceback" not in err
