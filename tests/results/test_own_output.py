"""Outputs that are no reconstructions are told from those that are, good or bad."""

import numpy as np
import pytest

from lightning_memaudit.results import own_output
from lightning_memaudit.results.own_output import OutputSums, differences_of_calls, doubts_about

GENERATOR = np.random.default_rng(0)
MEAN = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)


def waves(low=0.02, high=0.98, count=8):
    """Smooth pictures (count, 3, 16, 16) in [low, high]."""
    y, x = np.meshgrid(np.linspace(0, 3, 16), np.linspace(0, 3, 16))
    numbers = GENERATOR.uniform(0.5, 2, (count, 3, 2)), GENERATOR.uniform(0, 6, (count, 3))
    phases = numbers[0][..., :1, None] * x + numbers[0][..., 1:, None] * y + numbers[1][..., None, None]
    return low + (high - low) * (np.sin(phases) + 1) / 2


PICTURES = {
    "any": waves(),
    "white": waves(0.7, 1.0),
    "dark": waves(0.0, 0.2),
    "gray": waves(0.45, 0.55),
    "nearly one gray": waves(0.495, 0.505),
    "black and white": np.round(waves()),
    "one channel constant": np.concatenate([waves()[:, :2], np.full((8, 1, 16, 16), 0.5)], 1),
}


def noise(shape):
    """The same in every test, whichever ran before it."""
    return np.random.default_rng(1).standard_normal(shape)


def noisy(images, error):
    """With a mean squared error."""
    return images + np.sqrt(error) * noise(images.shape)


def blurred(images):
    return sum(np.roll(images, (i, j), (2, 3)) for i in range(-2, 3) for j in range(-2, 3)) / 25


RECONSTRUCTIONS = {
    "the image": lambda x: x,
    "good": lambda x: noisy(x, 1e-4),
    "undertrained": lambda x: noisy(x, 1e-2),
    "bad": lambda x: noisy(x, 1e-1),
    "shrunk towards the mean": lambda x: x.mean() + 0.6 * (x - x.mean()),
    "a bit too dark": lambda x: 0.9 * x,
    "good, but all darker": lambda x: noisy(x, 1e-5) - 0.07,
    "blurred": blurred,
    "the mean": lambda x: np.full_like(x, x.mean()),
    "nothing": np.zeros_like,
    "a constant": lambda x: np.full_like(x, -3.0),
    "noise": lambda x: noise(x.shape),
    "little but noise": lambda x: 0.1 * noise(x.shape),
    "untrained, passing something on": lambda x: 0.3 * blurred(x) - 0.1 + 0.1 * noise(x.shape),
    "scaled by an untrained convolution of one pixel": lambda x: -0.8 * x + 0.3,
    "another image": lambda x: np.roll(x, 1, 0),
    "clipped": lambda x: np.clip(noisy(x, 1e-2), 0, 1),
}


@pytest.mark.parametrize("pictures", PICTURES)
@pytest.mark.parametrize("output", RECONSTRUCTIONS)
def test_nothing_is_said_of_outputs_in_the_range_of_the_images_however_bad(pictures, output):
    images = PICTURES[pictures]
    assert doubts_about(OutputSums.of(RECONSTRUCTIONS[output](images), images)) == []


OTHER_RANGES = {
    "[-1, 1]": (lambda x: 2 * x - 1, "(output + 1) / 2"),
    "[-0.5, 0.5]": (lambda x: x - 0.5, "output + 0.5"),
    "8 bits": (lambda x: 255 * x, "output / 255"),
    "ImageNet": (lambda x: (x - MEAN) / STD, "[0.229, 0.224, 0.225] · output + [0.485, 0.456, 0.406]"),
    "MNIST": (lambda x: (x - 0.1307) / 0.3081, "0.308 · output + 0.131"),
    "[-1, 1] undone once too often": (lambda x: x / 2 + 0.5, "2 · output - 1"),
    "ImageNet undone once too often": (lambda x: x * STD + MEAN, "[4.37, 4.46, 4.44] · output - [2.12, 2.04, 1.8]"),
}


