"""Folders in diffusers' layout with tiny models of random weights: one of each family, its tokenizers made here.

Written by diffusers' own pipelines, so that what is read is what people have."""

from __future__ import annotations

import json

import diffusers
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

CLIP_WORDS = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "painting</w>": 3, "photo</w>": 4, "!": 5}
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
LONG = {"max_position_embeddings": 1200, "vocab_size": 300}
QWEN = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, **LONG}


def autoencoder(**options):
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        **options,
    )


def flow(**options):
    return diffusers.FlowMatchEulerDiscreteScheduler(**options)


def clip_tokenizer(folder, pad="<|endoftext|>"):
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(CLIP_WORDS))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer.from_pretrained(str(folder), model_max_length=77, pad_token=pad)


def clip(kind=transformers.CLIPTextModel, layers=3):
    config = transformers.CLIPTextConfig(
        vocab_size=6,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        projection_dim=32,
        bos_token_id=0,
        eos_token_id=1,
    )
    return kind(config).eval()


def t5(width):
    config = transformers.T5Config(
        vocab_size=300, d_model=width, d_kv=16, d_ff=32, num_layers=1, num_heads=2, is_encoder_decoder=False
    )
    return transformers.T5EncoderModel(config).eval()


def byte_tokenizer(folder):
    """A word for each byte, as of Qwen's tokenizer without its merges."""
    folder.mkdir(parents=True)
    words = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.Qwen2Tokenizer.from_pretrained(str(folder), chat_template=CHAT)


def sd_xl(made):
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=(2, 4),
        cross_attention_dim=64,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
        ),
        text_encoder=clip(),
        text_encoder_2=clip(transformers.CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(made / "1"),
        tokenizer_2=clip_tokenizer(made / "2", pad="!"),
    )


def sd3(made):
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=autoencoder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clip(transformers.CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(made / "1"),
        text_encoder_2=clip(transformers.CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer(made / "2", pad="!"),
        text_encoder_3=t5(64),
        tokenizer_3=byte_tokenizer(made / "3"),
    )


def flux(made, **options):
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    return diffusers.FluxPipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=autoencoder(shift_factor=0.1, scaling_factor=0.4),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(made / "1"),
        text_encoder_2=t5(32),
        tokenizer_2=byte_tokenizer(made / "2"),
    )


def flux2(made):
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
        timestep_guidance_channels=32,
    )
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
    )
    vae.bn.running_mean.uniform_(-1, 1), vae.bn.running_var.uniform_(0.5, 2)
    text = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(num_hidden_layers=28, head_dim=8, **QWEN))
    return diffusers.Flux2KleinPipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=vae,
        text_encoder=text.eval(),
        tokenizer=byte_tokenizer(made / "1"),
        is_distilled=True,
    )


def qwen_image(made):
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "type": "default"}
    text = transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config={"num_hidden_layers": 2, "rope_scaling": rope, **QWEN},
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "num_heads": 2,
                "intermediate_size": 16,
                "out_hidden_size": 16,
                "fullatt_block_indexes": [0],
            },
        )
    )
    return diffusers.QwenImagePipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=diffusers.AutoencoderKLQwenImage(base_dim=8, dim_mult=[1, 2, 2, 2], num_res_blocks=1),
        text_encoder=text.eval(),
        tokenizer=byte_tokenizer(made / "1"),
    )


def z_image(made):
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 4, 8],
    )
    text = transformers.Qwen3Model(transformers.Qwen3Config(num_hidden_layers=2, head_dim=8, **QWEN))
    return diffusers.ZImagePipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=autoencoder(shift_factor=0.1, scaling_factor=0.4),
        text_encoder=text.eval(),
        tokenizer=byte_tokenizer(made / "1"),
    )


FAMILIES = {
    "Stable Diffusion XL": sd_xl,
    "Stable Diffusion 3": sd3,
    "Flux": flux,
    "Flux 2": flux2,
    "Qwen-Image": qwen_image,
    "Z-Image": z_image,
}


def write(family, folder):
    """A folder of that family; what wrote it."""
    torch.manual_seed(0)
    pipeline = FAMILIES[family](folder / "made")
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.vae, getattr(pipeline, "unet", None) or pipeline.transformer):
        part.eval()
    pipeline.save_pretrained(folder / "model")
    return folder / "model", pipeline
