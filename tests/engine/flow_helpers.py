"""What the tests of the rectified-flow families share: tiny text encoders, and our latent beside diffusers' own."""

import json
import string

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, T5Config, T5EncoderModel, T5Tokenizer

from benchmarks.tiny_model import tiny_tokenizer
from service.engine.loop import StepLoop


def clip_config(width: int) -> CLIPTextConfig:
    tokenizer = tiny_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def tiny_t5(width: int) -> tuple[T5EncoderModel, T5Tokenizer]:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_letters, *string.digits]
    tokenizer = T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)
    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return T5EncoderModel(config), tokenizer


def tiny_vae(**scaling: float) -> AutoencoderKL:
    return AutoencoderKL(
        latent_channels=4,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **scaling,
    )


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def final_latents(pipeline, *items):
    """Our clean latents [C, h, w] at the end of jobs that run together, by job id."""
    loop, jobs = StepLoop(pipeline), {}
    for item in items:
        loop.submit(item, 0.0)
    while not loop.idle:
        loop.tick()
        jobs |= {job.spec.job_id: job for job in loop._active}
    assert all(job.done for job in jobs.values())
    return {name: job.latent for name, job in jobs.items()}


def final_latent(pipeline, item):
    return final_latents(pipeline, item)[item.job_id]


def draw(pipe, item, kind, **more):
    """What diffusers' pipeline makes of a job."""
    return pipe(
        item.prompt,
        num_inference_steps=item.steps,
        guidance_scale=item.guidance_scale,
        generator=torch.Generator().manual_seed(item.seed),
        width=item.width,
        height=item.height,
        output_type=kind,
        **more,
    ).images[0]
