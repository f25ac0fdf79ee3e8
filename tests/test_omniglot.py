"""Omniglot: pictures and arrays, what is made of them, and downloads that are whole or not there."""

from __future__ import annotations

import hashlib
import importlib
import io
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from guides.errors import DataError
from ppl_models.datasets import fetch, omniglot
from ppl_models.datasets.cache import SUMS
from ppl_models.datasets.drawings import read_drawings, resize
from tests.test_datasets import same, write_npz

SMALL = Path(__file__).parents[2] / "shared" / "data" / "omniglot_small.npz"
ZIPS = ("images_background.zip", "images_evaluation.zip")


def picture(number: int, side: int = 105) -> np.ndarray:
    """Draw one black bar on white, another for each number."""
    pixels = np.ones((side, side), dtype=bool)
    pixels[10 : 20 + number, 30 + number : 40 + number] = False
    return pixels


def png(pixels: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def write_zip(path: Path, alphabet: str, changed: dict[str, bytes] | None = None, count: int = 25) -> Path:
    """Write ``count`` pictures of five characters, as the published files name them."""
    names = [f"{path.stem}/{alphabet}/character{n % 5 + 1:02}/{n % 5:04}_{n // 5:02}.png" for n in range(count)]
    files = {name: png(picture(n)) for n, name in enumerate(names)}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"__MACOSX/{path.stem}/._{alphabet}.png", b"no picture")
        archive.mkdir(f"{path.stem}/{alphabet}")
        for name, content in (files | (changed or {})).items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def zips(tmp_path: Path) -> Path:
    folder = tmp_path / "zips"
    folder.mkdir()
    write_zip(folder / ZIPS[0], "Latin")
    write_zip(folder / ZIPS[1], "Greek", count=30)
    return folder


# -------------------------------------------------------------------------------------------------- pictures and arrays


def test_pictures_are_inverted_then_resized_then_binarised(zips):
    data = omniglot(zips, seed=1)
    assert data.name == "omniglot"
    assert data.train.shape == (20, 1, 28, 28)
    assert data.validation.shape == (5, 1, 28, 28)
    assert data.test.shape == (30, 1, 28, 28)
    # Strokes are white, their edges grey: the resizing came before any binarisation, and none was done to them.
    assert data.train.amax() == 1
    assert data.train.median() == 0
    assert ((data.train > 0) & (data.train < 1)).any()
    assert data.train_labels.sort().values.bincount(minlength=10).tolist()[:5] == [0] * 5
    assert data.test_labels.bincount(minlength=10).tolist() == [6] * 5 + [0] * 5
    assert set(torch.cat([data.train_labels, data.validation_labels]).tolist()) == {5, 6, 7, 8, 9}


def test_a_label_stays_with_its_picture(zips):
    drawings = read_drawings(zips / ZIPS[0])
    # In the order of the names: character 1 is pictures 0, 5, 10, ...
    originals = torch.stack([torch.from_numpy(255 * ~picture(n)) for n in range(25)]).to(torch.uint8)
    order = sorted(range(25), key=lambda n: (n % 5, n // 5))
    assert drawings.characters == [("Latin", n % 5 + 1) for n in order]
    assert torch.equal(drawings.images, resize(originals[order]))


def test_resize_is_pillows_bilinear_reduction_to_one_grey_level():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 105, 105), dtype=np.uint8)
    pillow = np.stack(
        [np.asarray(Image.fromarray(each).resize((28, 28), Image.Resampling.BILINEAR)) for each in pixels]
    )
    # Pillow rounds after the rows and after the columns, we once.
    assert (resize(torch.from_numpy(pixels)).int() - torch.from_numpy(pillow).int()).abs().max() <= 1


def test_arrays_of_one_file_are_split_in_three(tmp_path):
    path = write_npz(tmp_path / "drawings.npz", count=100)
    data, again = omniglot(path, seed=2), omniglot(str(path), seed=2)
    assert (len(data.train), len(data.validation), len(data.test)) == (64, 16, 20)
    assert same(data, again)
    labels = torch.cat([data.train_labels, data.validation_labels, data.test_labels])
    assert labels.bincount().tolist() == [10] * 10
    # A drawing's one pixel says which drawing it is: none is in two parts, and its label is its own.
    row, column = data.train[:, 0].flatten(1).argmax(1) // 28, data.train[:, 0].flatten(1).argmax(1) % 28
    which = row + 28 * column
    assert len(which.unique()) == 64
    assert torch.equal(data.train_labels, torch.where(which % 2 == 0, 5, 0) + which % 5)


