"""The tokenizer of captions against `normalise_prompt`, CLIP's own class, and a fresh process."""

import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from unicodedata import ucd_3_2_0

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerFast

from penstock.consumer.tokenizer import CaptionTokenizer, open_tokenizer
from penstock.protocol.errors import ConfigError
from penstock.protocol.tickets import normalise_prompt
from penstock.toyworld.captions import Captioner

CAPTIONS = [Captioner(0).prompt(index).text for index in range(300)]
START, END = "<|startoftext|>", "<|endoftext|>"
HEX_LETTERS = str.maketrans("0123456789", "ghijklmnop")


def own(max_tokens: int = 24) -> CaptionTokenizer:
    return open_tokenizer("own", CAPTIONS, max_tokens)


def clip_folder(path: Path) -> Path:
    """A folder in the format of CLIP's own tokenizer: letters, letters that end a word, one merge."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "at</w>", START, END]
    path.mkdir()
    (path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (path / "merges.txt").write_text("#version: 0.2\na t</w>\n")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return path


def test_a_caption_becomes_start_text_end_and_padding() -> None:
    tokenizer = own()
    ids = tokenizer(["a handwritten seven", "a"])
    assert (ids.shape, ids.dtype) == ((2, 24), torch.int64)
    loaded = tokenizer._backend
    tokens = [[loaded.id_to_token(i) for i in row] for row in ids.tolist()]
    assert tokens[0] == [START, "Ġa", "Ġhandwritten", "Ġseven", *[END] * 20]
    assert tokens[1] == [START, "Ġa", *[END] * 22]


def test_a_long_caption_is_cut_and_keeps_its_end() -> None:
    ids = own(6)(["a handwritten seven " * 10])[0].tolist()
    assert ids[-1] == own(6).end_id
    assert own(6).end_id not in ids[:-1]


def test_the_end_has_the_highest_id_where_code_that_looks_for_it_finds_it() -> None:
    tokenizer = own()
    ids = tokenizer(CAPTIONS)
    assert tokenizer.end_id == tokenizer.vocab_size - 1 == ids.max()
    assert torch.equal(ids.argmax(dim=1), (ids == tokenizer.end_id).int().argmax(dim=1))


@pytest.mark.parametrize(
    "text",
    [
        "A Handwritten\t SEVEN\n",
        "Straße ΣΊΣΥΦΟΣ ὈΔΥΣΣΕΎΣ",
        "ﬁne ²³ ①",
        "\u3000İstanbul\xa0\x1d ǰ",
        "Ꭰ ꭰ ᏸ ẞ ᾳ",
        "e\u0301 é",
    ],
)
def test_texts_that_count_as_one_prompt_get_the_same_ids(text: str) -> None:
    tokenizer = own()
    assert tokenizer._backend.normalizer.normalize_str(text) == normalise_prompt(text)
    assert torch.equal(tokenizer([text]), tokenizer([normalise_prompt(text)]))


def test_every_letter_folds_as_in_prompts() -> None:
    # Python and the library know different versions of Unicode; both know the letters of version 3.2.
    letters = [c for c in map(chr, range(sys.maxunicode)) if ucd_3_2_0.category(c).startswith("L")]
    assert len(letters) > 80_000
    normalizer = own()._backend.normalizer
    assert [c for c in letters if normalizer.normalize_str(c) != normalise_prompt(c)] == []


def test_letters_that_no_caption_had_come_back_from_their_ids() -> None:
    tokenizer = own(64)
    text = "zürich 漢字 🙂"
    assert tokenizer._backend.decode(tokenizer([text])[0].tolist()).strip() == "zürich 漢字 🙂"


def test_the_vocabulary_is_the_same_in_any_process(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(json.dumps(CAPTIONS))
    code = (
        "import json, sys; from penstock.consumer.tokenizer import open_tokenizer;"
        "print(open_tokenizer('own', json.load(open(sys.argv[1])), 24).digest)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "captions.json")],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "RAYON_NUM_THREADS": seed,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()
        for seed in ("1", "3")
    }
    assert found == {own().digest}


def test_other_captions_give_another_digest() -> None:
    assert open_tokenizer("own", [*CAPTIONS, "violet", "violet"], 24).digest != own().digest


def test_an_endless_source_is_read_only_so_far_and_the_vocabulary_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.consumer.tokenizer._MAX_CAPTIONS", 6000)
    numbers = count()
    endless = (f"{number:x} {number * 7919:x} {number * 104729:x}".translate(HEX_LETTERS) for number in numbers)
    assert open_tokenizer("own", endless, 24).vocab_size == 4096
    assert next(numbers) == 6000


def test_a_saved_tokenizer_yields_equal_ids_as_an_autotokenizer(tmp_path: Path) -> None:
    tokenizer = own(12)
    tokenizer.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*CAPTIONS[:50], "Straße\tΣΟΦΟΣ 12", "seven " * 30]
    theirs = loaded(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(tokenizer(texts), theirs)
    again = open_tokenizer(str(tmp_path), [], 12)
    assert (again.digest, again.end_id, again.vocab_size) == (tokenizer.digest, tokenizer.end_id, tokenizer.vocab_size)


def test_a_clip_tokenizer_of_a_folder_serves(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    tokenizer = open_tokenizer(str(folder), [], 6)
    assert (tokenizer.vocab_size, tokenizer.end_id) == (55, 54)
    theirs = CLIPTokenizer.from_pretrained(folder)
    expected = theirs(["A cat", "a b c d e f g"], padding="max_length", truncation=True, max_length=6)
    assert tokenizer(["A cat", "a b c d e f g"]).tolist() == expected["input_ids"]
    assert expected["input_ids"][0] == [53, 26, 2, 52, 54, 54]
    tokenizer.save(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved(["A cat"], padding="max_length", truncation=True)["input_ids"] == expected["input_ids"][:1]


def test_a_prompt_that_comes_again_is_not_encoded_again() -> None:
    tokenizer = own()
    tokenizer([CAPTIONS[0], CAPTIONS[1], CAPTIONS[0]])
    tokenizer(CAPTIONS[:2])
    assert tokenizer._ids.cache_info()[:2] == (3, 2)


def test_what_cannot_be_used_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokenizer own: there are no captions to learn a vocabulary from"):
        open_tokenizer("own", [], 24)
    with pytest.raises(ConfigError, match="max_tokens must be >= 3, for start, text and end, got 2"):
        open_tokenizer("own", CAPTIONS, 2)
    with pytest.raises(ConfigError, match=r"cannot be loaded .*name a tokenizer's folder") as caught:
        open_tokenizer(str(tmp_path), [], 24)
    assert "\n" not in str(caught.value)
    endless = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), pad_token="<pad>")
    endless.save_pretrained(tmp_path / "endless")
    with pytest.raises(ConfigError, match="must be a fast one with an end token"):
        open_tokenizer(str(tmp_path / "endless"), [], 24)
    silent = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token=END)
    silent.save_pretrained(tmp_path / "silent")
    with pytest.raises(ConfigError, match="must end every text with its end token"):
        open_tokenizer(str(tmp_path / "silent"), [], 24)
    (tmp_path / "silent" / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        open_tokenizer(str(tmp_path / "silent"), [], 24)
