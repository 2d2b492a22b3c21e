"""The page of segments: what it holds, that it runs nothing of what a run says, and in a browser that it works."""

import configparser
import random
import re
from pathlib import Path

import kept_toy
import made_up
import pytest
from browser import CHROMIUM, Browser

from spo_rlhf.insight import page
from spo_rlhf.insight.viewer import entries, scale, viewer

ROOT = Path(__file__).parents[2]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install Debian's chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        one.view(1280, 800)
        yield one


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page of rows; its console has to stay clean."""

    def open_page(rows, **options):
        path = tmp_path / "page.html"
        path.write_text(viewer(rows, "a run", **options), encoding="utf-8")
        browser.errors.clear()
        seconds = browser.open(path)
        browser.wait("document.querySelector('#detail .response, #detail .empty')")
        return browser, seconds

    yield open_page
    assert browser.errors == []


# ---- without a browser -------------------------------------------------------------------------------------------------------


def test_no_text_of_a_run_is_markup():
    made = viewer(made_up.hostile(), "</title><script>window.hacked = 4</script>")
    for text in ("<img", "<b>", "window.hacked = 4</script>", "<!-- \u2028"):
        assert text not in made.replace("<!doctype", "")
    assert made.count("<script>") == 1 and made.count("</script>") == 2 + len(made_up.HOSTILE)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', made)[1]
    assert policy.startswith("default-src 'none'") and page.script_hash(page.part("viewer.js")) in policy


def test_a_page_asks_for_nothing_outside_itself():
    made = viewer(made_up.rows(), "a run")
    assert not re.search(r"https?://|\bsrc=|\bhref=|@import|url\(", made)


def test_the_files_of_the_pages_are_installed_with_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = [part.strip() for part in setup["options.package_data"]["spo_rlhf"].split(",")]
    beside = [
        path for path in (ROOT / "spo_rlhf" / "insight" / "page").iterdir() if path.is_file() and path.suffix != ".py"
    ]
    assert len(beside) == 6
    for path in beside:
        assert any(path.relative_to(ROOT / "spo_rlhf").match(pattern) for pattern in patterns), path.name


def test_a_tree_is_one_entry_and_responses_are_one_each():
    trees, total = entries(kept_toy.rows("tree", steps=2, prompts=3), 100)
    assert total == len(trees) == 6 and all(entry.is_tree and len(entry.rows) > 3 for entry in trees)
    responses, total = entries(made_up.rows(), 100)
    assert total == len(responses) == 24 and not any(entry.is_tree for entry in responses)


def test_steps_are_left_out_evenly_where_there_are_too_many_and_the_last_stays():
    shown, total = entries(made_up.rows(steps=16), most=40)
    assert total == 128 and len(shown) <= 40
    steps = sorted({entry.first["step"] for entry in shown})
    assert steps == [4, 8, 12, 16]
    assert "of 128; steps were left out evenly" in viewer(made_up.rows(steps=16), "a run", most=40)


def test_few_large_advantages_do_not_make_the_colours_of_the_others_pale():
    rows = made_up.rows(steps=20)
    usual = scale(entries(rows, 1000)[0])
    rows[0]["segment_advantages"][0] = 1000.0
    assert scale(entries(rows, 1000)[0]) == usual <= 1
    for one in rows:
        one["segment_advantages"] = [0.0] * 4
    assert scale(entries(rows, 1000)[0]) == 1.0


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_on_every_colour(scheme):
    style = page.part("common.css") + page.part("viewer.css")
    blocks = re.findall(r"(@media \(prefers-color-scheme: dark\) \{\s*)?:root \{(.*?)\}", style, re.DOTALL)
    colours = {}
    for dark, block in blocks:
        if bool(dark) <= (scheme == "dark"):
            colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    segments = ["zero", *(side + str(step) for side in "pn" for step in (1, 2, 3, 4))]
    pairs = [(text, ground) for text in ("masked", "under") for ground in segments]
    pairs += [(text, ground) for text in ("text", "soft", "link", "warn") for ground in ("bg", "panel")]
    pairs += [("warn", "warn-bg"), *((f"series-{number}", "bg") for number in range(6))]
    low = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
    assert {pair: found for pair, found in low.items() if found < 4.5} == {}


# ---- in a browser ------------------------------------------------------------------------------------------------------------

LIST = "[...document.querySelectorAll('#list button[data-index]')]"
CHOOSE = "(() => {{ const one = document.getElementById('{0}'); one.value = '{1}'; one.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"


@needs_browser
def test_filters_and_sorting_leave_what_they_say(opened):
    browser, _ = opened(made_up.rows())
    rows = made_up.rows()
    assert browser.run(f"{LIST}.length") == 24

    def left(**chosen) -> list[str]:
        for name in ("find", "prompt", "step", "reward", "sign"):
            browser.run(CHOOSE.format(name, chosen.get(name, "")))
        return browser.run(f"{LIST}.map((one) => one.firstChild.textContent)")

    assert len(left(step="2")) == 8 and all(line.startswith("step 2 ·") for line in left(step="2"))
    assert len(left(prompt="1")) == 12 and len(left(find="QUESTION 1")) == 12
    assert len(left(reward="high")) == sum(row["reward"] > 0 for row in rows)
    assert len(left(reward="cut")) == sum(row["truncated"] for row in rows)
    both = [row for row in rows if min(row["segment_advantages"]) < 0 < max(row["segment_advantages"])]
    assert len(left(sign="both")) == len(both) > 0
    assert left(find="nowhere") == [] and browser.run("document.querySelector('#detail .empty') !== null")
    left()
    browser.run(CHOOSE.format("sort", "-reward"))
    assert browser.run("document.querySelector('#list [data-index]').getAttribute('aria-current')") == "true"
    rewards = [float(line.split("reward ")[1].split()[0]) for line in left()]
    assert rewards == sorted(rewards, reverse=True)
    browser.run(CHOOSE.format("sort", "step"))


@needs_browser
def test_a_response_shows_segments_values_and_masks_by_mouse_and_by_keyboard(opened):
    browser, _ = opened(made_up.rows())
    row = made_up.rows()[0]
    assert browser.run("document.querySelectorAll('#detail .seg').length") == 4
    assert (
        browser.run("[...document.querySelectorAll('#detail .seg')].map((one) => one.textContent).join('')")
        == row["response"]
    )
    under = "".join(text for text, bit in zip(row["token_texts"], row["mask"]) if bit)
    assert (
        browser.run("[...document.querySelectorAll('#detail .under')].map((one) => one.textContent).join('')") == under
    )
    sides = ["" if not adv else "p" if adv > 0 else "n" for adv in row["segment_advantages"]]
    assert (
        browser.run("[...document.querySelectorAll('#detail .seg')].map((one) => (one.classList[1] || '').slice(0, 1))")
        == sides
    )
    borders = browser.run("[...document.querySelectorAll('#detail .border')].map((one) => one.textContent)")
    assert borders == [f"{value:.2f}" for value in row["values"]]

    browser.run("document.querySelector('#detail .seg').focus()")
    assert f"V at its start{row['values'][0]:.2f} ± 0.25  (3 outcomes)" in browser.run(
        "document.getElementById('tip').textContent"
    )
    browser.key("ArrowRight")
    assert browser.run("document.activeElement.getAttribute('aria-label')").startswith("segment 2 of 4, advantage")
    assert "segment2 of 4" in browser.run("document.getElementById('tip').textContent")
    assert browser.run("document.activeElement.getAttribute('aria-describedby')") == "tip"
    browser.run("scrollBy(0, 5)")
    assert not browser.run("document.getElementById('tip').hidden"), "moving the focus may scroll"
    browser.key("Escape")
    assert browser.run("document.getElementById('tip').hidden")
    browser.run("document.activeElement.blur()")
    browser.key("j")
    browser.wait("document.querySelector('#detail h2').textContent === 'Step 1, response 2'")
    assert "cut by the length limit" in browser.run("document.getElementById('detail').textContent")
    browser.key("/")
    assert browser.run("document.activeElement.id") == "find"
    x, y = browser.run(
        "(() => { const box = document.querySelector('#detail .seg').getClientRects()[0]; return [box.x + 5, box.y + 5]; })()"
    )
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert not browser.run("document.getElementById('tip').hidden")


@needs_browser
def test_the_same_prompt_is_compared_over_steps(opened):
    browser, _ = opened(made_up.rows())
    assert "This prompt at 3 steps" in browser.run("document.getElementById('detail').textContent")
    browser.run("document.getElementById('compare').click()")
    browser.wait("document.querySelectorAll('.compare article').length === 12")
    browser.wait("document.querySelectorAll('.compare .response').length >= 4")
    browser.run("document.getElementById('compare').click()")


@needs_browser
def test_a_tree_folds(opened):
    rows = kept_toy.rows("tree", steps=1, prompts=2)
    browser, _ = opened(rows)
    first = [row for row in rows if row["slot"] == 0]
    browser.wait("document.querySelector('.tree')")
    assert browser.run("document.querySelectorAll('details.node').length") == len(first)
    for button, opens in ((2, False), (1, True)):
        browser.run(f"document.querySelector('.tree .chips button:nth-child({button})').click()")
        assert browser.run(
            "[...document.querySelectorAll('details.node')].every((one) => one.open === " + str(opens).lower() + ")"
        )


@needs_browser
def test_tokens_with_advantages_of_their_own_are_shown_in_runs(opened):
    [row] = made_up.rows(steps=1, prompts=1, samples=1)
    row |= {"segment_advantages": [], "values": [], "value_stderrs": [], "value_counts": [], "boundaries": [0, 24]}
    row["advantages"] = [0.5] * 10 + [-0.25] * 14
    browser, _ = opened([row])
    assert browser.run("[...document.querySelectorAll('#detail .seg')].map((one) => one.className)") == [
        "seg p4",
        "seg n2",
    ]


@needs_browser
def test_a_hostile_run_runs_nothing(opened):
    browser, _ = opened(made_up.hostile())
    for number in range(len(made_up.HOSTILE)):
        browser.run(f"document.querySelector('#list [data-index=\"{number}\"]').click()")
        browser.wait(f"document.querySelector('#detail h2').textContent.endsWith('response {number + 1}')")
        assert (
            browser.run("document.querySelectorAll('#detail img, #detail b:not(.facts b), #detail script').length") == 0
        )
    assert browser.run("typeof window.hacked") == "undefined"


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(opened, browser, width):
    browser.view(width, 800)
    long = [made_up.row(1, 99, 1, ["x" * 500, *"many words"], prompt="a long prompt " * 30 + "y" * 400, segments=2)]
    opened(made_up.hostile() + long)
    for number in range(len(made_up.HOSTILE) + 1):
        browser.run(f"document.querySelector('#list [data-index=\"{number}\"]').click()")
        browser.wait(
            f"document.querySelector('#list [data-index=\"{number}\"]').getAttribute('aria-current') === 'true'"
        )
        assert browser.run("document.documentElement.scrollWidth") <= width
    inside = "[...document.querySelectorAll('header *, #detail > *')].every((one) => one.getBoundingClientRect().right <= innerWidth + 1)"
    assert browser.run(inside)
    browser.view(1280, 800)


@needs_browser
def test_five_hundred_responses_of_four_thousand_tokens_open_in_three_seconds(opened):
    words = [f"{number:x} " for number in range(50_000)]  # texts that hardly shrink
    rows = [
        made_up.row(step, slot, sample, random.Random(step + 10 * slot).choices(words, k=4096))
        for step in range(5)
        for slot in range(10)
        for sample in range(10)
    ]
    _, seconds = opened(rows)
    assert seconds < 3, f"{seconds:.1f} s"
