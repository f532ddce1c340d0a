"""Compiles the fused kernels for compute capability 9.0, no card needed: prints what each needs.

Run by ``test_kernels_compile.py`` in a process of its own, since the tests' process interprets kernels.
"""

import json
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hrfr_fast.data.augment import AugmentSettings
from hrfr_fast.engines.renderer import Renderer, Source
from hrfr_fast.engines.resample_triton import compose, render

TYPES = {
    "images": "*bf16", "out_labels": "*i64", "pixels": "*u8", "labels": "*i64", "table": "*i32", "counter": "*i64",
    "settings": "*fp32", "matrices": "*fp16", "seed": "i32", "skip": "i32", "epoch_length": "i32", "slots": "i32",
    "begin": "i32", "end": "i32",
}  # fmt: skip
EVERYTHING = AugmentSettings(saturation=0.5, blur=0.5, erase=0.5, degrade=0.6)


def compiled(kernel, constants, registers):
    signature = {name: TYPES.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if signature[n][0] == "*"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": False, "maxnreg": registers}
    result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return {"shared": result.metadata.shared, "wgmma": "wgmma" in result.asm["ptx"], "bytes": len(result.asm["cubin"])}


def main(size, side):
    source = Source(torch.empty((1, size, size, 3), dtype=torch.uint8), 0)
    found = {}
    for name, settings in (("default", AugmentSettings()), ("everything", EVERYTHING)):
        renderer = Renderer(source, side, settings, 0)
        found[name] = compiled(render, renderer.constants | {"LEVELS": False}, renderer.tiles.registers)
    found["compose"] = compiled(compose, renderer.compose_constants, None)
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
