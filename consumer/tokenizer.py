"""Captions to token ids, for the text tower that StableRep+ and CLIP train beside the encoder.

The tokenizer is either learnt from the run's own captions, so that nothing need be downloaded, or any CLIP-style
tokenizer that `AutoTokenizer` loads. Both end as one class, and as an ordinary Hugging Face folder.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from unicodedata import normalize

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from penstock.protocol.errors import ConfigError

OWN = "own"
"""The name of the tokenizer that is learnt from the captions."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_MAX_VOCABULARY = 4096
_MAX_CAPTIONS = 20_000
"""Captions that the vocabulary is learnt from, at most: about two seconds."""
_CACHED_CAPTIONS = 1 << 16

_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""CLIP's words: letters together, digits one by one, other signs together."""
_SPACE = r"[\s\x1c-\x1f]+"
"""White space as `str.split` sees it."""


class CaptionTokenizer:
    """Ids of captions, each `max_tokens` long, cut so that its end token stays; every caption is encoded once.

    Args:
        tokenizer: a fast tokenizer that ends each text with its `eos_token`.
        max_tokens: start and end token included.

    Raises:
        ConfigError: a tokenizer without an end token, or one that does not write it; fewer than 3 tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        if max_tokens < 3:
            raise ConfigError(f"max_tokens must be >= 3, for start, text and end, got {max_tokens}")
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer must be a fast one with an end token, as CLIP's is")
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._backend.enable_truncation(max_tokens)
        self._backend.no_padding()
        if self._backend.encode("a b c " * max_tokens).ids[-1:] != [self.end_id]:
            raise ConfigError("the tokenizer must end every text with its end token, as CLIP's does")
        self._backend.enable_padding(
            length=max_tokens, pad_id=tokenizer.pad_token_id, pad_token=str(tokenizer.pad_token)
        )
        self._ids = lru_cache(maxsize=_CACHED_CAPTIONS)(self._encode)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """At least one text to int64 `[B, max_tokens]`."""
        return torch.stack([self._ids(text) for text in texts])

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding of the tokens needs."""
        return max(self._backend.get_vocab().values()) + 1

    @property
    def end_id(self) -> int:
        """The id of the token that ends a text; the text tower's feature stands at its first place."""
        return int(self._tokenizer.eos_token_id)

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the ids, the vocabulary and the merges: equal on every machine."""
        merges = json.loads(self._backend.to_str())["model"].get("merges")
        parts = json.dumps([sorted(self._backend.get_vocab().items()), merges])
        return hashlib.sha256(parts.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write an ordinary folder: `AutoTokenizer.from_pretrained(path)` yields equal ids.

        There `padding="max_length", truncation=True` asks for the same length.
        """
        self._tokenizer.model_max_length = self.max_tokens
        self._tokenizer.save_pretrained(path)

    def _encode(self, text: str) -> Tensor:
        return torch.tensor(self._backend.encode(text).ids)


def open_tokenizer(name: str, captions: Iterable[str], max_tokens: int) -> CaptionTokenizer:
    """The tokenizer that `name` says.

    Args:
        name: `own`, learnt from `captions`; else a folder or an id on the hub, such as `openai/clip-vit-base-patch32`.
        captions: read only for `own`, and no more than the first 20,000 of them.
        max_tokens: start and end token included.

    Raises:
        ConfigError: no captions, a tokenizer that cannot be loaded, or one that is not of CLIP's kind.
    """
    try:
        return CaptionTokenizer(_learn(captions) if name == OWN else _load(name), max_tokens)
    except ConfigError as error:
        raise ConfigError(f"tokenizer {name}: {error}") from error


def _load(name: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the library in Rust raises Exception itself for a file that it cannot read
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"cannot be loaded ({reason}); name a tokenizer's folder, an id on the hub, or {OWN}"
        ) from error


def _learn(captions: Iterable[str]) -> PreTrainedTokenizerBase:
    """A byte-level BPE (Sennrich et al. 2016) of the captions, the same wherever the captions are.

    Words begin with a mark where CLIP's end with one: the library numbers the marked letters at word ends in an order
    that changes from process to process. Start and end token come last, as in CLIP, where code that looks for the
    highest id finds the end.
    """
    backend = Tokenizer(models.BPE())
    backend.normalizer = _normaliser()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_MAX_VOCABULARY - 2,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = list(islice(captions, _MAX_CAPTIONS))
    if not sample:
        raise ConfigError("there are no captions to learn a vocabulary from")
    backend.train_from_iterator(sample, trainer)
    backend.add_special_tokens([_START, _END])
    ids = [(token, backend.token_to_id(token)) for token in (_START, _END)]
    backend.post_processor = processors.TemplateProcessing(f"{_START} $A {_END}", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=_START, eos_token=_END, pad_token=_END)


def _normaliser() -> normalizers.Normalizer:
    """`normalise_prompt` in the tokenizer's own terms, so that texts that count as one prompt get the same ids."""
    # The library can lower, not fold. The letters that differ, ß and the final sigma among them, are few, and all of
    # them lie in the first plane.
    folded = [c for c in map(chr, range(1 << 16)) if normalize("NFKC", c) == c == c.lower() != c.casefold()]
    return normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            *(normalizers.Replace(c, c.casefold()) for c in folded),
            normalizers.Replace(Regex(_SPACE), " "),
            normalizers.Strip(),
        ]
    )
