"""The command advise: its measures, its page, the command that it recommends, and how it fails."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from batchsampler_ext import Plan, compose
from batchsampler_ext.cli import main
from batchsampler_ext.cli.shown_rows import Images

N = 560
BASE = ["q.npy", "d.npy", "--batch-size", "32", "--num-threads", "1", "--out", "page.html"]
VOID = {"meta", "img", "br", "rect", "path"}


@pytest.fixture
def towers(rng, tmp_path, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    """Writes q.npy, d.npy, labels and unique ids to the working directory. Queries share a common component."""
    queries = (rng.standard_normal((N, 16)) + 0.7).astype("f4")
    documents = (queries + 0.3 * rng.standard_normal(queries.shape)).astype("f4")
    monkeypatch.chdir(tmp_path)
    np.save("q.npy", queries)
    np.save("d.npy", documents)
    np.save("y.npy", np.arange(N) % 6)
    np.save("u.npy", np.arange(N) // 3)
    np.save("p.npy", np.stack([np.arange(0, N, 2), np.arange(1, N, 2)], 1))
    return queries, documents


def advised(*arguments: str) -> tuple[dict, str]:
    """Runs the command. Returns the numbers and the page."""
    assert main(["advise", *BASE, "--json", "report.json", *arguments]) == 0
    return json.loads(Path("report.json").read_text()), Path("page.html").read_text("utf-8")


def error_of(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["advise", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert not Path("page.html").exists()
    return captured.err.removeprefix("error: ").strip()


class Page(HTMLParser):
    """Parses a page: its text, tags and attributes. Raises if an element is not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


# --- measures --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"unique": "u.npy"}, {"labels": "y.npy", "positives": "p.npy"}])
def test_measures_are_those_of_reports(towers, options):
    """Windows are slices of one search, and give the batches and hints of plans that search them."""
    found, _ = advised(*[part for name, path in options.items() for part in (f"--{name}", path)])
    arrays = {name: np.load(path) for name, path in options.items()}
    assert [tuple(outcome["window"]) for outcome in found["outcomes"][::2]] == [(p, p + 100) for p in (0, 10, 30, 100)]
    for outcome in found["outcomes"]:
        plan = compose(
            *towers, batch_size=32, rank_window=outcome["window"], community_size=outcome["community_size"], **arrays
        )
        report = plan.report(*towers)
        assert report["planned"]["in_batch_similarity"] == outcome["similarity"]
        assert report["planned"]["in_batch_accuracy"] == outcome["accuracy"]
        if not options:
            assert report.hints == outcome["hints"]
            assert report["uniform"]["in_batch_similarity"] == found["uniform"]["similarity"]
            assert report.own_rank == found["own_rank"]
    plan = compose(*towers, batch_size=32, preset="uniform", **arrays)
    assert plan.report(*towers)["planned"]["in_batch_accuracy"] == found["uniform"]["accuracy"]


def test_measures_are_those_of_a_simple_computation(towers):
    found, _ = advised("--labels", "y.npy")
    queries, documents = (torch.nn.functional.normalize(torch.from_numpy(tower).double(), dim=1) for tower in towers)
    labels = torch.arange(N) % 6
    outcome = found["outcomes"][-1]
    plan = compose(
        *towers, batch_size=32, rank_window=outcome["window"], community_size=outcome["community_size"], labels=labels
    )
    near, hardest, false = [], [], []
    for ids in plan.batches(0):
        scores = queries[ids] @ documents[ids].T
        is_other = ~torch.eye(len(ids), dtype=torch.bool)
        near.append(((scores >= 0.95 * scores.diagonal()[:, None]) & is_other).sum(1).double().mean())
        hardest += scores.masked_fill(~is_other, -2).max(1).values.tolist()
        false.append((labels[ids][:, None] == labels[ids])[is_other].double().mean())
    assert outcome["near_own"] == pytest.approx(np.mean(near))
    assert outcome["hardest"] == pytest.approx(np.mean(hardest), abs=1e-6)
    assert outcome["false_negatives"] == pytest.approx(np.mean(false))


