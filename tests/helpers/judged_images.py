"""Image rows of one audit with invented outcomes, and the judgement on them."""

from lightning_memaudit.results.judgement import ImageColumns, judge

OWN = {"members": 25.5, "controls": 22.0}
"""The lowest PSNR of the autoencoder's own output; the highest is 12 dB above, so that the groups overlap."""


def image_rows(flags, *, patterns=("random-0.5",), scores=None, own=None):
    """Rows of one audit: ``flags[group][method]`` is a list of recovered, per pattern (or one for all)."""
    for group, methods in flags.items():
        for pattern in patterns:
            for method, recovered in methods.items():
                recovered = recovered[pattern] if isinstance(recovered, dict) else recovered
                for position, hit in enumerate(recovered):
                    yield {
                        "audit": 3,
                        "group": group,
                        "image": 10 + position,
                        "position": position,
                        "pattern": pattern,
                        "method": method,
                        "psnr": 35.0 if hit else 20.0,
                        "score": (scores or {}).get(group, 1e-3 if group == "members" else 1e-2) * (1 + position / 100),
                        "mask_accuracy": None,
                        "reconstruction_psnr": (own or {}).get(
                            group, OWN[group] + 12 * (position + 0.5) / len(recovered)
                        ),
                        "recovered": bool(hit),
                        "certified": False,
                        "diverged": False,
                        "failed": False,
                    }


def judged(flags, train_loss=1e-4, audit=3, epoch=5, doubts=(), **options):
    rows = [
        {
            "audit": audit,
            "trigger": "fit_end",
            "epoch": epoch,
            "step": 7,
            "time": None,
            "train_loss": train_loss,
            "threshold_db": 30.0,
            "doubts": [{"code": code, "text": text} for code, text in doubts],
        }
    ]
    images = ImageColumns(image_rows(flags, **options))
    return judge(rows, images), images


def yes(count, num):
    return [True] * count + [False] * (num - count)
