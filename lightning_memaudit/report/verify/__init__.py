"""Is a report true? Everything that can be is computed again, from the saved recoveries up; the rest is named.

What takes the autoencoder, such as blind scores, cannot be computed from the results. The hashes that chain the audits
show that it was not changed by anyone who did not make all of them anew.
"""

from collections.abc import Sequence
from pathlib import Path

from lightning_memaudit.report.document import check_schema, read_document
from lightning_memaudit.report.verify import (
    alike,
    arrays,
    baselines,
    described,
    extraction,
    left_out,
    page,
    repeated,
    rows,
    written,
)
from lightning_memaudit.report.verify.check import NOT_TRUE, Check, guarded, guarded_all
from lightning_memaudit.report.verify.unchecked import unchecked
from lightning_memaudit.results.run_folder import RunFolder, SavedRecoveries

SCORED = "recoveries score as the results say"
"""The check on which it hangs whether anything but the results themselves speaks for them."""
NOT_SHOWN = "no recovery was saved that could show these to be true"
WORDS = "the words are those of this version"
"""The check on which it hangs whether what it says in words was compared."""


def verify(folder: RunFolder, checkpoint: Path | None = None, allow_types: Sequence[str] = ()) -> list[Check]:
    """Check the report of a run against its results, and those against the saved recoveries.

    It shows that the report follows from the recoveries that are in the folder. That these came out of the weights
    whose hash it names, only an audit of those weights can show.

    Args:
        folder: The results of the run.
        checkpoint: Of the audited weights, whose hash is then compared.
        allow_types: Types that may be in the checkpoint besides tensors and plain values.

    Returns:
        What was checked, then what was not: those that passed neither nor failed.

    Raises:
        FileNotFoundError: There is no report, or no results.
        ValueError: One of them or the checkpoint cannot be read, or the report does not follow the schema.
    """
    document = read_document(folder)
    check_schema(document)
    if not folder.audits():
        raise ValueError(f"{folder.path} holds no complete audit: let one finish first")
    saved, unreadable = _recoveries(folder)
    checks = [
        *unreadable,
        guarded("report.json is as it was written", written.same_hash, document),
        guarded("the report follows from the results files", written.same_document, folder, document),
        guarded("page and figures are as they were written", written.same_files, folder),
        guarded("run.json is as it was written", described.same_run, folder),
        guarded("run.json says what was audited", described.same_settings, folder),
        guarded("the audited method is the one that must be", described.same_method, folder),
        guarded("every pattern and method of run.json was run", left_out.whole_plan, folder),
        guarded("no audit was before the one that it follows", left_out.in_order, folder),
        guarded("the hashes from audit to audit hold", described.same_chain, folder),
        guarded("every image has one row in each pattern and method", rows.whole_rows, folder),
        guarded("rates and intervals follow from the images", rows.same_counts, folder),
        guarded("every saved recovery has its row and its arrays", arrays.same_arrays, folder, saved),
        guarded(SCORED, arrays.same_scores, folder, saved),
        guarded("inpainting fills in what the results say", baselines.same_inpainting, folder, saved),
        guarded("baselines are what they fill in", baselines.same_baselines, folder, saved),
        guarded("patterns and seed make these masks and observations", arrays.same_observations, folder, saved),
        guarded("the saved images are those that were audited", arrays.same_images, folder, saved),
        guarded("what is left out shows what counts", repeated.same_repeats, folder, saved),
        guarded("members and controls are alike by all that is measured", alike.same_kind, folder, saved, document),
        guarded("near-duplicates are those that run.json names", arrays.same_duplicates, folder, saved),
    ]
    if any("extraction" in row for row in folder.audits()) or {*extraction.ARRAYS} & {*(saved.arrays if saved else ())}:
        checks.append(guarded("what came out by itself is what was saved", extraction.same_extraction, folder, saved))
    if checkpoint is not None:
        weights = "the checkpoint's tensors have the hash that the report names"
        checks.append(written.same_weights(weights, document, checkpoint, allow_types))
        members = "the members are those that the checkpoint remembers"
        checks.append(guarded(members, written.same_training, folder, saved, checkpoint, allow_types))
    checks += [
        guarded("the train loss follows from the members' own reconstructions", rows.same_losses, folder),
        guarded("all columns of the results are known", rows.not_recorded, folder),
        guarded(WORDS, written.own_words, document),
    ]
    if is_true(checks):  # drawing the page of results that are not true takes long, and shows nothing
        checks.append(guarded("the page says what the report says", page.same_page, folder, document))
        checks.append(guarded("the page calls the run as its folder is called", page.same_name, folder))
    checks += guarded_all(unchecked, folder, saved, checkpoint is not None)
    return sorted(checks, key=lambda check: check.passed is None)


def _recoveries(folder: RunFolder) -> tuple[SavedRecoveries | None, list[Check]]:
    """The saved recoveries; where they cannot be read none, and that as a check that failed."""
    try:
        return folder.newest_recoveries(), []
    except ValueError as error:
        return None, [Check("the saved recoveries can be read", False, str(error))]


def is_true(checks: Sequence[Check]) -> bool:
    """Whether no check failed."""
    return all(check.passed is not False for check in checks)


def is_shown(checks: Sequence[Check]) -> bool:
    """Whether anything but the results themselves speaks for them."""
    return all(check.passed is not None for check in checks if check.name == SCORED)


def conclusion(checks: Sequence[Check]) -> str:
    """One line: whether the report is true, and what was not checked."""
    failed = [check.means for check in checks if check.passed is False]
    not_checked = [check.name for check in checks if check.passed is None]
    true = "The report is true."
    if not is_shown(checks):
        what = "The report follows" if WORDS not in not_checked else "But for its words the report follows"
        true = f"{what} from its results; {NOT_SHOWN}."
    elif WORDS in not_checked:
        true = "The report is true but for its words, which were not checked."
    said = true if not failed else NOT_TRUE if NOT_TRUE in failed else failed[0]
    return f"{said} NOT CHECKED: {'; '.join(not_checked)}." if not_checked else said


__all__ = ["NOT_SHOWN", "Check", "conclusion", "is_shown", "is_true", "verify"]