@pytest.mark.parametrize("case", OTHER_RANGES)
@pytest.mark.parametrize("error", [1e-6, 1e-4])
def test_another_range_is_named_with_the_map_back(case, error):
    change, words = OTHER_RANGES[case]
    images = PICTURES["any"]
    output = change(noisy(images, error))
    (doubt,) = doubts_about(OutputSums.of(output, images))
    assert doubt.code == "output_range"
    assert doubt.text.startswith(f"outputs lie in [{output.min():.3g}, {output.max():.3g}], and ")
    assert "would be more than 1000 times closer" in doubt.text or "times closer to the images" in doubt.text
    said = doubt.text.partition(", and ")[2].partition(" would be")[0]
    if "[4" not in said:
        assert said == words
    # The words are the map: calculated as they are written, they bring the outputs to the images.
    for channel in range(3):
        back = said.replace("·", "*").replace("output", "o")
        while "[" in back:
            numbers = back[back.index("[") + 1 : back.index("]")].split(", ")
            back = back[: back.index("[")] + f"({numbers[channel]})" + back[back.index("]") + 1 :]
        mapped = eval(back, {"o": output[:, channel]})
        assert np.square(mapped - images[:, channel]).mean() < 2 * error + 1e-4


@pytest.mark.parametrize("pictures", ["any", "black and white", "white"])
def test_logits_are_named_as_such(pictures):
    images = PICTURES[pictures]
    shares = np.clip(noisy(images, 1e-5), 1e-4, 1 - 1e-4)
    output = np.log(shares / (1 - shares))
    (doubt,) = doubts_about(OutputSums.of(output, images))
    assert doubt.code == "output_logits"
    assert doubt.text.startswith(f"outputs lie in [{output.min():.3g}, {output.max():.3g}], and sigmoid(output) would")


def test_half_trained_outputs_in_another_range_are_recognized_too():
    images = PICTURES["any"]
    share = np.clip(noisy(images, 0.02), 0.001, 0.999)
    assert [one.code for one in doubts_about(OutputSums.of(2 * share - 1, images))] == ["output_range"]
    assert [one.code for one in doubts_about(OutputSums.of(np.log(share / (1 - share)), images))] == ["output_logits"]


def test_of_outputs_that_hold_little_of_the_images_nothing_is_said():
    """The best map is that from [-1, 1], but most of the images is not there."""
    output = 0.2 * (PICTURES["any"] - 0.5)
    checkerboard = 0.14 * (-1.0) ** np.indices((16, 16)).sum(0)  # no smooth picture has any of it
    for share, said in ((0.1, ["output_range"]), (1.0, [])):
        assert [
            one.code for one in doubts_about(OutputSums.of(output, (output + 1) / 2 + share * checkerboard))
        ] == said


def test_closer_is_by_the_mean_squared_error():
    images = PICTURES["any"]
    output = 2 * noisy(images, 3e-3) - 1
    (doubt,) = doubts_about(OutputSums.of(output, images))
    plain, mapped = (np.square(one - images).mean() for one in (output, (output + 1) / 2))
    stated = float(doubt.text.partition("would be ")[2].partition(" times")[0])
    assert stated == pytest.approx(plain / mapped, rel=0.05)


def test_sums_are_those_of_whole_arrays_in_pieces_of_any_size(monkeypatch):
    images = GENERATOR.random((7, 3, 8, 8))
    output = noise(images.shape)
    whole = OutputSums.of(output, images)
    expected = [output, images, output**2, images**2, output * images, (output - images) ** 2]
    np.testing.assert_allclose(whole.sums[:, :6], np.stack([one.sum((0, 2, 3)) for one in expected], 1))
    parts = [OutputSums.of(output[rows], images[rows]) for rows in (slice(0), slice(5), slice(5, 7))]
    monkeypatch.setattr(own_output, "_VALUES_AT_ONCE", 3 * 64 * 2)
    for made in (OutputSums.join(parts), OutputSums.of(output, images)):
        np.testing.assert_allclose(made.sums, whole.sums)
        assert (made.count, made.low, made.high) == (whole.count, output.min(), output.max())
    assert doubts_about(OutputSums.join([])) == []


