"""The HTML pages: whole documents that need nothing from outside, with what they show in them."""

import base64
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from flux_pipelines import make_call, make_pipeline, run
from PIL import Image
from presets import make_preset

import ddit_ext
from ddit_ext.reports.report import Report, RunRecord, StepRecord
from ddit_ext.reports.svg import SIZES, Chart, size_colour

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")
VOID = {"meta", "img", "br"}


class Document(HTMLParser):
    """Checks that tags are closed in order; collects text, tags and addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.addresses = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(path):
    text = path.read_text(encoding="utf-8")
    document = Document(text)
    assert "script" not in document.tags and "link" not in document.tags
    assert all(address.startswith("data:image/png;base64,") for address in document.addresses)
    assert "http" not in text and "@import" not in text and "url(" not in text
    assert "prefers-color-scheme: dark" in text
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ElementTree.fromstring(svg)
        assert "nan" not in svg and "inf" not in svg
    return text, document


@pytest.fixture(scope="module")
def handle():
    handle = ddit_ext.patch(make_pipeline(), threshold=(1e9, 0.0))
    run(handle.pipe, make_call(rows=6, columns=5, steps=6, batch=2))
    return handle


def test_page_of_a_run(handle, tmp_path):
    path = tmp_path / "run.html"
    handle.report().html(path)
    text, document = read(path)
    assert text.count("<h1>") == 1 and "6 of 6 steps computed, 3 at scale 1, 3 at scale 2" in text
    strips = re.findall(r'aria-label="patch size of each step">(.*?)</svg>', text)
    assert len(strips) == 1  # both samples took the same
    assert re.findall(r'fill="(#\w+)"', strips[0]) == [SIZES[0]] * 3 + [SIZES[1]] * 3
    lines = re.findall(r'<polyline points="([^"]+)"', text)
    assert len(lines) == 4 and all(
        len(line.split()) == 3 for line in lines
    )  # two samples, two sizes, three steps
    assert "threshold of scale 2: 1e+09" in text
    assert document.tags.count("tr") == 7


def test_page_with_pictures(handle, tmp_path):
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    path = tmp_path / "run.html"
    handle.report().html(path, {"a <picture>": picture, "another": Image.fromarray(picture)})
    text, document = read(path)
    assert len(document.addresses) == 2 and "a &lt;picture&gt;" in text
    for address in document.addresses:
        image = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
        np.testing.assert_array_equal(np.asarray(image), picture)
    handle.report().html(path, [picture])
    assert len(read(path)[1].addresses) == 1


def test_clips_whose_references_stand_still(handle, tmp_path):
    still = np.zeros((1, 3, 8, 8, 3), np.uint8)
    handle.report().html(tmp_path / "run.html", clips=still, references=still)
    assert "nan" not in read(tmp_path / "run.html")[0]


@pytest.mark.parametrize(
    ("picture", "error", "text"),
    [
        (np.zeros((4, 4, 3)), ValueError, "uint8 of shape.*float64"),
        (np.zeros((4, 4), np.uint8), ValueError, r"\[4, 4\]"),
        ("file.png", TypeError, "PIL images or uint8 arrays.*str"),
    ],
)
def test_bad_pictures_leave_no_file(handle, tmp_path, picture, error, text):
    with pytest.raises(error, match=text):
        handle.report().html(tmp_path / "run.html", [picture])
    assert list(tmp_path.iterdir()) == []


def test_page_of_a_run_without_scores(tmp_path):
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=[1, 2])
    with pytest.raises(ValueError, match="no run"):
        handle.report().html(tmp_path / "run.html")
    run(pipe, make_call(steps=2))
    handle.report().html(tmp_path / "run.html")
    assert "Scores" not in read(tmp_path / "run.html")[0]


@pytest.mark.parametrize("uncomputed", ["forecast", "skipped"])
def test_steps_without_a_call_have_the_same_name_everywhere(tmp_path, uncomputed):
    steps = [StepRecord(0, 1.0, None, 1, [1], 24, 0.5), StepRecord(1, 0.5, None, 0, [0], 0)]
    record = RunRecord((1,), (), False, 32 * 6.0, steps=steps, forecasts=uncomputed == "forecast")
    Report(record).html(tmp_path / "run.html")
    text, _ = read(tmp_path / "run.html")
    assert f"<td>{uncomputed}</td>" in text and f"Grey: {uncomputed}." in text
    assert f"sigma 0.500: {uncomputed}" in text and f"  {uncomputed}  " in str(Report(record))


def test_numbers_that_cannot_be_drawn(tmp_path):
    steps = [
        StepRecord(3, 0.5, [[0.1, float("nan"), 0.0]], 1, [1], 24),
        StepRecord(4, 0.4, [[0.1, 0.2, float("inf")]], 2, [2], 6, 0.5),
    ]
    record = RunRecord((1, 2, 4), (float("inf"), 0.0), True, 32 * 6.0, steps=steps, warnings=["a & b"])
    Report(record).html(tmp_path / "run.html")
    text, _ = read(tmp_path / "run.html")
    assert '<p class="note">a &amp; b</p>' in text


def test_samples_that_differ_get_strips_of_their_own(tmp_path):
    steps = [StepRecord(0, 1.0, None, 1, [1, 2, 4], 24), StepRecord(1, 0.9, None, 1, [1, 1, 1], 24)]
    Report(RunRecord((1, 2, 4), (1.0, 1.0), True, 32 * 6.0, steps=steps)).html(tmp_path / "run.html")
    text, _ = read(tmp_path / "run.html")
    assert text.count("patch size of each step") == 1 + 3


def test_page_of_a_preset(tmp_path):
    preset = make_preset(make_pipeline())
    picture = np.zeros((8, 8, 3), np.uint8)
    rows = {"1: a <cat>": {"full run": picture, "chosen": picture}, "2: a dog": {"full run": picture}}
    preset.html(tmp_path / "preset.html", rows)
    text, document = read(tmp_path / "preset.html")
    assert text.count('class="ring"') == 1 and text.count("<circle") == 2 + 1
    assert "6 steps: 1 at scale 4, 2 at scale 2, 3 at scale 1: 2.05×, 31.0 dB" in text
    assert re.search(r'<tr class="marked"><td>6 steps: 1 at scale 4', text)
    assert len(document.addresses) == 3 and "<h3>1: a &lt;cat&gt;</h3>" in text
    assert text.count("grid-template-columns: repeat(2, 1fr)") == 2  # a picture stands below its like
    (strip,) = re.findall(r'aria-label="patch size of each step">(.*?)</svg>', text)
    assert re.findall(r'fill="(#\w+)"', strip) == [SIZES[2]] + [SIZES[1]] * 2 + [SIZES[0]] * 3


def place(svg, kind):
    return [element.attrib for element in ElementTree.fromstring(svg).iter(kind)]


def test_a_chart_puts_marks_in_proportion():
    chart = Chart("t", "x", "y", height=200)
    for x, y in ((0, 0), (5, 1), (10, 2)):
        chart.dot((x, y), "red", "hint")
    low, middle, high = place(chart.svg(), "circle")
    assert float(low["cx"]) < float(middle["cx"]) < float(high["cx"])
    assert float(low["cy"]) > float(middle["cy"]) > float(high["cy"])
    assert float(middle["cx"]) == pytest.approx((float(low["cx"]) + float(high["cx"])) / 2, abs=0.11)


def test_a_logarithmic_axis_spaces_powers_evenly():
    chart = Chart("t", "x", "y", log=True)
    chart.line([(0, 1e-4), (1, 1e-3), (2, 1e-2), (3, 0.0)], "red", "line")
    svg = chart.svg()
    (line,) = place(svg.split('<div class="key">')[0], "polyline")
    heights = [float(point.split(",")[1]) for point in line["points"].split()]
    assert len(heights) == 3
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)
    assert all(text in svg for text in (">0.0001<", ">0.001<", ">0.01<"))


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [-1e-9, 1e-9], [1e12, 2e12]])
def test_a_chart_of_any_range_has_ticks(values):
    chart = Chart("t", "x", "y", whole=False)
    for i, value in enumerate(values):
        chart.dot((i, value), "red", "")
    ticks = [element for element in place(chart.svg(), "text") if "end" in element["class"]]
    assert 1 <= len(ticks) <= 8


def test_colours_of_sizes():
    assert size_colour(1, [1, 2, 4]) == SIZES[0] and size_colour(4, [1, 2, 4]) == SIZES[2]
    assert size_colour(64, [1, 2, 4, 8, 16, 32, 64]) == SIZES[-1]
    assert size_colour(3, [1, 2]) not in SIZES
