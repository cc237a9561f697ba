"""Audits that once made the verdict say something wrong, as rows with invented outcomes: each with its right answer."""

import numpy as np
import pytest
from judged_images import image_rows, yes

from lightning_memaudit.bench.referee import outcome_shares, simulated_columns
from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.image_table import image_table
from lightning_memaudit.results.judgement import judge
from lightning_memaudit.results.pass_through import passes_images_through
from lightning_memaudit.results.verdict import conclude

GROUPS, METHODS = ("members", "controls"), ("blind", "biharmonic")
HEAD = [{"audit": 3, "threshold_db": 30.0, "train_loss": 1e-4, "epoch": 5}]


def gains(num, num_back, low=-2.0, high=15.0, patterns=1):
    """(patterns, images): the first come back by ``high`` dB, the others are near ``low``."""
    values = np.full((patterns, num), low) + np.linspace(-0.5, 0.5, num)
    values[0, :num_back] = high
    return values


def verdict_of(members, controls, change=lambda columns: None):
    columns = simulated_columns({"members": members, "controls": controls})
    change(columns)
    judgement = judge(HEAD, columns)
    return conclude(judgement), judgement


def rows_verdict(flags, change=lambda row: None, **options):
    rows = list(image_rows(flags, **options))
    for row in rows:
        change(row)
    judgement = judge(HEAD, ImageColumns(rows), "blind")
    return conclude(judgement), judgement


def flags_of(members, controls, other=None):
    groups = {"members": {"blind": members}, "controls": {"blind": controls}}
    for group, flags in groups.items():
        flags["biharmonic"] = [False] * len(flags["blind"])
        if other is not None:
            flags["known_mask"] = other[group]
    return groups


def test_the_order_of_the_images_plays_no_part():
    first = yes(24, 104)
    for members in (first, first[::-1], [first[(37 * i) % 104] for i in range(104)]):
        verdict, judgement = rows_verdict(flags_of(members, yes(0, 30)))
        assert verdict.outcome == "memorized"
        assert judgement.overall.difference.value == pytest.approx(24 / 104)
        assert judgement.overall.difference.paired is None
        assert (judgement.num_memorized, judgement.evidence.at_least) == (24, 12)


@pytest.mark.parametrize("order", [("known_mask", "paper_blind"), ("paper_blind", "known_mask")])
def test_the_order_of_the_methods_decides_nothing_and_the_headline_names_the_method(order):
    back = {"known_mask": 12, "paper_blind": 1}
    flags = {
        group: {name: yes(back[name] * share, 40) for name in order} | {"biharmonic": yes(0, 40)}
        for group, share in (("members", 1), ("controls", 0))
    }
    verdict = conclude(judge(HEAD, ImageColumns(image_rows(flags))))
    assert verdict.headline.startswith("Inconclusive: 1 of 40 training images came back by paper blind recovery, but")
    told = {group: {name: one for name, one in flags[group].items() if name != "paper_blind"} for group in flags}
    verdict = conclude(judge(HEAD, ImageColumns(image_rows(told))))
    assert verdict.headline == "Memorized: 12 of 40 training images came back by known mask recovery, told the mask."
    told["members"]["known_mask"] = yes(0, 40)
    verdict = conclude(judge(HEAD, ImageColumns(image_rows(told))))
    assert verdict.headline.endswith("none of 40 training images came back by known mask recovery, told the mask.")


def test_the_paired_interval_stands_beside_it_where_the_groups_are_equally_large():
    assert rows_verdict(flags_of(yes(20, 50), yes(0, 50)))[1].overall.difference.paired.value == pytest.approx(0.4)


def test_a_few_memorized_among_many():
    verdict, _ = verdict_of(gains(67, 4), gains(200, 0))
    assert verdict.headline == "Memorized: 4 of 67 training images came back."
    assert "At least 2 of the images were memorized (97.5% confidence)" in verdict.certainty
    assert "tells 4 at a false discovery rate of 10%" in verdict.certainty
    verdict, _ = verdict_of(gains(67, 4), gains(50, 0))
    assert verdict.reasons == ("not_above_controls",), "50 controls are too few for that"
    assert verdict_of(gains(67, 4), gains(200, 2))[0].outcome == "inconclusive"


