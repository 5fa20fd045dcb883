"""Keys as Kubernetes mounts them, made here by hand: links into a folder that is changed as a whole, files of root that
the pod's group may read, a folder that all could write to if it were not mounted read-only.
"""

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.deploy import keys as keys_command
from penstock.protocol.keys import read_producer_key, read_trainer_keys

POD = 10001
"""User and group of the pods."""


class Mounted:
    """A Secret's volume, as the kubelet writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._version = 0
        folder.mkdir()
        folder.chmod(0o1777)

    def write(self, files: dict[str, bytes], *, has_fs_group: bool) -> None:
        """Another version of the Secret takes the place of the last at once. With an fsGroup its group may read it."""
        self._version += 1
        data = self.folder / f"..{self._version}"
        data.mkdir(mode=0o755)
        for name, text in files.items():
            (data / name).write_bytes(text)
            if has_fs_group:
                os.chown(data / name, 0, POD)
            (data / name).chmod(0o440 if has_fs_group else 0o400)
        link = self.folder / "..next"
        link.symlink_to(data.name)
        link.rename(self.folder / "..data")
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A trainer's folder with two producers."""
    folder = tmp_path / "keys"
    for arguments in (["init"], ["add", "ann"], ["add", "bob"]):
        assert keys_command.main([arguments[0], str(folder), *arguments[1:]]) == 0
    return folder


@pytest.fixture
def mounted() -> Iterator[Mounted]:
    """Where users other than us can look, too."""
    above = Path(tempfile.mkdtemp(prefix="penstock-secret-"))
    above.chmod(0o755)
    yield Mounted(above / "keys")
    shutil.rmtree(above)


def trainer_files(made: Path) -> dict[str, bytes]:
    return {name: (made / name).read_bytes() for name in ("trainer.key", "allowed")}


def test_a_secret_that_changes_revokes_without_a_restart(made: Path, mounted: Mounted) -> None:
    mounted.write(trainer_files(made), has_fs_group=False)
    keys = read_trainer_keys(mounted.folder)
    ann, bob = (read_producer_key(made / f"{name}.key").pair.public for name in ("ann", "bob"))
    assert (keys.allowed.name(ann), keys.allowed.name(bob)) == ("ann", "bob")
    assert keys_command.main(["revoke", str(made), "bob"]) == 0
    mounted.write(trainer_files(made), has_fs_group=False)
    keys.allowed.refresh(now=0.0)
    assert keys.allowed.refresh(now=5.0), "a list that has changed for good"
    assert (keys.allowed.name(ann), keys.allowed.name(bob)) == ("ann", None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another group")
def test_a_pod_that_is_not_root_reads_the_keys_that_are_mounted_for_it(made: Path, mounted: Mounted) -> None:
    mounted.write(trainer_files(made) | {"producer.key": (made / "ann.key").read_bytes()}, has_fs_group=True)
    pod = multiprocessing.get_context("fork").Process(target=_read_as_pod, args=[mounted.folder])
    pod.start()
    pod.join(30)
    assert pod.exitcode == 0


def _read_as_pod(folder: Path) -> None:
    os.setgroups([POD])
    os.setgid(POD)
    os.setuid(POD)
    keys, mine = read_trainer_keys(folder), read_producer_key(folder / "producer.key")
    assert keys.allowed.name(mine.pair.public) == "ann"
    assert mine.trainer == keys.pair.public
