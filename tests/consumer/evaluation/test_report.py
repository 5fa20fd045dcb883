"""The table says what the figures are worth, and JSON holds them all."""

import json
from pathlib import Path

import numpy as np
import pytest

from penstock.consumer.evaluation.accuracy import grade
from penstock.consumer.evaluation.few_shot import FewShot
from penstock.consumer.evaluation.intervals import Interval
from penstock.consumer.evaluation.linear_probe import Choice
from penstock.consumer.evaluation.rankme import Spread
from penstock.consumer.evaluation.report import Report, TaskReport, draw_table

LABELS = np.arange(40) // 20
KNN = grade(
    np.where(np.arange(40) < 30, LABELS, 0),
    LABELS,
    np.arange(40) // 2,
    ("[red] fox", "owl"),
    {"paper": (np.arange(40) % 2, ("white", "pink"))},
    confidence=0.95,
    seed=0,
)
TASK = TaskReport(
    name="animals",
    num_bank=100,
    num_fit=80,
    num_choosing=20,
    num_test=40,
    num_originals=20,
    original="scan",
    num_known=3,
    spread=Spread(rankme=12.25, max_rank=50, mean_cosine=0.5),
    knn=KNN,
    linear_probe=KNN,
    choice=Choice(10.0, True, 0.875, True),
    few_shot=FewShot(0.9, Interval(0.89, 0.91, "over 600 episodes")),
    skipped={"zero-shot": "the encoder has no text tower"},
)
SETTINGS = {
    "confidence": 0.95,
    "report_on": "test",
    "knn": {"k": 20, "temperature": 0.07},
    "few_shot": {"ways": 5, "shots": 5, "queries": 15, "episodes": 600},
}
REPORT = Report(
    encoder="runs/[a]",
    feature="CLS token",
    dim=50,
    digest="ab" * 32,
    preprocessing={"size": 16},
    tasks=(TASK,),
    settings=SETTINGS,
    versions={"torch": "2"},
    cache={"folder": "/cache", "hits": 1, "misses": 3, "bytes": 2_500_000},
)


@pytest.mark.parametrize(
    "words",
    [
        "runs/[a]: CLS token, 50 wide; weights abababababab",
        "animals: 40 test images of 20 scans",
        "kNN 75.0%",
        "k 20, T 0.07; 100 images vote",
        "worst class 50.0% owl, 20 images",
        "worst paper 75.0% white, 20 images",
        "80 images fitted; base lr 10 (the grid's edge), BatchNorm chosen on 20 (87.5%)",
        "few-shot 90.0% 89.0% .. 91.0% 5-way 5-shot, 15 queries; 600 episodes",
        "RankMe 12.2 24% of the 50 possible; mean cosine 0.500",
        "zero-shot - the encoder has no text tower",
        "intervals: bootstrap of 20 clusters",
        "few-shot: over the draw of the episodes, not of the images",
        "3 of these images are among those that they are compared with or fitted to",
        "cache: 1 of 4 feature sets were there already; 2.5 MB in /cache",
    ],
)
def test_the_table_says(words: str) -> None:
    assert words in " ".join(draw_table(REPORT, width=200).replace("│", " ").split())


def test_json_holds_every_class_and_the_worst(tmp_path: Path) -> None:
    REPORT.write(tmp_path / "report.json")
    values = json.loads((tmp_path / "report.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    (task,) = values["tasks"]
    assert task["knn"]["classes"] == [
        {"name": "[red] fox", "accuracy": 1.0, "num": 20},
        {"name": "owl", "accuracy": 0.5, "num": 20},
    ]
    assert task["knn"]["worst_class"]["name"] == "owl"
    assert task["knn"]["worst_groups"]["paper"]["num"] == 20
    assert task["choice"] == {"learning_rate": 10.0, "batch_norm": True, "val_accuracy": 0.875, "at_edge": True}
    assert (task["zero_shot"], values["schema_version"]) == (None, 1)