def test_sample_rows_show_a_nearer_window(towers):
    np.save("q.npy", towers[0][:60])
    np.save("d.npy", towers[1][:60])
    found, _ = advised("--batch-size", "8")
    assert found["advice"]["window"] == [3, 15]
    for row in found["rows"]:
        assert [part["rank"] for part in row["neighbors"]] == [1, 2, 3, 4, 5, 6, 11, 12, 13, 31, 32, 33]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--unique", "u.npy"], "Ranks do not count rows with an equal id in --unique."),
        (["--unique", "u.npy", "--labels", "y.npy"], "Ranks do not count rows with an equal label."),
        (["--unique", "u2.npy"], None),  # ranks count them, see compose
    ],
)
def test_the_page_says_what_ranks_do_not_count(towers, options, sentence):
    np.save("u2.npy", np.stack([np.arange(N) // 3, np.arange(N) // 2], 1))
    _, page = advised(*options)
    assert ("Ranks do not count" in page) == (sentence is not None)
    assert sentence is None or sentence in page


def test_unknown_labels_count_no_false_negatives(towers, capsys):
    np.save("y.npy", np.full(N, -1))
    found, page = advised("--labels", "y.npy")
    assert found["uniform"]["false_negatives"] is None
    for text in (capsys.readouterr().out, page):
        assert "false negatives:" not in text
        assert "nan" not in text


def test_rows_of_one_label_have_no_neighbors(towers):
    np.save("y.npy", np.zeros(N, int))
    found, page = advised("--labels", "y.npy")
    assert [row["neighbors"] for row in found["rows"]] == [[]] * 5
    assert Page(page).tags.count("h3") == 5


def test_sample_rows_are_exact_neighbors(towers):
    found, _ = advised("--labels", "y.npy")
    queries, documents = (torch.nn.functional.normalize(torch.from_numpy(tower).double(), dim=1) for tower in towers)
    rows = found["rows"]
    assert [row["instance"] * 5 // N for row in rows] == list(range(5))
    for row in rows:
        scores = documents @ queries[row["instance"]]
        others = [i for i in scores.argsort(descending=True).tolist() if (i - row["instance"]) % 6]
        assert [part["rank"] for part in row["neighbors"]] == [1, 2, 3, 11, 12, 13, 31, 32, 33, 101, 102, 103]
        assert [part["instance"] for part in row["neighbors"]] == [
            others[part["rank"] - 1] for part in row["neighbors"]
        ]
        own = float(scores[row["instance"]])
        assert row["own_score"] == pytest.approx(own, abs=1e-6)
        for part in row["neighbors"]:
            assert part["score"] == pytest.approx(float(scores[part["instance"]]), abs=1e-6)
            assert part["is_above"] == (part["score"] > own)


# --- the recommendation ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [[], ["--labels", "y.npy", "--unique", "u.npy", "--seed", "3"], ["--metric", "ip", "--positives", "p.npy"]],
)
def test_the_recommended_command_and_call_make_the_measured_plan(towers, capsys, options):
    found, page = advised(*options)
    out = capsys.readouterr().out
    assert f"Compose with\n  {found['command']}\n" in out
    text = Page(page).text
    assert found["command"] in text
    assert found["python"] in text
    program, *arguments = shlex.split(found["command"])
    assert program == "batchsampler-ext"
    assert main(arguments) == 0
    plan = Plan.load("plan.bse")
    report, chosen = plan.report(*towers), found["advice"]
    (outcome,) = [
        outcome
        for outcome in [found["uniform"], *found["outcomes"]]
        if [outcome[name] == chosen[name] for name in ("window", "community_size")] == [True, True]
    ]
    assert report["planned"]["in_batch_similarity"] == outcome["similarity"]
    assert report["planned"]["in_batch_accuracy"] == outcome["accuracy"]
    assert found["costs"]["plan_bytes"] == pytest.approx(Path("plan.bse").stat().st_size, abs=64)
    by_command = [batch.tolist() for batch in plan.batches(0)]
    Path("plan.bse").unlink()
    exec(found["python"], {})
    assert [batch.tolist() for batch in Plan.load("plan.bse").batches(0)] == by_command


def test_numbers_that_are_not_finite_are_null(towers):
    for name, tower in zip(("q.npy", "d.npy"), towers, strict=True):
        np.save(name, tower * np.float32(1e19))  # dot products overflow
    found, _ = advised("--metric", "ip")
    assert found["uniform"]["similarity"] is None
    assert found["uniform"]["accuracy"] is not None


def test_few_rows_have_fewer_windows(towers, capsys):
    np.save("q.npy", towers[0][:60])
    np.save("d.npy", towers[1][:60])
    found, page = advised("--batch-size", "8")
    assert {tuple(outcome["window"]) for outcome in found["outcomes"]} == {(3, 15)}
    for text in (" ".join(capsys.readouterr().out.split()), Page(page).text):
        assert "Not measured, because there are only 60 instances: ranks 1 to 100, ranks 11 to 110" in text


def test_a_teacher_that_cannot_tell(towers, rng, capsys):
    np.save("d.npy", rng.standard_normal((N, 16)).astype("f4"))
    found, page = advised()
    assert found["advice"]["arguments"] == {"preset": "uniform"}
    assert "hard batches gained nothing" in Page(page).text
    assert "--preset uniform" in found["command"]


def test_without_documents(towers):
    assert main(["advise", "q.npy", *BASE[2:], "--json", "report.json"]) == 0
    found, page = json.loads(Path("report.json").read_text()), Page(Path("page.html").read_text("utf-8"))
    assert found["uniform"]["accuracy"] is None
    assert "own document" not in page.text
    unit = torch.nn.functional.normalize(torch.from_numpy(towers[0]).double(), dim=1)
    for row in found["rows"]:
        for part in row["neighbors"]:
            assert part["score"] == pytest.approx(float(unit[row["instance"]] @ unit[part["instance"]]), abs=1e-6)
    assert found["command"].startswith("batchsampler-ext compose q.npy --batch-size 32")


# --- the page --------------------------------------------------------------------------------------------------------
def test_the_page_is_one_file_that_needs_nothing_else(towers):
    np.save("im.npy", np.full((N, 20, 30, 3), 200, np.uint8))
    Path("t.tsv").write_text("".join(f"query {i}\tdocument {i}\n" for i in range(N)))
    _, page = advised("--images", "im.npy", "--texts", "t.tsv")
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "base"} & set(parsed.tags)
    for name, value in parsed.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "href", "srcset", "data") or (value or "").startswith("data:image/jpeg;base64,")
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page.replace("data:image/jpeg;base64,", ""))
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_two_runs_write_the_same_page_apart_from_seconds(towers):
    Path("t.jsonl").write_text("".join(json.dumps({"query": f"q{i}", "document": "d"}) + "\n" for i in range(N)))
    before = torch.get_num_threads()
    pages = [advised("--texts", "t.jsonl", "--num-threads", threads)[1] for threads in "12"]
    assert torch.get_num_threads() == before
    without = [re.sub(r"[\d.,]+ (?:us|ms|s)\b", "TIME", page) for page in pages]
    assert without[0] == without[1]
    assert advised("--texts", "t.jsonl", "--seed", "1")[1] != pages[0]


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_texts_are_escaped_and_cut(towers, kind):
    evil = '<script>alert("1 & 2")</script> $style \x07 \ud800' if kind == "jsonl" else '<b onclick="x">&amp;$title'
    lines = [(f"{evil} q{i}", f"{evil} d{i} " + "long " * 100) for i in range(N)]
    if kind == "tsv":
        Path("t.tsv").write_text("\ufeff" + "".join(f"{query}\t{document}\r\n" for query, document in lines))
    else:
        content = [json.dumps({"query": query, "document": document, "more": 1}) for query, document in lines]
        Path("t.jsonl").write_text("\n".join(content))
    found, page = advised("--texts", f"t.{kind}")
    parsed = Page(page)
    assert not {"script", "b"} & set(parsed.tags)
    assert "\x07" not in page
    first = found["rows"][0]
    wanted = evil.replace("\x07", "").replace("\ud800", "")
    for text in (f"{wanted} q{first['instance']}", f"{wanted} d{first['neighbors'][0]['instance']} long"):
        assert " ".join(text.split()) in parsed.text
    assert "…" in parsed.text
    assert "long " * 60 not in parsed.text