def test_the_real_omniglot():
    if not SMALL.is_file():
        pytest.skip("Omniglot's arrays are not beside this checkout")
    data = omniglot(SMALL)
    assert (len(data.train), len(data.validation), len(data.test)) == (3098, 774, 968)
    labels = torch.cat([data.train_labels, data.validation_labels, data.test_labels])
    assert labels.bincount().tolist() == [20] * 242
    # A stroke covers about a tenth of a drawing, and background is 0.
    assert 0.05 < data.train.mean() < 0.15
    assert data.train.median() == 0


# ------------------------------------------------------------------------------------------------ files that are not it


BAD_ARRAYS = {
    "labels": ({"images": np.arange(50)}, r"images must have shape \(N, 28, 28\); got \(50,\): are they labels\?"),
    "size": (
        {"images": np.zeros((50, 105, 105), np.uint8)},
        r"images must be uint8 of shape \(N, 28, 28\); got uint8 of shape \(50, 105, 105\)",
    ),
    "dtype": ({"images": np.zeros((50, 28, 28))}, r"images must be uint8 .*; got float64"),
    "keys": (
        {"character": None, "letter": np.arange(50)},
        r"must have the arrays images, alphabet, character; got images, alphabet, letter\. Write it with numpy.savez\(",
    ),
    "names": ({"alphabet": np.arange(50)}, r"alphabet must be names and character whole numbers; got int64 and int64"),
    "numbers": (
        {"character": np.arange(50.0)},
        r"alphabet must be names and character whole numbers; got <U5 and float64",
    ),
    "few": (
        {"character": np.arange(49)},
        r"alphabet and character must have one entry per image, 50; got shapes \(50,\) and \(49,\)",
    ),
    "objects": ({"alphabet": np.array([None] * 50)}, r"must be an .npz file of plain arrays; got Object arrays"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_are_checked(tmp_path, case):
    changed, message = BAD_ARRAYS[case]
    with pytest.raises(DataError, match=rf"bad\.npz: {message}"):
        omniglot(write_npz(tmp_path / "bad.npz", **changed))


def test_an_array_file_must_be_one(tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(b"not numpy's")
    with pytest.raises(DataError, match=r"bad\.npz: must be an \.npz file of plain arrays; got "):
        omniglot(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"bad\.npz: must be an intact \.npz file; got .*\. Fetch it again"):
        omniglot(path)
    write_npz(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"bad\.npz: must be an intact \.npz file; got "):
        omniglot(path)
    with zipfile.ZipFile(path, "w") as texts:
        for name in ("images", "alphabet", "character"):
            texts.writestr(name, "hello")
    with pytest.raises(DataError, match=r"bad\.npz: images must be uint8 of shape"):
        omniglot(path)
    with path.open("wb") as single:
        np.save(single, np.zeros(3))
    with pytest.raises(DataError, match=r"bad\.npz: must be an \.npz file with images, .*; got a single array"):
        omniglot(path)
    with pytest.raises(DataError, match=r"bad\.npz: must hold at least 25 drawings; got 24"):
        omniglot(write_npz(path, count=24))


FIRST = "images_background/Latin/character01/0000_00.png"
BAD_PICTURES = {
    "size": ({FIRST: png(picture(0, side=28))}, r"0000_00\.png must be 105 x 105 pixels; got \(28, 28\)"),
    "text": ({FIRST: b"hello"}, r"0000_00\.png must be a picture; got something else"),
    "cut": ({FIRST: png(picture(0))[:60]}, r"(must be an intact \.zip file|.*0000_00\.png must be a picture)"),
    "place": ({"stray.png": png(picture(0))}, r"named \.\.\./ALPHABET/characterNN/\.\.\.\.png; got 'stray\.png'"),
    "number": ({"a/Latin/charlie/0.png": png(picture(0))}, r"named .*; got 'a/Latin/charlie/0\.png'"),
}


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_pictures_are_checked(zips, case):
    changed, message = BAD_PICTURES[case]
    write_zip(zips / ZIPS[0], "Latin", changed)
    with pytest.raises(DataError, match=rf"images_background\.zip: .*{message}"):
        omniglot(zips)


def test_a_zip_file_must_be_whole(zips):
    path = zips / ZIPS[1]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"images_evaluation\.zip: must be an intact \.zip file; got .*Fetch it again"):
        omniglot(zips)
    at = whole.index(b"IDAT")
    path.write_bytes(whole[:at] + b"\xff\xff\xff\xff" + whole[at + 4 :])
    with pytest.raises(DataError, match=r"images_evaluation\.zip: must be an intact \.zip file"):
        omniglot(zips)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images_evaluation/Greek/character01/0001_01.png", png(picture(0)))
        archive.infolist()[0].flag_bits |= 1
    with pytest.raises(DataError, match=r"images_evaluation\.zip: must be an intact \.zip file; got .* is encrypted"):
        omniglot(zips)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", "nothing else")
    with pytest.raises(DataError, match=r"images_evaluation\.zip: must hold pictures named .*; got none"):
        omniglot(zips)


def test_it_is_said_which_files_are_wanted(zips):
    rule = r"data_dir must be a folder with images_background\.zip and images_evaluation\.zip, or one \.npz file; got"
    with pytest.raises(DataError, match=rf"{rule} '.*nowhere', which is not there"):
        omniglot(zips / "nowhere")
    with pytest.raises(DataError, match=rf"{rule} '.*', one zip file\. Give the folder"):
        omniglot(zips / ZIPS[0])
    (zips / ZIPS[1]).unlink()
    with pytest.raises(DataError, match=rf"{rule} '.*zips', which lacks images_evaluation\.zip"):
        omniglot(zips)


# ------------------------------------------------------------------------------------------------- downloads, the cache


@pytest.fixture
def server(zips: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Serve the zip files on this machine: `answers` is what each path gives, `asked` what was asked for."""
    known = SimpleNamespace(answers={f"/{name}": (zips / name).read_bytes() for name in ZIPS}, asked=[], cut=0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.asked.append(self.path)
            if self.path not in known.answers:
                return self.send_error(404)
            body = known.answers[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) - known.cut])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as serving:
        known.url = f"http://127.0.0.1:{serving.server_port}/"
        module = importlib.import_module("ppl_models.datasets.omniglot")
        monkeypatch.setattr(module, "_URL", known.url)
        parts = {
            Path(name).stem: (hashlib.md5((zips / name).read_bytes()).hexdigest(), count)
            for name, count in zip(ZIPS, (25, 30), strict=True)
        }
        monkeypatch.setattr(module, "_PARTS", parts)
        thread = Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield known
        serving.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


KEPT = [SUMS, "images_background.npz", "images_evaluation.npz"]


def test_what_is_downloaded_once_is_kept(server, zips, tmp_path):
    data = omniglot(cache_dir=tmp_path / "cache")
    assert same(data, omniglot(zips))
    assert server.asked == [f"/{name}" for name in ZIPS]
    assert names(tmp_path / "cache") == KEPT
    assert same(data, omniglot(cache_dir=tmp_path / "cache"))
    assert len(server.asked) == 2


FAULTS = {
    # By Python's version the early end is noticed by its HTTP client or by the checksum.
    "cut short": r"must have the MD5 checksum \w+; got \w+ for [\d,]+ bytes, which were not kept\. Try|IncompleteRead",
    "changed": r"must have the MD5 checksum .* for 6 bytes",
    "missing": r"could not be downloaded to .*images_evaluation\.zip \(HTTP Error 404: Not Found\)",
    "no server": r"could not be downloaded to .*images_background\.zip \(.*refused.*\)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_download_is_said_and_not_kept(server, tmp_path, monkeypatch, fault):
    if fault == "cut short":
        server.cut = 10
    elif fault == "changed":
        server.answers[f"/{ZIPS[1]}"] = b"<html>"
    elif fault == "missing":
        del server.answers[f"/{ZIPS[1]}"]
    else:
        monkeypatch.setattr(importlib.import_module("ppl_models.datasets.omniglot"), "_URL", "http://127.0.0.1:9/")
    instead = r".*fetch it elsewhere, put it and the other of images_background\.zip and images_evaluation\.zip into a"
    with pytest.raises(DataError, match=f"({FAULTS[fault]}){instead}") as caught:
        omniglot(cache_dir=tmp_path / "cache")
    assert len(str(caught.value).splitlines()) == 1
    assert names(tmp_path / "cache") == []


def test_fetch_copies_from_disk_and_then_no_network_is_needed(server, zips, tmp_path):
    cache = tmp_path / "cache"
    assert [path.name for path in fetch("omniglot", zips, cache_dir=cache)] == KEPT[1:]
    assert same(omniglot(cache_dir=cache), omniglot(zips))
    arrays = write_npz(tmp_path / "drawings.npz")
    assert [path.name for path in fetch("omniglot", arrays, cache_dir=cache)] == ["omniglot.npz"]
    assert same(omniglot(cache_dir=cache), omniglot(arrays))
    assert server.asked == []


def test_what_is_fetched_must_be_all_of_it(server, zips, tmp_path):
    write_zip(zips / ZIPS[1], "Greek", count=29)
    with pytest.raises(DataError, match=r"images_evaluation\.zip must hold 30 drawings; got 29\. Fetch it again"):
        fetch("omniglot", zips, cache_dir=tmp_path / "cache")
    assert names(tmp_path / "cache") == []
