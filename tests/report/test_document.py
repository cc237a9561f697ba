"""report.json: rebuilt it is the same, it follows its schema, and says what the run's results say."""

import json

import jsonschema
import pytest
import torch
from run_folder_fixture import make_run_folder

from lightning_memaudit.report.document import build_document, check_schema, read_document, schema
from lightning_memaudit.results.hashes import image_sha256, json_sha256, tensors_sha256


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"untrained": True, "train_losses": (1e-2, 1e-4)},
        {"num_controls": 0},
        {"memorizes": False, "identity": True, "train_losses": (1e-4,)},
        {"methods": ("blind", "known_mask")},
        {"color": True, "num_images": 4, "num_controls": 3, "patterns": ("text",)},
    ],
)
def test_report_follows_its_schema(tmp_path, options):
    document = build_document(make_run_folder(tmp_path, **options))
    check_schema(document)
    json.dumps(document, allow_nan=False)


def test_schema_refuses_what_is_not_described(finished):
    document = dict(finished[1].document)
    check_schema(document)
    with pytest.raises(ValueError, match="at verdict/outcome"):
        check_schema({**document, "verdict": {**document["verdict"], "outcome": "guilty"}})
    with pytest.raises(ValueError, match="the top level"):
        check_schema({**document, "extra": 1})


def test_report_is_the_same_when_built_again(finished):
    folder, written = finished
    assert build_document(folder) == written.document == read_document(folder)


def test_verdict_of_a_run_that_memorized(finished):
    document = finished[1].document
    assert document["verdict"]["outcome"] == "memorized"
    assert document["negative_control"]["passed"] is True
    assert document["history"][0]["outcome"] == "inconclusive"
    assert document["judgement"]["overall"]["controls"]["memorized"]["count"] == 0
    assert document["hashes"]["config"] is not None
    assert any("24 of 48 training images were audited" in sentence for sentence in document["limits"])


def test_top_of_the_report_for_an_untrained_autoencoder(tmp_path):
    document = build_document(make_run_folder(tmp_path, memorizes=False, train_losses=(0.25,)))
    assert document["verdict"]["outcome"] == "inconclusive"
    assert document["verdict"]["reasons"] == ["train_loss_too_high"]


def test_top_of_the_report_for_an_identity(tmp_path):
    document = build_document(make_run_folder(tmp_path, memorizes=False, identity=True, train_losses=(1e-4,)))
    assert document["verdict"]["reasons"] == ["identity_like"]
    assert "skip connections" in document["verdict"]["why"][0]


def test_hashes_are_of_the_content(finished):
    folder, written = finished
    hashes = written.document["hashes"]
    truth = folder.newest_recoveries().arrays["members/truth"]
    assert len(hashes["masks"]) == 4
    assert hashes["settings"] == json_sha256(folder.run()["settings"])
    assert image_sha256(truth[0]) != image_sha256(truth[1])
    state = {"b": torch.arange(3.0), "a": torch.tensor(1)}
    assert tensors_sha256(state) == tensors_sha256(dict(reversed(state.items())))
    assert tensors_sha256(state) != tensors_sha256({**state, "b": torch.arange(3.0) + 1e-6})
    assert tensors_sha256(state) != tensors_sha256({"b": torch.arange(3.0).reshape(3, 1), "a": torch.tensor(1)})
    assert tensors_sha256({"w": torch.ones(2, dtype=torch.bfloat16)})


@pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning", "ignore:Sparse invariant:UserWarning")
def test_hashes_of_tensors_are_of_what_their_bytes_stand_for():
    """A scale beside the bytes, indices beside the values, a sign that is not yet taken."""
    bytes_ = torch.arange(4, dtype=torch.uint8)
    quantized = [torch._make_per_tensor_quantized_tensor(bytes_, scale, 0) for scale in (0.1, 0.1, 0.2)]
    sparse = [torch.sparse_coo_tensor([[place]], [1.0], (3,)) for place in (0, 0, 1)]
    conjugate = [torch.tensor([1 + 1j]), torch.tensor([1 - 1j]).conj(), torch.tensor([1 + 1j]).conj()]
    for tensors in (quantized, sparse, conjugate):
        one, same, other = (tensors_sha256({"w": tensor}) for tensor in tensors)
        assert one == same != other
    with pytest.raises(RuntimeError):
        tensors_sha256({"w": torch.ones(2, device="meta")})
