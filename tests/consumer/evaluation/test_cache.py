"""Features are found again only where nothing has changed, and the folder stays within its bound."""

import os
from pathlib import Path

import pytest
import torch

from penstock.consumer.evaluation.cache import FeatureCache, cache_key
from penstock.protocol.errors import ConfigError

FEATURES = {"features": torch.arange(6.0).reshape(2, 3), "contents": torch.tensor([5, 7])}
KEYS = [cache_key({"number": number}) for number in range(4)]


def test_what_was_saved_is_found_by_another_process_s_cache(tmp_path: Path) -> None:
    FeatureCache(tmp_path / "deep" / "cache", 10**6).save(KEYS[0], FEATURES)
    cache = FeatureCache(tmp_path / "deep" / "cache", 10**6)
    found = cache.load(KEYS[0])
    assert found is not None
    assert all(torch.equal(found[name], FEATURES[name]) for name in FEATURES)
    assert cache.load(KEYS[1]) is None
    assert (cache.hits, cache.misses) == (1, 1)
    assert cache.size_bytes == sum(path.stat().st_size for path in (tmp_path / "deep" / "cache").iterdir())


def test_the_key_depends_on_every_part_and_on_no_order() -> None:
    assert cache_key({"a": 1, "b": [2, 3]}) == cache_key({"b": [2, 3], "a": 1})
    assert len({cache_key({"a": 1}), cache_key({"a": 2}), cache_key({"b": 1}), cache_key({"a": [1]})}) == 4


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10**6)
    for age, key in enumerate(KEYS[:3]):
        cache.save(key, FEATURES)
        os.utime(tmp_path / f"{key}.safetensors", (1000 + age, 1000 + age))
    one = cache.size_bytes // 3
    assert cache.load(KEYS[0]) is not None  # used now, so that the second is the oldest
    FeatureCache(tmp_path, 3 * one).save(KEYS[3], FEATURES)
    assert {path.stem for path in tmp_path.iterdir()} == {KEYS[0], KEYS[2], KEYS[3]}
    FeatureCache(tmp_path, 0).save(KEYS[1], FEATURES)
    assert {path.stem for path in tmp_path.iterdir()} == {KEYS[1]}


def test_strangers_in_the_folder_are_neither_counted_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.safetensors").write_bytes(b"x" * 1000)
    cache = FeatureCache(tmp_path, 0)
    cache.save(KEYS[0], FEATURES)
    assert cache.size_bytes < 1000
    assert (tmp_path / "thesis.safetensors").exists()


def test_a_torn_file_is_a_miss_and_is_written_anew(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10**6)
    cache.save(KEYS[0], FEATURES)
    path = tmp_path / f"{KEYS[0]}.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    assert cache.load(KEYS[0]) is None
    cache.save(KEYS[0], FEATURES)
    assert cache.load(KEYS[0]) is not None
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_without_a_folder_nothing_is_kept() -> None:
    cache = FeatureCache(None, 10**6)
    cache.save(KEYS[0], FEATURES)
    assert cache.load(KEYS[0]) is None
    assert cache.size_bytes == 0


def test_a_folder_that_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be a folder: .*; give --cache none"):
        FeatureCache(tmp_path / "file", 10**6)