def test_what_an_interpolation_returns_within_a_hair_is_not_memorized():
    """The identity: 7 of 100 at the threshold, inpainting just below, the method with the identity as close."""

    def by_a_hair(columns):
        for group, count in (("members", 7), ("controls", 0)):
            columns[group, "pattern-0", "blind"]["recovered"][:count] = True

    verdict, judgement = verdict_of(gains(100, 7, high=0.05, low=-1), gains(100, 0, low=-1), by_a_hair)
    assert judgement.overall.members.recovered.count == 7
    assert judgement.num_memorized == 0
    assert verdict.outcome != "memorized"


@pytest.mark.parametrize(("margin", "count"), [(5.9, 0), (6.0, 30), (20.0, 30)])
def test_memorized_takes_a_margin_over_the_best_baseline(margin, count):
    def back(columns):
        columns["members", "pattern-0", "blind"]["recovered"][:30] = True

    assert verdict_of(gains(60, 30, high=margin), gains(60, 0), back)[1].num_memorized == count


def test_controls_that_come_back_by_no_known_gain_count_against_a_finding():
    def unknown(columns):
        columns["controls", "pattern-0", "blind"]["recovered"][:30] = True
        columns["controls", "pattern-0", "blind"]["recovery_gain"][:30] = np.nan

    verdict, judgement = verdict_of(gains(60, 30), gains(60, 0), unknown)
    assert judgement.overall.controls.memorized.count == 30
    assert verdict.outcome == "inconclusive"


def test_identity_like_counts_when_something_came_back():
    """In results of older versions, which know no baseline but the inpainter."""
    verdict, _ = rows_verdict(flags_of(yes(7, 100), yes(0, 100)), own={"members": 60.0, "controls": 60.0})
    assert verdict.reasons == ("identity_like",)
    verdict, _ = rows_verdict(flags_of(yes(3, 100), yes(0, 100)), own={"members": 60.0, "controls": 60.0})
    assert verdict.reasons == ("identity_like",)

    def passes(columns):
        for group in ("members", "controls"):
            columns[group, "pattern-0", "blind"]["reconstruction_psnr"][:] = 40.0

    verdict, _ = verdict_of(gains(100, 30), gains(100, 0), passes)
    assert verdict.outcome == "memorized"
    assert any("never seen" in caution for caution in verdict.cautions)
    verdict, _ = verdict_of(gains(100, 3), gains(100, 0), passes)
    assert verdict.reasons == ("not_above_controls", "identity_like")


@pytest.mark.parametrize("threshold_db", [30.0, 30.3, 30.6, 30.9, 31.5])
def test_a_threshold_within_a_small_gap_is_no_absence(threshold_db):
    """Members come out at a median of 31.9 dB, controls at 30.25, by what passes images through with a mild blur."""
    own = {"members": 31.9, "controls": 30.25}
    images = ImageColumns(image_rows(flags_of(yes(0, 50), yes(0, 50)), own=own))
    verdict = conclude(judge([HEAD[0] | {"threshold_db": threshold_db}], images))
    assert "identity_like" in verdict.reasons
    assert "Unseen images come out at a median of 30.2 dB, training images at 31.9 dB, " in verdict.why[0]
    assert ("most of the unseen ones" if threshold_db < 30.25 else "within 3 dB of each other") in verdict.why[0]


@pytest.mark.parametrize(
    ("members", "controls", "passes"),
    [
        (60.0, 29.0, False),
        (60.0, 31.0, True),
        (33.5, 30.1, True),
        (33.5, 29.9, False),
        (32.0, 29.1, True),
        (32.0, 28.9, False),
        (30.1, 27.2, True),
        (30.1, 26.9, False),
        (29.0, 28.0, True),
        (20.0, 20.0, False),
        (12.0, 31.0, True),
    ],
)
def test_images_pass_through_near_the_threshold_and_near_the_members(members, controls, passes):
    own = {"members": members, "controls": controls}
    judgement = judge(HEAD, ImageColumns(image_rows(flags_of(yes(0, 50), yes(0, 50)), own=own)))
    assert passes_images_through(judgement) is passes


