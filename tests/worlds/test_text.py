"""The tokenizer: a real CLIPTokenizer that knows a world's words."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasynth.worlds.portraits.captions import VOCABULARY
from lorasynth.worlds.text import MAX_TOKENS, build_text_encoder, build_tokenizer, merges_for


def test_each_known_word_is_one_token():
    tokenizer = build_tokenizer(VOCABULARY)
    for word in VOCABULARY:
        assert len(tokenizer(word).input_ids) == 3, word


def test_words_state_is_the_words_own_whatever_came_before():
    """Otherwise a base cannot tell a smile from a frown, however much it sees of both."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(VOCABULARY)
    encoder = build_text_encoder(tokenizer).eval()

    @torch.no_grad()
    def last_word(text):
        ids = tokenizer(text, return_tensors="pt").input_ids
        return encoder(ids)[0][0, -2]  # before the end

    smile, frown = last_word("a photo of a person, smiling"), last_word("a photo of a person, frowning")
    elsewhere = last_word("a photo of sks person with black hair, smiling")
    assert (smile - frown).norm() > 2 * (smile - elsewhere).norm()
    assert (smile - frown).norm() > 0.8 * smile.norm()


def test_unknown_word_is_spelled_and_prompts_are_padded_to_model():
    tokenizer = build_tokenizer(VOCABULARY)
    assert len(tokenizer("zebra").input_ids) > 3
    assert len(tokenizer("a photo", padding="max_length").input_ids) == MAX_TOKENS


@given(st.lists(st.text("abcde", min_size=1, max_size=6), min_size=1, max_size=12, unique=True))
def test_merges_make_any_list_of_words_whole(words):
    from lorasynth.worlds.text import _apply

    merges = {pair: i for i, pair in enumerate(merges_for(words))}
    for word in words:
        assert _apply([*word[:-1], word[-1] + "</w>"], merges) == [word + "</w>"]
