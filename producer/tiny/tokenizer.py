"""Makes a small CLIP tokenizer: byte-level BPE in which every word of a given vocabulary is one token.

All 256 bytes are in it too, so that any other prompt still encodes, letter by letter. The files are CLIP's
own (`vocab.json`, `merges.txt`), and the ordinary `CLIPTokenizer` loads them.
"""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
#: CLIP marks the last symbol of a word.
WORD_END = "</w>"


def make_tokenizer(words: Iterable[str], folder: Path, max_length: int) -> CLIPTokenizer:
    """Writes the tokenizer's files into `folder` and loads them; prompts are cut at `max_length` tokens."""
    merges = learn_merges(words)
    letters = sorted(ByteLevel.alphabet())
    # CLIPTextModel takes an end token of id 2 for an old, broken configuration; ids 0 and 1 keep clear of it.
    tokens = [
        START,
        END,
        *letters,
        *(letter + WORD_END for letter in letters),
        *("".join(pair) for pair in merges),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
        "model_max_length": max_length,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016) run until every word, ASCII, is a single symbol.

    Each round joins the most frequent neighbours; ties go to the alphabetically first pair, so the result is
    fixed.
    """
    spelt = [[*word[:-1], word[-1] + WORD_END] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for symbols in spelt for pair in pairwise(symbols))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelt = [_join(symbols, best) for symbols in spelt]


def _join(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined
