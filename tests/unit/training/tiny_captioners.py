"""Captioning models of the real classes, tiny and random, in folders as the hub has them."""

import json
from pathlib import Path

WORDS = "a woman in red dress on stage photo of".split()
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
}


def bert_tokenizer(folder: Path):
    from transformers import BertTokenizer

    folder.mkdir()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(tokens), "utf-8")
    return BertTokenizer.from_pretrained(str(folder))


def make_blip(folder: Path) -> None:
    import transformers as t

    tokenizer = bert_tokenizer(folder)
    text = {**TEXT, "vocab_size": len(tokenizer), "sep_token_id": 3, "encoder_hidden_size": 32}
    config = t.BlipConfig(text_config=text, vision_config=VISION, projection_dim=32)
    t.BlipForConditionalGeneration(config).save_pretrained(folder)
    pictures = t.BlipImageProcessor(size={"height": 32, "width": 32})
    t.BlipProcessor(pictures, tokenizer).save_pretrained(folder)


def make_git(folder: Path) -> None:
    import transformers as t

    tokenizer = bert_tokenizer(folder)
    config = t.GitConfig(vision_config=VISION, vocab_size=len(tokenizer), **TEXT)
    t.GitForCausalLM(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    pictures = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    t.GitProcessor(pictures, tokenizer).save_pretrained(folder)


def make_florence(folder: Path) -> None:
    """Florence-2 with one byte per token; it may not end early, so that it says something."""
    import transformers as t

    folder.mkdir()
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in visible] + [chr(256 + i) for i in range(256 - len(visible))]
    vocabulary = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    tokenizer = t.BartTokenizer.from_pretrained(
        str(folder), extra_special_tokens={"image_token": "<image>"}
    )
    pictures = t.CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    pictures.image_seq_length = 17
    t.Florence2Processor(pictures, tokenizer).save_pretrained(folder)
    vision = {
        "embed_dim": [8, 16],
        "num_heads": [1, 2],
        "num_groups": [1, 2],
        "depths": [1, 1],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "window_size": 2,
        "projection_dim": 16,
    }
    text = {
        "model_type": "bart",
        "vocab_size": len(tokenizer),
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "max_position_embeddings": 400,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }
    config = t.Florence2Config(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.image_token_id,
        is_encoder_decoder=True,
    )
    model = t.Florence2ForConditionalGeneration(config)
    model.generation_config.bad_words_ids = [[2], [0], [1]]
    model.save_pretrained(folder)


MAKERS = {"blip": make_blip, "git": make_git, "florence2": make_florence}