def test_empty_texts_are_marked(towers):
    Path("t.tsv").write_text("q\t\n" * N)
    found, page = advised("--texts", "t.tsv")
    assert page.count("(no text)") == sum(1 + len(row["neighbors"]) for row in found["rows"])


def test_names_of_files_are_escaped(towers):
    name = "a<i>&'\".npy"
    np.save(name, towers[0])
    assert main(["advise", name, *BASE[2:]]) == 0
    page = Page(Path("page.html").read_text("utf-8"))
    assert "i" not in page.tags
    assert f"How to compose batches for {name}" in page.text
    assert f"batchsampler-ext compose {shlex.quote(name)} " in page.text


@pytest.mark.parametrize("shape", [(N, 200, 100), (N, 9, 9, 3)])
def test_images_are_embedded_as_thumbnails(towers, shape, rng):
    images = pytest.importorskip("PIL.Image")
    np.save("im.npy", rng.integers(0, 255, shape).astype(np.uint8))
    _, page = advised("--images", "im.npy")
    sources = [value for name, value in Page(page).attributes if name == "src"]
    assert len(sources) == 5 * 13
    image = images.open(io.BytesIO(base64.b64decode(sources[0].split(",")[1])))
    assert image.size == ((48, 96) if len(shape) == 3 else (9, 9))


