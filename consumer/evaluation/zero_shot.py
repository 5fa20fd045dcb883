"""Zero-shot classification: the class whose description the text tower puts nearest to the image.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), section 3.1.4: every
class's name is set into several templates; their unit embeddings are averaged and made unit again, and the largest
cosine wins. Templates are fixed before anything is measured; tuned on the reported images they would no longer be.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PHOTO_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "{}")
"""For sets of photographs, where the settings name none."""

_TEXTS_AT_A_TIME = 256


def class_embeddings(
    embed_texts: Callable[[Sequence[str]], Tensor], classes: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Unit embeddings of the classes, float32 `[C, D]`.

    Args:
        embed_texts: texts to embeddings `[texts, D]`, any scale.
        classes: the names.
        templates: at least one; in each `{}` stands for the name.
    """
    texts = [template.replace("{}", name) for template in templates for name in classes]
    parts = [embed_texts(texts[start : start + _TEXTS_AT_A_TIME]) for start in range(0, len(texts), _TEXTS_AT_A_TIME)]
    unit_TCD = F.normalize(torch.cat(parts).float(), dim=1).unflatten(0, (len(templates), len(classes)))
    return F.normalize(unit_TCD.mean(dim=0), dim=1)


def zero_shot_predict(features: Tensor, classes: Tensor) -> Tensor:
    """Place of the nearest of the class embeddings `[C, D]` for each of the features `[N, D]`: int64 `[N]`."""
    return (F.normalize(features.float(), dim=1) @ classes.T).argmax(dim=1)