def test_a_finding_says_what_another_method_brings_back_beyond_it():
    known = {"members": yes(40, 40), "controls": yes(0, 40)}
    verdict, _ = rows_verdict(flags_of(yes(15, 40), yes(0, 40), known))
    assert verdict.outcome == "memorized"
    assert verdict.cautions[0] == (
        "Known mask recovery, told the mask, brings back 40 of 40 training images and 0 of 40 others from the same "
        "observations, beyond what could be filled in: more is stored than the 15 that blind recovery brings back."
    )
    for members, controls in ((16, 0), (15, 0), (40, 40)):
        other = {"members": yes(members, 40), "controls": yes(controls, 40)}
        cautions = rows_verdict(flags_of(yes(15, 40), yes(0, 40), other))[0].cautions
        assert not any("same observations" in one for one in cautions), (members, controls)


def test_traces_say_what_another_method_brings_back():
    rng = np.random.default_rng(0)
    alone = simulated_columns({"members": rng.normal(1, 1, (1, 80)), "controls": rng.normal(0, 1, (1, 80))})
    cells = {(group, "pattern-0", method): alone[group, "pattern-0", method] for group in GROUPS for method in METHODS}
    for group, count in (("members", 5), ("controls", 0)):
        gain = np.where(np.arange(80) < count, 20.0, 0.0)
        back = {"recovery_gain": gain, "recovered": gain > 6}
        cells[group, "pattern-0", "known_mask"] = cells[group, "pattern-0", "biharmonic"] | back
    for columns, said in ((alone, False), (ImageColumns.of_columns(cells), True)):
        verdict = conclude(judge(HEAD, columns))
        assert verdict.outcome == "traces"
        assert any("brings back 5 of 80" in caution for caution in verdict.cautions) is said


def test_any_pattern_says_how_many_were_tried():
    flags = {
        group: {"blind": {p: yes(n, 50) for p in "abc"}, "biharmonic": yes(0, 50)}
        for group, n in (("members", 40), ("controls", 0))
    }
    verdict, _ = rows_verdict(flags, patterns=("a", "b", "c"))
    assert "once each, from any of 3 patterns tried (a, b, c)" in verdict.found


@pytest.mark.parametrize("what", ["contrast", "roughness", "brightness", "baseline_psnr"])
@pytest.mark.parametrize("num_back", [0, 40])
def test_controls_from_another_source_allow_no_conclusion(what, num_back):
    def other_images(columns):
        for group, center in (("members", 0.2), ("controls", 0.6)):
            for method in ("blind", "biharmonic"):
                cell = columns[group, "pattern-0", method]
                cell[what] = center + np.linspace(-0.1, 0.1, len(cell["psnr"]))

    verdict, judgement = verdict_of(gains(60, num_back), gains(40, 0), other_images)
    assert verdict.outcome == "inconclusive"
    assert "groups_differ" in verdict.reasons
    assert len(judgement.group_differences) == 1
    assert "owes nothing to the autoencoder" in " ".join(verdict.why)
    assert "At least" not in verdict.certainty
    verdict, _ = verdict_of(gains(60, num_back, low=5), gains(40, 0), other_images)
    assert verdict.outcome == "inconclusive", "nor are they traces"


def test_no_memorization_found_is_not_said_against_the_known_mask():
    known = {"members": yes(36, 48), "controls": yes(0, 48)}
    verdict, _ = rows_verdict(flags_of(yes(0, 48), yes(0, 48), known))
    assert (verdict.outcome, verdict.reasons) == ("inconclusive", ("patterns_too_hard",))
    assert "known mask brings back 36 of 48 training images and 0 of 48 others" in verdict.why[0]
    verdict, _ = rows_verdict(flags_of(yes(3, 48), yes(0, 48), known))
    assert verdict.reasons == ("not_above_controls", "patterns_too_hard")
    both = {"members": yes(5, 48), "controls": yes(5, 48)}
    assert rows_verdict(flags_of(yes(0, 48), yes(0, 48), both))[0].outcome == "not_memorized"


