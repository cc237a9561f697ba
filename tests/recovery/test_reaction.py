"""An autoencoder that has one picture for everything ends a search at once; any other is searched as before."""

import torch
from autoencoders import associative
from observations import hide, smooth_images

from lightning_memaudit.recovery import BlindRecovery, KnownMaskRecovery
from lightning_memaudit.recovery import search as searching
from lightning_memaudit.recovery.reaction import LARGEST_DIFFERENCE, reacts


def test_an_autoencoder_reacts_where_outputs_differ_by_more_than_30_db():
    image = torch.zeros(1, 3, 16, 16)
    for factor, expected in ((0.5, False), (1.1, True)):
        assert reacts(lambda images, f=factor: 0.3 + f * LARGEST_DIFFERENCE * images, image) is expected
    assert reacts(lambda images: images / 0, image)  # what is not finite is no picture
    assert reacts(associative(smooth_images(3)), torch.zeros(1, 3, 16, 16))


def test_an_autoencoder_that_tells_noise_from_even_pictures_only_reacts():
    def edges(images):
        return images.diff(dim=-1, append=images[..., -1:]).abs()

    assert reacts(edges, torch.zeros(1, 1, 16, 16))


def test_the_one_picture_comes_back_and_the_others_cost_six_evaluations(monkeypatch):
    picture, others = smooth_images(1), smooth_images(5, seed=20)
    observed, mask = hide(torch.cat([picture, 0.2 * others]), 0.5)

    def one_picture(images):
        return picture + 1e-3 * (images - picture)

    found = [BlindRecovery(certification=None)(one_picture, observed)]
    found.append(KnownMaskRecovery()(one_picture, observed, mask))
    monkeypatch.setattr(searching, "reacts", lambda *_: True)
    before = [
        BlindRecovery(certification=None)(one_picture, observed),
        KnownMaskRecovery()(one_picture, observed, mask),
    ]
    for mine, whole in zip(found, before, strict=True):
        assert (mine.image[0] - picture[0]).square().mean() < 1e-6
        assert (mine.num_evaluations[1:] == 6).sum() >= 3  # others may be near the picture
        assert (whole.num_evaluations[1:] > 50).all()
        torch.testing.assert_close(mine.image, whole.image, atol=5e-3, rtol=0)
        torch.testing.assert_close(mine.score, whole.score, atol=1e-3, rtol=0.02)


def test_few_evaluations_are_not_exceeded():
    observed, _ = hide(smooth_images(3), 0.5)
    for budget in (5, 6, 8):
        recovery = BlindRecovery(certification=None, max_evaluations=budget)(torch.zeros_like, observed)
        assert (recovery.num_evaluations <= budget).all()
