"""Rank and alpha patterns are matched as PEFT's own function matches them, in bounded time."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from lorasynth.errors import LoRAFileError
from lorasynth.lora.patterns import Patterns

NAMES = [
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.10.attentions.1.transformer_blocks.0.attn2.to_k",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "single_transformer_blocks.7.attn.to_q", "to_q", "conv_in", "time_embedding.linear_1", "a-b.to_out.0",
]  # fmt: skip
WORDS = ["to_q", "to_k", "attn1", "attn2", "down_blocks", "mid_block", "0", "10", "attn", "proj", "conv_in", "ff"]
PARTS = [
    ".", r"\.", r"\d", r"\d+", r"\w*", ".*", ".+?", "^", "$", "|", "(0|1)", "(?:a|t)*", "[0-9]", "[^0-9.]+", "[a-z_]{2,}", "?",
    "x{0,3}", r"\S", r"\D", r"[\d_]", "(to_(q|k))?", r"\A", r"\Z", "(", ")", "[", "*", r"\b", "(?i)", "(?=to)", r"(o)\1", "+",
    "é",
]  # fmt: skip


def theirs(patterns, name):
    """PEFT's answer; None if it takes none."""
    found = get_pattern_key(patterns, name)
    return found if found in patterns else None


@pytest.mark.parametrize(
    "patterns",
    [
        ["to_q", "attn1.to_q"], ["attn1.to_q", "to_q"], ["o_q", "^to_q"], ["attn..to_q"], [r"down_blocks\.\d+\.attn1\.to_q"],
        [".*attn2.*"], ["down_blocks.0.*"], [r".*\.(0|10)\..*to_[qk]"], ["to_q|to_k"], [r"single_transformer_blocks\.[0-9]\..*"],
        ["^down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"], ["down_blocks_0.attn1.to_q", "down.blocks.*"], [""],
        ["x)|(.*to_q"], ["(?:.*)*"], ["((a|t)*o_?)+q"], ["[^.]*"], ["(?:(?:a?){9}){9}.*q"],
    ],
)  # fmt: skip
def test_modules_pattern_is_that_which_peft_takes(patterns):
    ours = Patterns(patterns, "where")
    assert [ours.first_for(name) for name in NAMES] == [theirs(patterns, name) for name in NAMES]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(WORDS + PARTS), min_size=1, max_size=6).map("".join),
        min_size=1,
        max_size=3,
        unique=True,
    )
)
def test_any_expression_is_matched_as_by_peft_or_refused(patterns):
    try:
        ours = Patterns(patterns, "where")
    except LoRAFileError:
        return
    assert [ours.first_for(name) for name in NAMES] == [theirs(patterns, name) for name in NAMES]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(", "none (missing )"), ("(?=a)", "none (with assert)"), (r"(a)\1", "with groupref"), ("(?i)a", "none ("),
        ("a" * 401, "another kind"), (r"\bto_q", "with at"), ("(?i:to_q)", "with subpattern"),
    ],
)  # fmt: skip
def test_what_is_not_followed_is_refused(pattern, says):
    with pytest.raises(LoRAFileError, match="where: expected regular expressions of letters") as error:
        Patterns([pattern], "where")
    assert says in str(error.value)
    assert "PEFT" in str(error.value)


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(.*)*(.*)*(.*)*x", "((a?){99}){99}b", ".*.*.*.*.*.*.*b", "(((((a*)*)*)*)*)*b"]
)
def test_expression_that_runs_for_hours_elsewhere_ends_at_once(pattern):
    start = time.process_time()
    assert Patterns([pattern], "where").first_for("a" * 300) is None
    assert time.process_time() - start < 2


@pytest.mark.slow
def test_more_expressions_than_can_be_followed_are_refused():
    patterns = Patterns([f"{i}.*" for i in range(20_000)], "where")
    with pytest.raises(LoRAFileError, match="far too many to follow"):
        _ = [patterns.first_for(f"blocks.{i}.to_q") for i in range(2_000)]
