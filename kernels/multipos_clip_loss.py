"""Multi-positive contrastive loss of images against texts: the language part of StableRep+ (arXiv 2306.00984).

The mean of image-to-text and text-to-image contrast, where a caption has as many positives as images were made from
it. With one image a caption it is CLIP's symmetric loss (arXiv 2103.00020, figure 3). The formulas stand in `contrast`.
"""

from torch import Tensor
from torch.distributed import ProcessGroup

from penstock.kernels.backends import Backend
from penstock.kernels.contrast import check_rows, check_temperature
from penstock.kernels.contrast_by_backend import contrast_by


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
    direction forms the similarities anew, 12 N K D FLOP in all: half of that would do in one process, but K is
    small beside N where captions have several images.

    Args:
        image_features: `[n, D]` floating point, not necessarily normalised; n may differ between ranks.
        text_features: `[k, D]`, likewise.
        image_labels: int64 `[n]` on the same device.
        text_labels: int64 `[k]`; may repeat.
        temperature: > 0, CLIP's is 1 / exp(logit scale); a one-element tensor may require grad (its value is
            not checked, which would wait for the device).
        group: ranks that share the batch; None means that this process is alone.
        backend: see `penstock.kernels.backends`.
        chunk_size: as in `multipos_loss`.

    Returns:
        Scalar, float32 (float64 where both kinds of features are float64).

    Raises:
        ValueError: wrong shapes, labels that are not int64, a temperature or chunk_size that is not positive,
            no images or no texts on any rank, a backend that is unknown or cannot work on these features.
    """
    check_rows("image_features", image_features, "image_labels", image_labels)
    check_rows("text_features", text_features, "text_labels", text_labels)
    if image_features.shape[1] != text_features.shape[1]:
        widths = f"{image_features.shape[1]} and {text_features.shape[1]}"
        raise ValueError(f"image_features and text_features must be equally wide, got {widths}")
    check_temperature(temperature)
    features, labels = [image_features, text_features], [image_labels, text_labels]
    return contrast_by(backend, features, labels, temperature, group, chunk_size)
