"""The architecture of the shipped tiny Stable Diffusion: the original's own classes, with small sizes."""

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from penstock.toyworld.render import IMAGE_SIZE

MAX_TOKENS = 16
TEXT_WIDTH = 64


def make_autoencoder() -> AutoencoderKL:
    """Pixels [B, 3, 32, 32] in -1..1 to latents [B, 4, 8, 8] and back."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
    )


def make_unet() -> UNet2DConditionModel:
    """Denoises latents [B, 4, 8, 8] given text states [B, 16, 64]; attention at 4x4 only, for speed."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Token ids [B, 16] to states [B, 16, 64].

    CLIP's own start, embeddings of 0.02, is drowned by the first optimizer steps, and the words stay alike for long
    (measured: no digit as prompted after 700 steps); so words start far apart.
    """
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = CLIPTextModel(config)
    nn.init.normal_(model.get_input_embeddings().weight, std=1.0)
    return model


def make_scheduler() -> DPMSolverMultistepScheduler:
    """DPM-Solver++ 2M (arXiv 2211.01095) over Stable Diffusion's own noise schedule."""
    return DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        algorithm_type="dpmsolver++",
        solver_order=2,
        steps_offset=1,
    )
