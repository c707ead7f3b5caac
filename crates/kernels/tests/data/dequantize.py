"""Makes dequantize.txt: two blocks of random bytes per format, decoded by the PyPI package `gguf`.

    pip install gguf==0.19.0 && python dequantize.py > dequantize.txt

A line is: format, the blocks in hex, the weights' f32 bits (little-endian) in hex.
"""

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import GGML_QUANT_SIZES, dequantize

# Where a block holds its f16 numbers; random bytes there could be infinite.
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "MXFP4": [],
}

random = np.random.default_rng(2)
for name, halves in HALVES.items():
    size = GGML_QUANT_SIZES[Type[name]][1]
    blocks = random.integers(0, 256, (2, size), dtype=np.uint8)
    for at in halves:
        numbers = (random.standard_normal((2, 1)) * 0.05).astype(np.float16)
        blocks[:, at : at + 2] = numbers.view(np.uint8)
    if name == "MXFP4":
        # Exponents whose powers of two are f16 numbers.
        blocks[:, 0] = (108, 137)
    weights = dequantize(blocks, Type[name]).astype("<f4")
    print(name, blocks.tobytes().hex(), weights.tobytes().hex())
