"""Tiny classifiers of transformers in folders, with weights large enough that their answers differ."""

import shutil
from pathlib import Path
from typing import Any

import torch

from tests.distill.teachers.small import SENTENCES, data_of

HIDDEN: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "initializer_range": 0.3,
}  # fmt: skip
WORDS: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 16, **HIDDEN}
IMAGE: dict[str, Any] = {"num_channels": 2, "image_size": (6, 6), "patch_size": 2, **HIDDEN}
CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", WORDS),
    "electra": ("ElectraForSequenceClassification", "ElectraConfig", {"embedding_size": 8, **WORDS}),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": 50, "initializer_range": 0.3},
    ),
    "gpt2": (
        "GPT2ForSequenceClassification",
        "GPT2Config",
        {"vocab_size": 50, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "pad_token_id": 0},
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", IMAGE),
    "deit": ("DeiTForImageClassification", "DeiTConfig", IMAGE),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"num_channels": 2, "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"},
    ),
    "mobilenet": (
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        {"num_channels": 2, "depth_multiplier": 0.1, "initializer_range": 0.5},
    ),
    "ast": (
        "ASTForAudioClassification",
        "ASTConfig",
        {"max_length": 17, "num_mel_bins": 8, "patch_size": 4, "frequency_stride": 4, "time_stride": 3, **HIDDEN},
    ),
    "wav2vec": (
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        {
            "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 4), "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, **HIDDEN,
        },
    ),
}  # fmt: skip
TEXTS = ("bert", "electra", "distilbert", "gpt2")
SHAPES = {"vit": (2, 6, 6), "deit": (2, 6, 6), "resnet": (2, 16, 16), "mobilenet": (2, 32, 32), "ast": (1, 17, 8)}
LENGTH = 8


def task_tokenizer() -> Path:
    return data_of(SENTENCES).file("tokenizer.json")


def write(folder: Path, kind: str, classes: int = 3, **settings: Any) -> Any:
    """Save a model of this kind; one of text with the tokenizer of the sentences."""
    import transformers

    model_class, config_class, given = CLASSES[kind]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = getattr(transformers, config_class)(**{**given, "num_labels": classes, **settings})
        model = getattr(transformers, model_class)(config).eval()
        for name, one in [*model.named_parameters(), *model.named_buffers()]:
            is_bias = name.endswith("bias") and isinstance(one, torch.nn.Parameter) and kind != "gpt2"
            if is_bias or ("token" in name and one.ndim == 3) or "running_mean" in name:
                torch.nn.init.normal_(one.data, std=0.3)
    model.save_pretrained(folder)
    if kind in TEXTS:
        shutil.copy(task_tokenizer(), folder / "tokenizer.json")
    return model