def test_images_of_a_list(towers, capsys):
    images = pytest.importorskip("PIL.Image")
    Path("pictures").mkdir()
    images.new("RGBA", (300, 100), "red").save("pictures/a.png")
    Path("pictures/list.txt").write_text("a.png\n" * N)
    _, page = advised("--images", "pictures/list.txt")
    assert page.count('src="data:image/jpeg;base64,') == 5 * 13
    Path("page.html").unlink()
    Path("pictures/broken.png").write_bytes(b"\x89PNG\r\n")
    Path("pictures/list.txt").write_text("broken.png\n" * N)
    wanted = "--images, line 1: expected an image, got 'pictures/broken.png'"
    assert error_of(capsys, *BASE, "--images", "pictures/list.txt").startswith(wanted)
    Path("pictures/list.txt").write_text("a.png\n" * (N - 1) + "b.png\n")
    wanted = f"--images: expected files, got none at 'pictures/b.png' in line {N} of 'pictures/list.txt'"
    assert error_of(capsys, *BASE, "--images", "pictures/list.txt") == wanted


def test_a_damaged_image_does_not_cost_the_page(towers, capsys):
    images = pytest.importorskip("PIL.Image")
    images.new("L", (3, 3)).save("a.png")
    Path("broken.png").write_bytes(b"\x89PNG\r\n")
    Path("list.txt").write_text("a.png\n" * 30 + "broken.png\n" * (N - 30))
    found, page = advised("--images", "list.txt")
    instances = {row["instance"] for row in found["rows"]}
    instances |= {part["instance"] for row in found["rows"] for part in row["neighbors"]}
    number = sum(instance >= 30 for instance in instances)
    err = capsys.readouterr().err
    assert re.search(r"^warning: --images, line \d+: expected an image, got 'broken.png'", err)
    assert f"(and {number - 1} more); the page has row numbers instead" in err
    for row in found["rows"]:
        for part in row["neighbors"]:
            assert (f">row {part['instance']}<" in page) == (part["instance"] >= 30)
            assert (f'<img alt="image {part["instance"]}"' in page) == (part["instance"] < 30)


def test_thumbnails_show_images_of_other_modes(tmp_path):
    images = pytest.importorskip("PIL.Image")
    levels = np.linspace(0, 2**16 - 1, 96 * 96).reshape(96, 96)
    images.fromarray(levels.astype(np.uint16)).save(tmp_path / "deep.png")
    images.fromarray(levels.astype(np.float32)).save(tmp_path / "float.tiff")
    images.new("RGBA", (90, 90)).save(tmp_path / "transparent.png")
    images.new("CMYK", (500, 2)).save(tmp_path / "thin.tiff")
    names = ["deep.png", "float.tiff", "transparent.png", "thin.tiff"]
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    thumbnails, problems = Images(str(tmp_path / "list.txt"), 4).of(range(4))
    assert problems == []
    deep, floating, transparent, thin = (np.asarray(images.open(io.BytesIO(thumbnails[i]))) for i in range(4))
    assert 120 < deep.mean() < 135
    assert 120 < floating.mean() < 135
    assert (transparent == 255).all()
    assert thin.shape == (1, 96, 3)


