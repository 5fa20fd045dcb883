"""Which trackers there are is Accelerate's own list; what cannot be is one line."""

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from penstock.consumer import tracking_config
from penstock.consumer.tracking_config import TrackingConfig, check_installed
from penstock.protocol.errors import ConfigError


def test_the_trackers_are_those_that_accelerate_knows() -> None:
    assert TrackingConfig(trackers=tuple(LOGGER_TYPE_TO_CLASS)).trackers == tuple(LOGGER_TYPE_TO_CLASS)
    assert sorted(LOGGER_TYPE_TO_CLASS) == sorted(tracking_config._PACKAGES)


def test_tensorboard_is_told_where_it_is_installed_and_nobody_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrackingConfig().chosen == ("tensorboard",)
    assert TrackingConfig(trackers=()).chosen == ()
    monkeypatch.setattr(tracking_config, "_PACKAGES", {"tensorboard": ("no_such_package_d", "no_such_package_e")})
    assert TrackingConfig().chosen == ()
    with pytest.raises(ConfigError, match="pip install no_such_package_d"):
        TrackingConfig(trackers=("tensorboard",)).chosen  # noqa: B018 - the property raises


def test_auto_stands_alone() -> None:
    with pytest.raises(ConfigError, match=r"trackers must be auto alone, or names, got \('auto', 'wandb'\)"):
        TrackingConfig(trackers=("auto", "wandb"))


def test_an_unknown_tracker_is_one_line_with_the_nearest_name() -> None:
    with pytest.raises(
        ConfigError, match=r"trackers must be among aim, .*wandb, or auto, or left empty, got 'tensorbord'; did"
    ):
        TrackingConfig(trackers=("tensorbord",))


@pytest.mark.parametrize("project", ["", "a/b", "..", "a\nb", " "])
def test_a_project_must_do_as_a_folders_name(project: str) -> None:
    with pytest.raises(ConfigError, match="project must be a name that can be a folder's"):
        TrackingConfig(project=project)


def test_a_tracker_is_named_once() -> None:
    with pytest.raises(ConfigError, match="trackers must name each once"):
        TrackingConfig(trackers=("wandb", "wandb"))


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match="images_every_steps must be >= 0, got -1"):
        TrackingConfig(images_every_steps=-1)


def test_a_package_that_is_missing_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_config, "_PACKAGES", {"real": ("numpy",), "wandb": ("no_such_package_a",)})
    check_installed(["real"])
    with pytest.raises(ConfigError, match="no_such_package_a is not installed here; run: pip install no_such_package_"):
        check_installed(["real", "wandb"])


def test_a_folder_of_the_packages_name_is_no_package(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.mktemp("path")
    (place / "no_such_package_b").mkdir()
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(tracking_config, "_PACKAGES", {"aim": ("no_such_package_b",)})
    with pytest.raises(ConfigError, match="pip install no_such_package_b"):
        check_installed(["aim"])


def test_any_of_several_packages_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_config, "_PACKAGES", {"tensorboard": ("no_such_package_c", "numpy")})
    check_installed(["tensorboard"])
