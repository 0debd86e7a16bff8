# SPDX-License-Identifier: MIT
"""Times a training step of the DDL Transformer (forward, cross-entropy, backward) in PyTorch and in ddl, in one process.

    python3 bench/pytorch/compare_transformer.py [--threads 16] [--eigen /usr/include/eigen3]

4 layers, d = 256, 4 heads of 64, vocabulary 256; 4 sequences of 256 tokens, float. Both have the same weights; loss and
gradients are compared before anything is timed. Each figure is the best of several bursts, ours and theirs in turn.
Modes are ddl::Memory's. "MiB" is by how much a process grew at its largest while it made the model and took three steps;
PyTorch keeps all activations. transformer.py checks PyTorch's model against reference numbers.
"""
import argparse
import ctypes
import json
import os
import struct
import subprocess
import sys
import tempfile

import torch

from support import arguments, best, build_library
from transformer import Settings, Transformer, error, largest, loss_of, read_safetensors

MODES = ["training", "reversible", "reversible_recompute"]
VARIANTS = ["vdim1", "tc", "tc_ec", "cc", "cc_ec"]
CONFIG = dict(vocab_size=256, num_hidden_layers=4, num_attention_heads=4, head_dim=64, hidden_size=256, block_size=256)
BATCH, LENGTH = 4, 256


def make_model(variant):
    torch.manual_seed(1)
    model = Transformer(Settings(variant, **CONFIG))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "conv" in name or "compress" in name or "readout" in name:
                p.add_(0.1 * torch.randn_like(p))
            elif name.endswith("wte.weight"):
                p.mul_(0.02)
    return model


def save(model, path):
    """As the authors' checkpoints."""
    header, data = {"__metadata__": dict(variant=model.s.variant, config=json.dumps(CONFIG))}, b""
    for name, p in model.named_parameters():
        if "shortconv" in name:
            p = p.squeeze(1)
        values = p.detach().numpy().tobytes()
        header[name] = dict(dtype="F32", shape=list(p.shape), data_offsets=[len(data), len(data) + len(values)])
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


class Ours:
    def __init__(self, lib, path, threads, mode):
        lib.ddl_make.restype = ctypes.c_void_p
        lib.ddl_step.restype = ctypes.c_float
        self.lib, self.made = lib, ctypes.c_void_p(lib.ddl_make(path.encode(), ctypes.c_long(threads), MODES.index(mode)))

    def __del__(self):
        self.lib.ddl_free(self.made)

    def step(self, tokens, targets):
        sizes = (ctypes.c_long(size) for size in tokens.shape)
        return self.lib.ddl_step(self.made, *(ctypes.c_void_p(t.data_ptr()) for t in (tokens, targets)), *sizes)

    def gradient(self, path):
        self.lib.ddl_save_gradient(self.made, path.encode())
        return read_safetensors(path)[1]


def theirs(model, tokens, targets):
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, tokens, targets)
    loss.backward()
    return loss.item()


def batch():
    torch.manual_seed(2)
    return [torch.randint(0, 256, (BATCH, LENGTH), dtype=torch.int32) for _ in range(2)]


def compare(library, threads, variant, path):
    lib = ctypes.CDLL(library)
    tokens, targets = batch()
    long_tokens, long_targets = tokens.long(), targets.long()
    model = make_model(variant)
    save(model, path)
    steps = []
    for mode in MODES:
        ours = Ours(lib, path, threads, mode)
        losses = ours.step(tokens, targets), theirs(model, long_tokens, long_targets)
        gradient = ours.gradient(path + ".gradient")
        off = largest([error(gradient[name], p.grad) for name, p in model.named_parameters()])
        if not (abs(losses[0] - losses[1]) <= 1e-5 * losses[1] and off <= 1e-4):
            sys.exit(f"{variant}, {mode}: losses {losses}, gradients differ by {off:.1e}: nothing was timed")
        steps.append(lambda ours=ours: ours.step(tokens, targets))
    return best([*steps, lambda: theirs(model, long_tokens, long_targets)], 3)


def growth(library, threads, variant, path, who):
    """In MiB, in this process, which has taken a step on 8 tokens before: code and threads do not count."""
    lib = ctypes.CDLL(library)

    def steps(tokens, targets):
        if who == "pytorch":
            model = make_model(variant)
            for _ in range(3):
                theirs(model, tokens.long(), targets.long())
        else:
            ours = Ours(lib, path, threads, who)
            for _ in range(3):
                ours.step(tokens, targets)

    def kib(key):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(key))

    tokens, targets = batch()
    steps(tokens[:1, :8].contiguous(), targets[:1, :8].contiguous())
    ctypes.CDLL(None).malloc_trim(0)  # or what those steps gave back would be had for nothing
    before = kib("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark starts again
    steps(tokens, targets)
    return (kib("VmHWM") - before) / 1024


def main():
    options = arguments(__doc__, variants=dict(nargs="*", default=VARIANTS),
                        growth=dict(nargs=4, help=argparse.SUPPRESS))
    torch.set_num_threads(options.threads)
    if options.growth:
        library, variant, path, who = options.growth
        return print(growth(library, options.threads, variant, path, who))
    library = build_library("transformer_library.cpp", options.eigen, options.flags)
    print(f"PyTorch {torch.__version__}, {os.cpu_count()} hardware threads, {torch.backends.cpu.get_cpu_capability()}")
    print("\n| threads | variant | mode | ddl ms | PyTorch ms | PyTorch / ddl | ddl MiB | PyTorch MiB | ddl / PyTorch |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for variant in options.variants:
        path = os.path.join(tempfile.mkdtemp(), variant + ".safetensors")
        times = compare(library, options.threads, variant, path)
        grown = [
            float(subprocess.run([sys.executable, __file__, "--threads", str(options.threads), "--growth", library,
                                  variant, path, who], check=True, stdout=subprocess.PIPE).stdout)
            for who in (*MODES, "pytorch")]
        for mode, time, size in zip(MODES, times, grown):
            print(f"| {options.threads} | {variant} | {mode} | {time*1e3:.1f} | {times[-1]*1e3:.1f} | {times[-1]/time:.2f} |"
                  f" {size:.0f} | {grown[-1]:.0f} | {size/grown[-1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