def test_images_without_a_finite_output_are_left_out():
    images = PICTURES["any"]
    output = 2 * images - 1
    output[3, 1, 2, 2] = np.nan
    output[5] = np.inf
    kept = [0, 1, 2, 4, 6, 7]
    broken, whole = OutputSums.of(output, images), OutputSums.of(output[kept], images[kept])
    np.testing.assert_allclose(broken.sums, whole.sums)
    assert (broken.count, broken.high) == (whole.count, whole.high)


@pytest.mark.parametrize("deviation", [0.005, 0.1, 1.0])
def test_calls_that_differ_are_named(deviation):
    images = PICTURES["any"]
    difference = differences_of_calls(images, images + deviation * noise(images.shape)).max()
    (doubt,) = doubts_about(OutputSums(difference=difference))
    assert doubt.code == "not_deterministic"
    assert f"differ by {difference:.1%}" in doubt.text


@pytest.mark.parametrize("precision", [1e-6, 1e-4, 2**-9])
def test_calls_that_differ_by_rounding_are_the_same(precision):
    """Every tenth value or so moves by one step of a precision; of bfloat16 that is 2**-8 in [0.5, 1)."""
    images = PICTURES["any"]
    moved = images + precision * (np.abs(noise(images.shape)) < 0.1257)
    for scale in (1, 20):
        assert doubts_about(OutputSums(difference=differences_of_calls(scale * images, scale * moved).max())) == []
    assert differences_of_calls(images * np.nan, images).tolist() == [0] * len(images)
    assert differences_of_calls(images[:0], images[:0]).tolist() == []


def test_one_image_of_many_that_differs_is_enough_in_any_order():
    images = np.repeat(PICTURES["any"], 64, 0)
    moved = images.copy()
    moved[77] += 0.01
    differences = differences_of_calls(images, moved)
    assert differences[77] == pytest.approx(0.01)
    assert np.flatnonzero(differences).tolist() == [77]
    np.testing.assert_array_equal(differences_of_calls(images[::-1], moved[::-1]), differences[::-1])


def test_differences_are_relative_to_large_values_even_of_an_image_of_one_gray():
    """A step of bfloat16 is 1 from 128 to 255."""
    white = np.full((1, 1, 8, 8), 255.0)
    steps = (np.indices((8, 8)).sum(0) % 2)[None, None]
    assert differences_of_calls(white, white - 0.5 * steps).max() < own_output.MAX_DIFFERENCE


def test_random_answers_are_not_laid_to_the_batch():
    """Of several processes one may see the one, and another the other."""
    joined = OutputSums.join([OutputSums(difference=0.1), OutputSums(batch_difference=0.2)])
    assert [one.code for one in doubts_about(joined)] == ["not_deterministic"]
    (doubt,) = doubts_about(OutputSums.join([OutputSums(), OutputSums(batch_difference=0.2)]))
    assert doubt.code == "depends_on_batch"
    assert "20.0%" in doubt.text
    assert doubts_about(OutputSums(batch_difference=own_output.MAX_DIFFERENCE)) == []


def test_every_doubt_has_a_remedy():
    codes = {value for name, value in vars(own_output).items() if name.isupper() and isinstance(value, str)}
    assert codes == set(own_output.REMEDIES)


def test_outputs_that_are_not_finite_are_a_doubt_of_their_own():
    images = np.random.default_rng(0).random((4, 1, 8, 8))
    outputs = images.copy()
    outputs[[1, 3], 0, 2, 2] = np.nan, np.inf
    halves = OutputSums.join([OutputSums.of(outputs[rows], images[rows]) for rows in (slice(2), slice(2, 4))])
    assert [doubt.code for doubt in doubts_about(halves)] == ["not_finite"]
    assert doubts_about(OutputSums.of(images, images)) == []
