import json

import pytest

from lorasynth.encoders import describe, difference, same_encoder
from lorasynth.encoders.records import encoder_record


def record(kind="face", name="buffalo_l", dim=512, recogniser="a" * 64, detector="b" * 64, size=112, licence="MIT"):
    files = {"recogniser": recogniser, "detector": detector}
    return encoder_record(
        kind=kind, name=name, dim=dim, files=files, input={"size": size}, licence=licence, detector="Scrfd"
    )


def test_encoders_of_one_network_may_differ_in_their_names():
    other = record(name="mine", detector="c" * 64, licence="unknown")
    assert difference(record(), other) == ""
    assert same_encoder(record(), other)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"kind": "clip"}, "'buffalo_l' (kind face), got those of 'other' (kind clip)"),
        ({"dim": 128}, "'buffalo_l' (dim 512), got those of 'other' (dim 128)"),
        (
            {"recogniser": "f" * 64},
            "(recogniser sha256 aaaaaaaaaaaa), got those of 'other' (recogniser sha256 ffffffffffff)",
        ),
        ({"size": 128}, "(input {'size': 112}), got those of 'other' (input {'size': 128})"),
    ],
)
def test_how_two_encoders_differ_is_said_in_one_sentence(other, said):
    sentence = difference(record(), record(**{"name": "other", **other}))
    assert sentence.startswith("expected embeddings of encoder 'buffalo_l'")
    assert said in sentence
    assert sentence.endswith("use the encoder that this was made with")


def test_file_that_only_one_of_them_has_is_named():
    more = record()
    more["files"] = {**more["files"], "head": "d" * 64}
    assert "(head absent), got those of 'buffalo_l' (head sha256 dddddddddddd)" in difference(record(), more)


def test_record_is_json_and_one_line_for_people():
    assert json.loads(json.dumps(record())) == record()
    assert describe(record()) == (
        "encoder buffalo_l (face, 512 numbers, faces found by Scrfd); licence of its files: MIT"
    )
