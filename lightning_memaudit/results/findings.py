"""What an audit found of members and of controls: the parts of a judgement."""

from dataclasses import dataclass

from lightning_memaudit.results.proportions import Difference, Proportion


@dataclass(frozen=True)
class GroupFinding:
    """One group in one pattern, or in any pattern.

    Attributes:
        recovered: By the audited method.
        inpainted: Recovered by the inpainter; None where it did not run.
        memorized: Recovered, and closer than the best baseline by 6 dB; where no gain was measured, where the inpainter
            fails. None where the inpainter did not run.

    >>> from lightning_memaudit.results.judgement import ImageColumns, judge
    >>> row = {"group": "members", "pattern": "half"}
    >>> rows = [row | {"method": "blind", "position": i, "recovered": True} for i in range(3)]
    >>> rows += [row | {"method": "biharmonic", "position": i, "recovered": i == 0} for i in range(3)]
    >>> images = ImageColumns(rows)
    >>> members = judge([{"audit": 0, "threshold_db": 30.0}], images).overall.members
    >>> members.recovered.count, members.inpainted.count, members.memorized.count
    (3, 1, 2)
    """

    recovered: Proportion
    inpainted: Proportion | None
    memorized: Proportion | None


@dataclass(frozen=True)
class Finding:
    """Members against controls.

    Attributes:
        pattern: Name of the degradation; ``any`` counts an image once if one pattern or more succeeds, of as many as
            were tried.
        members: What was found of the members.
        controls: What was found of the controls; None without any.
        difference: Of the memorized shares (of the recovered ones where no inpainter ran); None without controls.

    >>> from lightning_memaudit.results.judgement import ImageColumns, judge
    >>> row = {"pattern": "half", "method": "blind", "position": 0}
    >>> images = ImageColumns([row | {"group": "members", "recovered": True}, row | {"group": "controls"}])
    >>> finding = judge([{"audit": 0, "threshold_db": 30.0}], images).overall
    >>> finding.pattern, finding.members.recovered.count, finding.controls.recovered.count, finding.difference.value
    ('any', 1, 0, 1.0)
    """

    pattern: str
    members: GroupFinding
    controls: GroupFinding | None
    difference: Difference | None


@dataclass(frozen=True)
class Reconstruction:
    """What the autoencoder makes of intact images: the ceiling of any recovery.

    Attributes:
        median_psnr: In dB, over the images that have one; None where none has.
        reaching: Images whose own reconstruction reaches the threshold, of all.

    >>> from lightning_memaudit.results.judgement import ImageColumns, judge
    >>> row = {"group": "members", "pattern": "half", "method": "blind"}
    >>> images = ImageColumns(row | {"position": i, "reconstruction_psnr": db} for i, db in enumerate([40.0, 20, 36]))
    >>> intact = judge([{"audit": 0, "threshold_db": 30.0}], images).reconstruction["members"]
    >>> intact.median_psnr, intact.reaching.count
    (36.0, 2)
    """

    median_psnr: float | None
    reaching: Proportion


@dataclass(frozen=True)
class GroupCounts:
    """Members and controls of which something was found, in any pattern.

    Attributes:
        name: What was counted: a method that brings images back beyond the baselines, or ``certified``.
        members: Of the members.
        controls: Of the controls; None without any.

    >>> from lightning_memaudit.results.judgement import ImageColumns, judge
    >>> row = {"pattern": "half", "position": 0, "recovered": True, "group": "members"}
    >>> images = ImageColumns([row | {"method": "blind", "recovered": False}, row | {"method": "known_mask"}])
    >>> [known] = judge([{"audit": 0, "threshold_db": 30.0}], images).others
    >>> known.name, known.members.count, known.controls
    ('known_mask', 1, None)
    """

    name: str
    members: Proportion
    controls: Proportion | None
