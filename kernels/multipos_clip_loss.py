"""Multi-positive contrastive loss of images against texts: the language part of StableRep+ (arXiv 2306.00984).

The mean of image-to-text and text-to-image contrast, where a caption has as many positives as images were made from
it. With one image a caption it is CLIP's symmetric loss (arXiv 2103.00020, figure 3). The formulas stand in `contrast`.
"""

from torch import Tensor
from torch.distributed import ProcessGroup

from penstock.kernels.backends import Backend
from penstock.kernels.contrast_by_backend import contrast_by
from penstock.kernels.contrast_inputs import Rows, check_alike, check_temperature


def multipos_clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    image_labels: Tensor,
    text_labels: Tensor,
    *,
    temperature: float | Tensor,
    group: ProcessGroup | None = None,
    backend: Backend = "auto",
    chunk_size: int | None = None,
) -> Tensor:
    """(image to text + text to image) / 2, each the mean over its rows on every rank in `group`.

    An image's positives are the texts with its label, usually one; a text's are the images with its label. A
    row without positives loses nothing and still is a negative for the others. Images are not compared with
    images, nor texts with texts.

    Precision, gradients and the group are as in `multipos_loss`; both kinds of rows travel in one gather. Each
    direction forms the similarities anew, forward and backward, 12 N K D FLOP in all: one process could form each tile
    for both directions at once, 8 N K D. But K is small beside N where captions have several images, and the images'
    own contrast takes 4 N N D.

    Args:
        image_features: `[n, D]` floating point, not necessarily normalised; n may differ between ranks.
        text_features: `[k, D]`, likewise.
        image_labels: int64 `[n]` on the same device.
        text_labels: int64 `[k]`; may repeat.
        temperature: as in `multipos_loss`; CLIP's is 1 / exp(logit scale).
        group: ranks that share the batch; None means that this process is alone.
        backend: see `penstock.kernels.backends`.
        chunk_size: as in `multipos_loss`.

    Returns:
        Scalar, float32 (float64 where both kinds of features are float64); only that of `reference` can be
        differentiated twice.

    Raises:
        ValueError: wrong shapes, labels that are not int64, anything on another device than the rest, a temperature
            that is out of bounds, chunk_size < 1, no images or no texts on any rank, a backend that is unknown or
            cannot work on these features.
        RuntimeError: in backward, where create_graph is asked of another backend than `reference`.
    """
    kinds = [
        Rows("image_features", image_features, "image_labels", image_labels),
        Rows("text_features", text_features, "text_labels", text_labels),
    ]
    check_alike(*kinds)
    check_temperature(temperature)
    return contrast_by(backend, kinds, temperature, group, chunk_size)