def test_no_memorization_found_is_not_said_against_certificates():
    def certified(row):
        row["certified"] = row["group"] == "members" and row["method"] == "blind" and row["position"] < 20

    verdict, _ = rows_verdict(flags_of(yes(0, 48), yes(0, 48)), certified)
    assert verdict.reasons == ("certified_unrecovered",)
    assert "20 of 48 training images are certified without the truth, and 0 of 48 others" in verdict.why[0]

    def one(row):
        row["certified"] = row["group"] == "members" and row["method"] == "blind" and row["position"] < 1

    assert rows_verdict(flags_of(yes(0, 48), yes(0, 48)), one)[0].outcome == "not_memorized", "as often as not"


def test_no_memorization_found_is_not_said_against_the_gap_of_the_own_error():
    verdict, _ = rows_verdict(flags_of(yes(0, 48), yes(0, 48)), own={"members": 52.0, "controls": 13.0})
    assert verdict.reasons == ("own_error_gap",)
    few, _ = rows_verdict(flags_of(yes(3, 48), yes(0, 48)), own={"members": 52.0, "controls": 13.0})
    assert few.reasons == ("not_above_controls", "own_error_gap")
    assert "39 dB better" in few.why[1]
    assert "no more than 3 of 48 came back" in few.why[1]


def test_traces_need_no_threshold():
    rng = np.random.default_rng(0)
    members, controls = rng.normal(1, 1, (3, 80)), rng.normal(0, 1, (3, 80))
    members[1:] -= 1  # the first pattern tells, the others do not
    verdict, judgement = verdict_of(members, controls)
    assert verdict.outcome == "traces"
    shift = judgement.gain.strongest.shift
    assert judgement.gain.strongest.pattern == "pattern-0"
    assert verdict.headline == (
        "Traces: no image came back whole, but training images come back "
        f"{shift.value:.1f} dB closer than others ({shift.low:.1f} to {shift.high:.1f}, pattern-0)."
    )
    assert 0 < shift.low < 1 < shift.high
    assert not any("returns something else" in caution for caution in verdict.cautions)

    def reproduces_nothing(columns):
        for group in GROUPS:
            for number in range(3):
                for method in METHODS:
                    columns[group, f"pattern-{number}", method]["reconstruction_psnr"] = np.full(80, 12.0)

    verdict, _ = verdict_of(members, controls, reproduces_nothing)
    assert verdict.outcome == "traces"
    assert "returns something else (median PSNR 12.0 dB)" in verdict.cautions[0]
    assert "allowing for the choice among 4" in verdict.certainty
    assert verdict_of(controls, members)[0].outcome == "not_memorized"
    before = verdict_of(members, controls)[1]
    assert conclude(judgement, before).reasons == ("negative_control_failed",), "so it was before the training"
    assert verdict_of(members[:, :9], controls)[0].outcome == "inconclusive"
    assert verdict_of(members, controls[:, :19])[0].reasons == ("too_few_controls",)


def test_a_difference_that_is_found_is_not_printed_as_none():
    members, controls = np.linspace(0, 1, 400)[None] + 0.06, np.linspace(0, 1, 400)[None]
    verdict, judgement = verdict_of(members, controls)
    assert verdict.outcome == "traces"
    assert 0 < judgement.gain.strongest.shift.low < 0.05
    assert "(0.02 to 0.1, " in verdict.headline


def test_every_image_has_its_evidence():
    columns = simulated_columns({"members": gains(50, 5, patterns=2), "controls": gains(99, 0, patterns=2)})
    table = image_table(columns, judge(HEAD, columns))
    assert [entry["p_value"] for entry in table[:5]] == [0.01] * 5
    assert [entry["false_discovery_rate"] for entry in table[:5]] == pytest.approx([0.1] * 5)
    assert min(entry["p_value"] for entry in table[5:50]) > 0.01
    assert {entry["p_value"] for entry in table[50:]} == {None}
    assert table[0]["recovery_gain"] == {"pattern-0": 15.0, "pattern-1": -2.5}


def test_one_quantity_by_one_name_everywhere():
    verdict, judgement = verdict_of(gains(50, 46), gains(50, 0))
    memorized = judgement.overall.members.memorized
    assert (judgement.num_memorized, memorized.rate) == (46, 0.92)
    assert verdict.headline.startswith("Memorized: 46 of 50")
    assert set(judgement.membership_estimates) == {"recovery_gain", "plain_loss"}


