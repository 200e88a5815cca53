"""The page in a real browser: no message on its console, no words over words, nothing wider than the screen."""

import json
import re
import subprocess
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")

# Looks at the charts that are shown: pairs of words that overlap, words outside their chart, and the page's width.
# Two points of overlap are allowed, since a line of text has room above and below its letters.
LOOK = """
<script>
addEventListener('load', () => {
  const found = {overlaps: [], outside: [], charts: 0, words: 0};
  for (const chart of document.querySelectorAll('figure svg[role=img]')) {
    const frame = chart.getBoundingClientRect();
    if (!frame.width) continue;
    found.charts += 1;
    const boxes = [...chart.querySelectorAll('text')]
      .filter(one => one.textContent.trim() && getComputedStyle(one).opacity != 0)
      .map(one => [one.textContent, one.getBoundingClientRect()]).filter(([, box]) => box.width);
    found.words += boxes.length;
    boxes.forEach(([said, box], at) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1)
        found.outside.push(said);
      for (const [other, its] of boxes.slice(at + 1))
        if (Math.min(box.right, its.right) - Math.max(box.left, its.left) > 2 &&
            Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top) > 2) found.overlaps.push([said, other]);
    });
  }
  found.wider = Math.round(document.body.scrollWidth - document.body.clientWidth);
  document.body.setAttribute('data-found', JSON.stringify(found));
});
</script>
"""


def _run(tmp_path: Path, page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}", *flags, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def _console(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in run.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_drawn_without_a_word_on_the_console(folder: Path, tmp_path: Path, scheme: str) -> None:
    from PIL import Image

    shot = tmp_path / "shot.png"
    run = _run(
        tmp_path,
        folder / "report.html",
        f"--screenshot={shot}",
        "--window-size=1200,2400",
        f"--blink-settings=preferredColorScheme={'0' if scheme == 'dark' else '1'}",
    )
    assert run.returncode == 0
    assert _console(run) == []
    image = Image.open(shot).convert("RGB")
    assert image.getpixel((2, 2)) == ((0x12, 0x16, 0x1C) if scheme == "dark" else (255, 255, 255))
    assert len(image.getcolors(1 << 24) or []) > 200


def test_a_page_that_breaks_its_own_policy_is_heard(folder: Path, tmp_path: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = tmp_path / "broken.html"
    page.write_text(text.replace("</body>", "<script>1</script></body>"), encoding="utf-8")
    assert any("Content Security Policy" in line for line in _console(_run(tmp_path, page, "--dump-dom")))


def test_names_that_mean_harm_run_nothing(hostile: Path, tmp_path: Path) -> None:
    run = _run(tmp_path, hostile, "--dump-dom")
    assert _console(run) == []
    assert "<script" not in run.stdout.lower()


@pytest.mark.parametrize(("width", "body"), [(1200, None), (800, None), (600, 420)])
def test_no_words_lie_over_words_and_nothing_is_wider_than_the_screen(
    folder: Path, tmp_path: Path, width: int, body: int | None
) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert policy.search(text)
    # A window is never narrower than 500; the body is, under the same media queries.
    narrow = f"<style>body{{width:{body}px!important;margin:0!important}}</style>" if body else ""
    page = tmp_path / "looked-at.html"
    page.write_text(policy.sub("", text).replace("</head>", f"{narrow}{LOOK}</head>"), encoding="utf-8")
    run = _run(tmp_path, page, "--dump-dom", f"--window-size={width},1000")
    said = re.search(r'data-found="([^"]*)"', run.stdout)
    assert said is not None, run.stderr[-2000:]
    found = json.loads(said[1].replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert found["charts"] == 8
    assert found["words"] > 100
    assert found["overlaps"] == []
    assert found["outside"] == []
    assert found["wider"] <= 0