def test_a_closed_pipe_does_not_cost_the_page(towers, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    assert main(["advise", *BASE]) == 2
    assert "Recommendation" in Page(Path("page.html").read_text("utf-8")).text


def test_a_full_disk_does_not_cost_the_text(towers, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("batchsampler_ext.cli.advise.page", full)
    assert main(["advise", *BASE]) == 2
    assert "Recommendation" in capsys.readouterr().out


# --- errors ----------------------------------------------------------------------------------------------------------
TEXT_ERRORS = [
    ("t.tsv", "q\td\n" * (N - 1), f"--texts: expected a line for each of {N} instances, got {N - 1} in 't.tsv'"),
    (
        "t.txt",
        "q\td\n" * 3 + "q\n" * (N - 3),
        "--texts: expected a query, a tab and a document, got 1 columns in line 4",
    ),
    ("t.tsv", "q\td\te\n" * N, "--texts: expected a query, a tab and a document, got 3 columns in line 1 of 't.tsv'"),
    ("t.jsonl", '{"query": "q"}\n' * N, "--texts: expected JSON with the texts query and document, got"),
    ("t.jsonl", '{"query": "q", "document": 1}\n' * N, "--texts: expected JSON with the texts query and document, got"),
    ("t.jsonl", "[" * 10**5, "--texts: expected JSON with the texts query and document, got '[[["),
    ("t.jsonl", "q\n" * N, "--texts: expected JSON with the texts query and document, got 'q"),
    ("t.csv", "q,d\n" * N, "--texts: expected a .txt, .tsv or .jsonl file, got 't.csv'"),
    ("t.txt", b"\xff\td\n" * N, "--texts: expected text in UTF-8, got 't.txt'"),
]


@pytest.mark.parametrize(("name", "content", "message"), TEXT_ERRORS)
def test_bad_texts(towers, capsys, name, content, message):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert error_of(capsys, *BASE, "--texts", name).startswith(message)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((N, 4, 4), "f4"), f"expected uint8 [N, H, W] or [N, H, W, 3], got float32 [{N}, 4, 4]"),
        (np.zeros((N, 4, 4, 4), "u1"), f"expected uint8 [N, H, W] or [N, H, W, 3], got uint8 [{N}, 4, 4, 4]"),
        (np.zeros((N, 0, 4), "u1"), f"expected uint8 [N, H, W] or [N, H, W, 3], got uint8 [{N}, 0, 4]"),
        (np.zeros((N + 1, 4, 4), "u1"), f"expected an image for each of {N} instances, got {N + 1}"),
        (np.zeros((), "u1"), "expected uint8 [N, H, W] or [N, H, W, 3], got uint8 []"),
    ],
)
def test_bad_images(towers, capsys, array, message):
    pytest.importorskip("PIL")
    np.save("im.npy", array)
    assert error_of(capsys, *BASE, "--images", "im.npy").startswith(f"--images: {message}")


def test_other_bad_input(towers, capsys, monkeypatch):
    assert f"--batch-size: expected 2 to {N // 2}" in error_of(capsys, *BASE, "--batch-size", str(N // 2 + 1))
    assert f"--batch-size: expected 2 to {N // 2}" in error_of(capsys, *BASE, "--batch-size", "1")
    np.save("few.npy", towers[0][:3])
    assert "QUERIES: expected at least 4 rows" in error_of(capsys, "few.npy", *BASE[2:])
    assert "--batch-size: expected a number with a divisor" in error_of(capsys, *BASE, "--batch-size", "113")
    assert "--metric: expected one of" in error_of(capsys, *BASE, "--metric", "dot")
    assert "DOCUMENTS: expected" in error_of(capsys, "q.npy", "y.npy", *BASE[2:])
    assert "--texts: expected a readable file" in error_of(capsys, *BASE, "--texts", "none.txt")
    assert "--images: expected a readable file" in error_of(capsys, *BASE, "--images", "none.txt")
    assert "--images: expected a .npy or .txt file" in error_of(capsys, *BASE, "--images", "a.png")
    np.save("short.npy", np.arange(5))
    assert f"--labels: expected one for each of {N} instances, got 5" in error_of(
        capsys, *BASE, "--labels", "short.npy"
    )
    np.save("same.npy", np.zeros(N, int))
    assert "--unique: expected" in error_of(capsys, *BASE, "--unique", "same.npy")
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    np.save("im.npy", np.zeros((N, 4, 4), "u1"))
    assert "--images: expected Pillow to be installed, got none" in error_of(capsys, *BASE, "--images", "im.npy")


def test_outputs_replace_no_inputs(towers, capsys):
    Path("t.tsv").write_text("q\td\n" * N)
    base = [part for part in BASE if part not in ("--out", "page.html")]
    for option, path in (("QUERIES", "q.npy"), ("DOCUMENTS", "d.npy"), ("--texts", "t.tsv"), ("--labels", "y.npy")):
        given = [] if option.isupper() else [option, path]
        found = error_of(capsys, *base, *given, "--out", path)
        assert found.startswith(f"--out: expected another file than {option}")
    assert "--json: expected another file than --out" in error_of(capsys, *BASE, "--json", "page.html")
    assert "--out: expected a path in a writable directory" in error_of(capsys, *base, "--out", "none/page.html")


def test_repeated_texts_are_counted(towers, capsys):
    pairs = [{"query": f"q{i % (N - 3)}", "document": f"d{i % (N - 5)}"} for i in range(N)]
    Path("t.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    found, page = advised("--texts", "t.jsonl")
    sentence = f"5 of {N} instances repeat a text of an earlier one."
    assert found["advice"]["reasons"][-1].startswith(sentence)
    assert sentence in page
    np.save("ids.npy", np.arange(N) % (N - 5))
    assert "repeat a text" not in " ".join(advised("--texts", "t.jsonl", "--unique", "ids.npy")[0]["advice"]["reasons"])