@pytest.mark.parametrize(("num_controls", "num_patterns"), [(20, 1), pytest.param(200, 8, marks=pytest.mark.slow)])
def test_memorized_is_rarely_said_where_nothing_was(num_controls, num_patterns):
    rng = np.random.default_rng(0)
    found = outcome_shares(rng, 150, 60, num_controls, num_patterns, share=0.0, by_chance=0.1)
    limit = 0.025 + 2 * np.sqrt(0.025 / 150)
    assert found["memorized"] <= limit
    assert found["traces"] <= limit


def test_a_tenth_memorized_is_found():
    rng = np.random.default_rng(0)
    assert outcome_shares(rng, 20, 100, 100, 2, share=0.1, by_chance=0.0)["memorized"] == 1.0


@pytest.mark.parametrize(
    ("members", "told"),
    [
        (np.r_[np.full(40, 100.0), np.linspace(28, 34.5, 60)], "reproduces 40 of 100 training images more than 6 dB"),
        (np.full(100, 33.7), "lower for a training image than for an unseen one in 100% of cases"),
        (np.linspace(26, 38, 100), None),
    ],
)
def test_no_memorization_found_is_not_said_where_the_own_error_tells_some_or_all(members, told):
    own = {"members": members, "controls": np.linspace(22, 33.5, 100)}
    rows = [
        {"group": group, "pattern": "half", "method": method, "position": i, "recovered": False}
        | {"reconstruction_psnr": own[group][i], "psnr": 20.0, "score": 1e-3}
        for group in own
        for i in range(100)
        for method in ("blind", "biharmonic")
    ]
    verdict = conclude(judge(HEAD, ImageColumns(rows)))
    assert (verdict.outcome == "inconclusive") is (told is not None)
    assert told is None or (verdict.reasons == ("own_error_gap",) and told in verdict.why[0])


def test_no_memorization_found_is_not_said_where_a_few_come_back_much_closer_than_any_other():
    """Just below the threshold, too few to tell from chance: neither traces nor nothing."""
    members, controls = gains(120, 0, low=-12), gains(120, 0, low=-12)
    members[0, :4] = 14.5

    def below(columns):
        for key in [("members", "pattern-0", "blind")]:
            columns[key]["recovered"][:4] = False

    verdict, judgement = verdict_of(members, controls, below)
    assert judgement.gain.exceptional is None
    assert (verdict.outcome, verdict.reasons) == ("inconclusive", ("some_much_closer",))
    members[0, :24] = 14.5

    def all_below(columns):
        columns["members", "pattern-0", "blind"]["recovered"][:] = False

    verdict, _ = verdict_of(members, controls, all_below)
    assert verdict.outcome == "traces"


def test_what_counts_is_said_of_one_pattern():
    verdict, _ = verdict_of(gains(60, 11), gains(60, 0))
    assert "controls come back too" not in verdict.found
    easy = np.stack([gains(60, 11)[0], np.full(60, 9.0)])
    verdict, judgement = verdict_of(easy, np.stack([gains(60, 0)[0], np.full(60, 9.0)]))
    assert verdict.headline == "Memorized: 11 of 60 training images came back from pattern-0."
    assert judgement.num_memorized == 11
    assert "from pattern-0 alone" in verdict.found


def test_no_memorization_found_is_not_said_where_images_come_out_by_themselves():
    def extraction(found, others):
        counts = {"num_members": 48, "num_extracted": found, "num_controls": 48, "num_controls_extracted": others}
        return [HEAD[0] | {"extraction": counts}]

    images = ImageColumns(image_rows(flags_of(yes(0, 48), yes(0, 48))))
    verdict = conclude(judge(extraction(3, 0), images))
    assert (verdict.outcome, verdict.reasons) == ("inconclusive", ("extracted",))
    assert "3 of 48 training images come out" in verdict.why[0]
    for found, others in ((0, 0), (2, 2)):
        assert conclude(judge(extraction(found, others), images)).outcome == "not_memorized"
