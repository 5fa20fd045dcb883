"""What a run leaves behind at its end: the encoder, the pair with its text tower, the summary, the one picture."""

from collections.abc import Iterator, Sequence

from transformers import ViTModel

from penstock.consumer.config import TrainConfig
from penstock.consumer.evaluation.online import ToyWorldEvaluation
from penstock.consumer.export import save_encoder, save_pair
from penstock.consumer.filter_counts import FilterTotals
from penstock.consumer.network import Network
from penstock.consumer.prefetch import Prefetcher
from penstock.consumer.record import Record
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.tokenizer import CaptionTokenizer
from penstock.telemetry.picture import History, draw
from penstock.telemetry.summary import MAX_NAMED, ConceptGroups, Filtered, FilteredConcept, Knn, Summary

_PICTURED_GROUPS = 6


def export(folder: RunFolder, config: TrainConfig, network: Network, tokenizer: CaptionTokenizer | None) -> None:
    """Write the encoder, and with its text tower the zero-shot pair, as Hugging Face folders. For rank 0."""
    save_encoder(network.exported, folder.encoder, config.augment)
    language = network.language
    if tokenizer is not None and network.text_tower is not None and language is not None:
        save_pair(folder.pair, network.exported, network.text_tower, language, tokenizer, config.augment)


def leave_behind(
    folder: RunFolder,
    config: TrainConfig,
    encoder: ViTModel,
    evaluation: ToyWorldEvaluation | None,
    record: Record,
    batches: Prefetcher,
    world_size: int,
    concepts: Sequence[str],
) -> Summary:
    """Write summary and picture; they tell all lives of the run. For rank 0.

    Args:
        encoder: what the run has trained.
        evaluation: measures the encoder once more; None where nothing is measured.
        record: of all lives.
        batches: closed; its newest groups are pictured.
        world_size: of this life.
        concepts: names of the prompts' concepts.

    Returns:
        What stands in `summary.json`.
    """
    totals = record.totals
    summary = Summary(
        run_id=folder.run_id,
        seconds=totals.seconds,
        producers=totals.producers_seen,
        world_size=world_size,
        steps=totals.steps,
        images_generated=totals.images_made,
        images_trained=totals.images_trained,
        reuse_factor=totals.reuse,
        groups_by_uses=totals.groups_by_uses,
        producer_images_per_s=totals.made_per_s,
        trainer_images_per_s=totals.trained_per_s,
        data_wait_fraction=totals.data_wait,
        bytes_received=totals.bytes_received,
        messages_rejected=totals.rejected,
        tickets_expired=totals.expired,
        tickets_hedged=totals.hedged,
        tickets_quarantined=totals.quarantined,
        image_bytes_written=folder.image_bytes(),
        knn=Knn(
            before=record.knn_before,
            after=evaluation.test(encoder) if evaluation else None,
            raw_scans_after=evaluation.raw_test(encoder) if evaluation else None,
            pixels=evaluation.pixels() if evaluation else None,
            k=config.evaluation.k,
            temperature=config.evaluation.temperature,
        ),
        objective=config.objective.name,
        steps_skipped=record.steps_skipped,
        rankme=record.rankme[-1][1] if record.rankme else None,
        filter=_filtered(record, concepts),
        concepts=ConceptGroups.of(concepts, totals.groups_by_concept) if concepts else None,
    )
    summary.write(folder.summary)
    groups = [(group.ticket.recipe.prompt, group.images) for group in batches.newest(_PICTURED_GROUPS)]
    if groups:
        draw(folder.picture, groups, History(loss=record.loss, knn=record.knn), summary)
    return summary


def _filtered(record: Record, concepts: Sequence[str]) -> Filtered | None:
    """What the filter did, the concepts of which it rejected the largest share first; None where nothing filtered."""
    totals = FilterTotals.of(record.totals.filter_counts)
    if totals is None:
        return None
    names = [*concepts, "(none)"]
    counted = [(rejected / made, name, made, rejected) for name, made, rejected in _made(names, totals)]
    return Filtered(
        made=sum(totals.made),
        rejected=sum(totals.rejected),
        unsatisfied=totals.unsatisfied,
        by_concept={
            name: FilteredConcept(made=made, rejected=rejected)
            for _, name, made, rejected in sorted(counted, key=lambda entry: -entry[0])[:MAX_NAMED]
        },
        hardest_prompts=dict(record.hardest_prompts),
    )


def _made(names: Sequence[str], totals: FilterTotals) -> Iterator[tuple[str, int, int]]:
    """Name, images made and images rejected of the concepts of which any was made."""
    for name, made, rejected in zip(names, totals.made, totals.rejected, strict=True):
        if made:
            yield name, made, rejected
