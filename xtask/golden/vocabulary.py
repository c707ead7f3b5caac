"""The tokenizer of the golden checkpoints: byte-level BPE of 320 tokens, and a ChatML template.

Small enough that its JSON does not outweigh the weights. Everything here is of our own making.
"""

import json

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SIZE = 320
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TEXT, IM_START, IM_END = range(3)

# Qwen2's pre-tokenizer pattern: numbers digit by digit, contractions in any case.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TEXT = """
The harbour wakes before the town does. Two tugs wait at the pier, and the crane driver counts the
containers that came in the night: one hundred and twelve of them, then the ferry, then the grain.
"Who signs for the grain?" asks the pilot. "I sign for the grain," says the harbour master, "and you
sign for the weather." There was no weather to sign for; the water was as flat as the table.
The ship came in at six. The ship went out at nine. When the ship is in, the ropes are wet and the
men are loud; when the ship is out, the ropes are dry and the gulls are loud. That is the whole of
the trade, and there is nothing in the world that the harbour master would rather do.
In the afternoon the children come with their lines and their buckets and their questions. Where does
the tide go? It goes where the moon tells it. What does the lighthouse say? It says: here, here, here.
The answer is the same in each language: le port, el puerto, der Hafen, il porto, o porto, liman.
At the end of the day the ledger is closed: 112 in, 98 out, 14 on the quay; 3.5 metres of water over
the bar at the lowest of the tide. The pilot goes home along the wall, and the light turns, and turns.
"""

# Texts whose ids are kept beside the logits: ASCII, accents, another script, emoji, spaces, digits.
SAMPLES = [
    "The ship came in at six.",
    "<|im_start|>user\nWhere does the tide go?<|im_end|>\n",
    "  two  spaces\n\n\tand a tab, 1234567 and 3.5",
    "Änderung, château, гавань, 港口, 🚢⚓️!",
    "it's I'LL don't WE'RE",
]

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""


def build(pre: str) -> Tokenizer:
    """`pre` is the pre-tokenizer by GGUF's name: "gpt-2" or "qwen2"."""
    tokenizer = Tokenizer(models.BPE())
    if pre == "qwen2":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.strip().split("\n"), trainer)
    assert tokenizer.get_vocab_size() == SIZE
    return tokenizer


def write(folder, tokenizer: Tokenizer, template_in_config: bool) -> None:
    """tokenizer.json, tokenizer_config.json and the chat template, in either of the places it may be."""
    tokenizer_json = json.loads(tokenizer.to_str())
    (folder / "tokenizer.json").write_text(
        json.dumps(tokenizer_json, ensure_ascii=False, separators=(",", ":")) + "\n"
    )
    config = {
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIALS[IM_END],
        "model_max_length": 256,
        "pad_token": SPECIALS[END_OF_TEXT],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if template_in_config:
        config["chat_template"] = CHAT_TEMPLATE
    else:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def samples(tokenizer: Tokenizer) -> list[dict]:
    return [
        {"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids}
        for text in SAMPLES
    ]
