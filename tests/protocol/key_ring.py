"""Keys for tests: a trainer's folder, producers that it allows, and strangers."""

from pathlib import Path

from penstock.deploy.cli import dispatch
from penstock.protocol.keys import KeyPair, ProducerKey, TrainerKeys, make_pair, read_producer_key, read_trainer_keys


class KeyRing:
    """A folder of `penstock keys`, made in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "keys"
        dispatch(["keys", "init", str(self.folder)])
        self.trainer: TrainerKeys = read_trainer_keys(self.folder)

    def add(self, name: str) -> ProducerKey:
        """Let a producer in, and give it its key."""
        dispatch(["keys", "add", str(self.folder), name])
        return read_producer_key(self.folder / f"{name}.key")

    def revoke(self, name: str) -> None:
        """Let it in no more."""
        dispatch(["keys", "revoke", str(self.folder), name])

    def stranger(self) -> ProducerKey:
        """Somebody who knows the trainer's public key and is on no list."""
        return ProducerKey(make_pair(), self.trainer.pair.public, "stranger.key")

    def of_another_trainer(self, pair: KeyPair) -> ProducerKey:
        """A key whose file names another trainer than this one."""
        return ProducerKey(pair, make_pair().public, "old.key")
